package arena

import (
	"fmt"
	"math/bits"
)

// Check verifies the invariants of the package comment and returns the first
// that does not hold. It takes the lock for as long as it takes: for tests and
// for the invariants tag.
func (a *Arena) Check() error {
	a.trimMu.Lock() // a slab whose pages are being given back is counted nowhere
	defer a.trimMu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.blocks+a.charged > a.cap || a.now.Load() != a.blocks+a.charged || a.peak > a.cap {
		return fmt.Errorf("saker: arena: M1: blocks %d, charged %d, peak %d, cap %d", a.blocks, a.charged, a.peak, a.cap)
	}
	var used int64
	stacked := make(map[int32]int)
	for i := range a.slabs[:a.fresh] {
		s := &a.slabs[i]
		if s.free == 0 && s.starts == 0 {
			continue // trimmed
		}
		if s.starts&s.free != 0 || s.starts == 0 && s.free != wholeSlab {
			return fmt.Errorf("saker: arena: slab %d: free %#x, starts %#x", i, s.free, s.starts)
		}
		if s.run != longestRun(s.free) {
			return fmt.Errorf("saker: arena: slab %d: in stack %d, longest run %d", i, s.run, longestRun(s.free))
		}
		if s.run != 0 {
			stacked[s.run]++
		}
		used += int64(slabUnits-bits.OnesCount64(s.free)) * UnitSize
	}
	if used != a.blocks {
		return fmt.Errorf("saker: arena: %d bytes in slabs, %d counted", used, a.blocks)
	}
	for run := range int32(slabUnits + 1) {
		n, prev := 0, int32(0)
		for i := a.heads[run]; i != 0; i = a.slabs[i-1].next {
			if s := &a.slabs[i-1]; s.run != run || s.prev != prev {
				return fmt.Errorf("saker: arena: slab %d in stack %d says stack %d", i-1, run, s.run)
			}
			prev = i
			n++
		}
		if n != stacked[run] || (run < slabUnits && (n > 0) != (a.present&(1<<run) != 0)) {
			return fmt.Errorf("saker: arena: stack %d has %d slabs, want %d", run, n, stacked[run])
		}
	}
	return nil
}
