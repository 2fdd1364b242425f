package arena

// Charge counts n bytes of Go heap against the cap, if they fit; else it counts
// nothing and returns false.
func (a *Arena) Charge(n int64) bool {
	a.mu.Lock()
	ok := a.blocks+a.charged+n <= a.cap
	if ok {
		a.charged += n
		a.publishLocked()
	}
	a.mu.Unlock()
	return ok
}

// Uncharge takes back what was charged.
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

// Reserved returns the bytes of all blocks and charges. It takes no lock.
func (a *Arena) Reserved() int64 { return a.now.Load() }

// Cap returns the greatest value that Reserved may have.
func (a *Arena) Cap() int64 { return a.cap }

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
