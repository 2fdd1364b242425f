package arena

// Trim gives the pages of slabs without a block back to the operating system
// and returns their bytes. It is for the quiet after a burst, and for when
// charges have taken the place of blocks: the cap bounds reserved bytes, pages
// once touched stay until then.
//
// Slabs are taken out one at a time and their pages dropped without the lock,
// so that nobody waits for the kernel.
func (a *Arena) Trim() int64 {
	a.trimMu.Lock() // so that Close does not unmap what is being given back
	defer a.trimMu.Unlock()
	var n int64
	for {
		i, ok := a.takeWhole()
		if !ok {
			return n
		}
		a.mem.release(i)
		n += slabSize
		a.mu.Lock()
		a.trimmed = append(a.trimmed, i)
		a.mu.Unlock()
	}
}

// Touched returns the bytes of record memory whose pages may be resident.
func (a *Arena) Touched() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(int64(a.fresh)*slabSize, a.mem.touchedAhead()) - int64(len(a.trimmed))*slabSize
}

// takeWhole removes a touched slab without a block from its stack.
func (a *Arena) takeWhole() (int32, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.heads[slabUnits] - 1
	if i < 0 || a.closed {
		return 0, false
	}
	s := &a.slabs[i]
	s.free = 0
	a.restackLocked(i, s)
	return i, true
}
