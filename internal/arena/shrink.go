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
	if n <= 0 || n > len(b) {
		panic(fmt.Sprintf("saker: arena: shrink of %d bytes to %d", len(b), n))
	}
	if keep*UnitSize == len(b) {
		return b
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cutLocked(b, keep)
	a.publishLocked()
	return b[: keep*UnitSize : keep*UnitSize]
}
