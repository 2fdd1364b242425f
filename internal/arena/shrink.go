package arena

import "fmt"

// Shrink gives back the tail of a block that n bytes do not need and returns the
// rest, its contents kept. It cannot fail, so compacting in place needs no
// memory (M2).
//
// REQUIRES: b is a block, 0 < n ≤ len(b).
func (a *Arena) Shrink(b []byte, n int) []byte {
	b = b[:cap(b)]
	keep := (n + UnitSize - 1) / UnitSize
	units := len(b) / UnitSize
	if n <= 0 || keep > units {
		panic(fmt.Sprintf("saker: arena: shrink of %d bytes to %d", len(b), n))
	}
	if keep == units {
		return b
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i, at, ok := a.mem.find(b)
	if !ok || !a.isBlock(i, at, units) {
		panic("saker: arena: shrink of what is no block")
	}
	a.mem.dropTail(b[keep*UnitSize:])
	s := &a.slabs[i]
	a.places -= placesIn(s.free)
	s.free |= unitMask(at+keep, units-keep)
	a.places += placesIn(s.free)
	a.restackLocked(i, s)
	a.blocks -= int64(units-keep) * UnitSize
	a.publishLocked()
	return b[: keep*UnitSize : keep*UnitSize]
}
