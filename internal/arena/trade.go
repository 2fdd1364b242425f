package arena

// AllocCharge is Alloc of n bytes and Charge of charge in one step: both or
// neither. Who needs both, and took one first, could hold it while others hold
// the other.
func (a *Arena) AllocCharge(n int, charge int64) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.allocLocked(n, charge)
	if b != nil {
		a.charged += charge
		a.publishLocked()
	}
	return b
}

// Trade charges n bytes in place of what a block gives back: all of it, or what
// lies behind its first keep bytes, if keep is not 0. It returns the rest of the
// block. It reports false, and does nothing, if that is less than n. So a charge
// that is paid for this way needs no memory (M2), and nobody comes between.
//
// REQUIRES: b is a block, 0 ≤ keep ≤ len(b), n ≥ 0.
func (a *Arena) Trade(b []byte, keep int, n int64) ([]byte, bool) {
	b = b[:cap(b)]
	units, rest := len(b)/UnitSize, (keep+UnitSize-1)/UnitSize
	if int64(units-rest)*UnitSize < n {
		return b, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cutLocked(b, rest)
	a.charged += n
	a.publishLocked()
	return b[: rest*UnitSize : rest*UnitSize], true
}
