//go:build unix && !race && !saker_invariants

package arena

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is one anonymous mapping of all slabs, of huge pages where it is large:
// a random read costs a third less with them, for the walk of the page tables
// misses the caches as the read itself does. The first touch of a huge page takes 2
// to 6 ms in one piece, so a goroutine touches them ahead of their use.
type memory struct {
	b      []byte
	mapped []byte       // what was mapped: b, aligned
	warmed atomic.Int64 // bytes of b that are touched or about to be
	huge   bool
}

const (
	hugePage = 2 << 20
	// minHuge is the least size that huge pages serve: what is touched for
	// nothing, three of them at most, is then little of it.
	minHuge = 64 << 20
)

func (m *memory) open(n int64) (err error) {
	m.huge = n >= minHuge
	size := n
	if m.huge {
		size += hugePage
	}
	m.mapped, err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	m.b = m.mapped[:n:n]
	if m.huge {
		past := uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))) % hugePage
		at := int((hugePage - past) % hugePage)
		m.b = m.mapped[at : at+int(n) : at+int(n)]
		m.huge = adviseHuge(m.b)
	}
	return nil
}

func (m *memory) close() error { return unix.Munmap(m.mapped) }

// warmNext reports whether memory that will soon be used, the first used bytes of it
// being in use, should be touched ahead by warm; it claims it.
func (m *memory) warmNext(used int64) (from int64, ok bool) {
	from = m.warmed.Load()
	if !m.huge || used+hugePage/2 < from || from >= int64(len(m.b)) {
		return 0, false
	}
	m.warmed.Store(min(from+hugePage, int64(len(m.b))))
	return from, true
}

// warm touches the huge page at from.
func (m *memory) warm(from int64) { populate(m.b[from:min(from+hugePage, int64(len(m.b)))]) }

// touchedAhead returns the bytes from the start that may be resident for warm's sake.
func (m *memory) touchedAhead() int64 { return m.warmed.Load() }

// take returns the bytes of a block.
func (m *memory) take(slab int32, at, units int) []byte {
	lo := int(slab)*slabSize + at*UnitSize
	hi := lo + units*UnitSize
	return m.b[lo:hi:hi]
}

// find says where a block is that take returned.
func (m *memory) find(b []byte) (slab int32, at int, ok bool) {
	off := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(m.b)))
	if off >= uintptr(len(m.b)) || off%UnitSize != 0 {
		return 0, 0, false
	}
	return int32(off / slabSize), int(off%slabSize) / UnitSize, true
}

// drop is told of every block that is freed.
func (m *memory) drop([]byte) {}

// release gives a slab's pages back. That it may fail is no matter: the pages
// stay, and so do their contents, which nobody wants.
func (m *memory) release(slab int32) {
	lo := int(slab) * slabSize
	_ = unix.Madvise(m.b[lo:lo+slabSize], unix.MADV_DONTNEED)
}

// dropTail forgets the end of a block that was shrunk.
func (m *memory) dropTail([]byte) {}
