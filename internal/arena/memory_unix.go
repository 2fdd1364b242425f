//go:build unix && !race && !invariants

package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is one anonymous mapping of all slabs. Huge pages were tried
// (MADV_HUGEPAGE): random reads are a fifth faster, but the first touch of each
// takes 2 to 6 ms in one piece, perhaps under a leaf lock, where 4 KiB take 2 µs.
type memory struct {
	b []byte
}

func (m *memory) open(n int64) (err error) {
	m.b, err = unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return err
}

func (m *memory) close() error { return unix.Munmap(m.b) }

// take returns the bytes of a block.
func (m *memory) take(slab int32, at, units int) []byte {
	lo := int(slab)*MaxBlock + at*UnitSize
	hi := lo + units*UnitSize
	return m.b[lo:hi:hi]
}

// find says where a block is that take returned.
func (m *memory) find(b []byte) (slab int32, at int, ok bool) {
	off := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(m.b)))
	if off >= uintptr(len(m.b)) || off%UnitSize != 0 {
		return 0, 0, false
	}
	return int32(off / MaxBlock), int(off%MaxBlock) / UnitSize, true
}

// drop is told of every block that is freed.
func (m *memory) drop([]byte) {}

// release gives a slab's pages back. That it may fail is no matter: the pages
// stay, and so do their contents, which nobody wants.
func (m *memory) release(slab int32) {
	lo := int(slab) * MaxBlock
	_ = unix.Madvise(m.b[lo:lo+MaxBlock], unix.MADV_DONTNEED)
}

// dropTail forgets the end of a block that was shrunk.
func (m *memory) dropTail([]byte) {}
