package arena

// Charge counts n bytes of Go heap against the cap, if the reserve stays free;
// else it counts nothing and returns false.
func (a *Arena) Charge(n int64) bool {
	a.mu.Lock()
	ok := a.blocks+a.charged+n <= a.limit
	if ok {
		a.charged += n
		a.publishLocked()
	}
	a.mu.Unlock()
	return ok
}

// Uncharge takes back what was charged, by either method.
func (a *Arena) Uncharge(n int64) {
	a.mu.Lock()
	if n > a.charged {
		a.mu.Unlock()
		panic("saker: arena: more was uncharged than charged")
	}
	a.charged -= n
	a.publishLocked()
	a.mu.Unlock()
}

// ChargeForce counts n bytes that already exist, or must: it may use the
// reserve, and it cannot refuse. Callers force only what is small and soon
// undone (what a rollback or the scavenger needs), together less than
// ReserveBytes; if they do not, Overdrawn says by how much M1 was broken, and
// Alloc and Charge fail until it is made good.
func (a *Arena) ChargeForce(n int64) {
	a.mu.Lock()
	a.charged += n
	a.over = max(a.over, a.blocks+a.charged-a.cap)
	a.publishLocked()
	a.mu.Unlock()
}

// Reserved returns the bytes of all blocks and charges. It takes no lock.
func (a *Arena) Reserved() int64 { return a.now.Load() }

// Cap returns the greatest value that Reserved may have.
func (a *Arena) Cap() int64 { return a.cap }

// ReserveBytes returns how much of Cap is for AllocReserve and ChargeForce only.
func (a *Arena) ReserveBytes() int64 { return a.cap - a.limit }

// Peak returns the greatest value that Reserved ever had.
func (a *Arena) Peak() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.peak
}

// Charged returns the bytes charged.
func (a *Arena) Charged() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.charged
}

// Blocks returns the bytes of all blocks.
func (a *Arena) Blocks() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks
}

// Overdrawn returns the most that Reserved ever exceeded Cap by: zero, or a
// caller of ChargeForce is at fault.
func (a *Arena) Overdrawn() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}
