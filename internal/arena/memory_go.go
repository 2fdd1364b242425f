//go:build !unix || race || saker_invariants

package arena

import (
	"fmt"
	"unsafe"
)

// poison fills what is free.
const poison = 0xDB

// memory is one Go slice per slab, made when the slab is first used: the race
// detector and checkptr see it, and use after free shows.
type memory struct {
	slabs [][]byte
	live  map[*byte]place
}

type place struct {
	slab int32
	at   int
}

func (m *memory) open(n int64) error {
	m.slabs = make([][]byte, n/slabSize)
	m.live = make(map[*byte]place)
	return nil
}

func (m *memory) close() error {
	m.slabs, m.live = nil, nil
	return nil
}

func (m *memory) take(slab int32, at, units int) []byte {
	if m.slabs[slab] == nil {
		m.slabs[slab] = make([]byte, slabSize)
		fill(m.slabs[slab])
	}
	lo := at * UnitSize
	hi := lo + units*UnitSize
	b := m.slabs[slab][lo:hi:hi]
	for i, c := range b {
		if c != poison {
			panic(fmt.Sprintf("saker: arena: byte %d of a free block was written: %#x", i, c))
		}
	}
	m.live[unsafe.SliceData(b)] = place{slab, at}
	return b
}

func (m *memory) find(b []byte) (slab int32, at int, ok bool) {
	p, ok := m.live[unsafe.SliceData(b)]
	return p.slab, p.at, ok
}

func (m *memory) drop(b []byte) {
	delete(m.live, unsafe.SliceData(b))
	fill(b)
}

// release keeps the slab: nothing is measured under these tags, and a slab that
// is poisoned finds more faults than a new one.
func (m *memory) release(int32) {}

func (m *memory) warmNext(int64) (int64, bool) { return 0, false }

func (m *memory) warm(int64) {}

func (m *memory) touchedAhead() int64 { return 0 }

func fill(b []byte) {
	for i := range b {
		b[i] = poison
	}
}

// dropTail forgets the end of a block that was shrunk.
func (m *memory) dropTail(tail []byte) { fill(tail) }
