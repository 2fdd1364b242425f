package recordcache

import (
	"encoding/binary"
	"sync/atomic"
)

// leafIndex guesses the leaf of a key with fewer cache misses than a search of
// the directory takes: the heads of all low fences in one array, eight to a cache
// line. It is never believed, only tried: what it names is locked and asked
// whether it covers the key, and the directory decides if not. So it need not
// follow every change; after enough of them it is dropped, and made anew once the
// searches without it have cost as much as making it.
type leafIndex struct {
	prefix string // of all fences but the first; what follows it makes the heads
	heads  []uint64
	leaves []*Leaf
}

// indexState is a table's leaf index and what decides on its life.
type indexState struct {
	p        atomic.Pointer[leafIndex]
	changes  int          // of the directory since the index was made; guarded by Table.mu
	size     atomic.Int64 // leaves in it
	leaves   atomic.Int64 // in the directory
	searches atomic.Int64 // of the directory since there is none
	building atomic.Bool
}

// minIndexed is the number of leaves from which on an index is worth its memory.
const minIndexed = 64

// headAfter returns the eight bytes of key from prefix on, as a number in key order.
func headAfter(key []byte, prefix int) uint64 {
	if len(key) >= prefix+8 {
		return binary.BigEndian.Uint64(key[prefix:])
	}
	return dirHead(key[min(prefix, len(key)):])
}

// guess returns a leaf that may cover key, or nil. REQUIRES: the caller asks the
// leaf under its lock.
func (t *Table) guess(key []byte) *Leaf {
	ix := t.index.p.Load()
	if ix == nil {
		t.missIndex()
		return nil
	}
	n := len(ix.prefix)
	if len(ix.heads) == 0 || len(key) < n || string(key[:n]) != ix.prefix {
		return nil
	}
	head := headAfter(key, n)
	// The last head that is not above the key's, without a branch to mispredict.
	at, size := 0, len(ix.heads)
	for size > 1 {
		half := size / 2
		if ix.heads[at+half] <= head {
			at += half
		}
		size -= half
	}
	return ix.leaves[at]
}

// missIndex counts a search without an index and makes one when that pays.
func (t *Table) missIndex() {
	s := &t.index
	n := s.leaves.Load()
	if n < minIndexed || s.searches.Add(1) < n/4 || !s.building.CompareAndSwap(false, true) {
		return
	}
	defer s.building.Store(false)
	t.mu.Lock()
	s.changes = 0
	d := t.cloneLocked()
	t.mu.Unlock()
	ix := &leafIndex{}
	ix.fill(d)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.searches.Store(0)
	s.size.Store(int64(d.Len()))
	s.p.Store(ix)
	s.agedLocked()
}

// fill makes the index of a directory. It stays empty where the heads tell too
// few fences apart to be of use.
func (ix *leafIndex) fill(d *directory) {
	n := d.Len()
	var second, last string
	i := 0
	d.Ascend(func(it dirItem) bool {
		second = it.low
		i++
		return i < 2
	})
	d.Descend(func(it dirItem) bool {
		last = it.low
		return false
	})
	ix.prefix = second[:commonPrefix([]byte(second), []byte(last))]
	heads, leaves := make([]uint64, 0, n), make([]*Leaf, 0, n)
	same := 0
	d.Ascend(func(it dirItem) bool {
		head := uint64(0)
		if len(heads) > 0 {
			if head = headAfter([]byte(it.low), len(ix.prefix)); head == heads[len(heads)-1] {
				same++
			}
		}
		heads, leaves = append(heads, head), append(leaves, it.leaf)
		return true
	})
	if same <= n/8 {
		ix.heads, ix.leaves = heads, leaves
	}
}

// agedLocked drops an index that the directory has left behind; it also lets go of the
// leaves that are gone. REQUIRES: Table.mu is held.
func (s *indexState) agedLocked() {
	if s.changes > int(s.size.Load())/8+16 {
		s.p.Store(nil)
	}
}
