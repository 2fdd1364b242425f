package arena

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// UnitSize is what block sizes are multiples of.
	UnitSize = 1 << 10
	// MaxBlock is the size of the greatest block.
	MaxBlock = blockUnits * UnitSize
	// MinCap is the least capacity of an arena.
	MinCap = 256 << 10

	blockUnits = 32
	slabUnits  = 2 * blockUnits
	slabSize   = slabUnits * UnitSize
)

// Arena is record memory with a hard cap.
type Arena struct {
	cap     int64
	mem     memory
	now     atomic.Int64 // blocks + charged, as of the last unlock
	trimMu  sync.Mutex   // held by Trim, before mu
	mu      sync.Mutex   // everything below
	slabs   []slab       // all of them; those at fresh and above were never used, or trimmed
	fresh   int32
	heads   [slabUnits + 1]int32 // stacks of slabs by longest free run; index+1, 0 is empty
	present uint64               // bit i: heads[i] is not empty
	trimmed []int32              // slabs without a block whose pages were given back
	blocks  int64                // bytes
	charged int64
	peak    int64
	closed  bool

	warming sync.WaitGroup // goroutines that touch memory ahead of its use
}

// slab is the state of 64 KiB.
type slab struct {
	free       uint64 // bit i: unit i is free
	starts     uint64 // bit i: a block starts at unit i
	prev, next int32  // neighbours in the stack; index+1, 0 is none
	run        int32  // longest free run, the stack it is in; 0: in none
}

// New returns an arena of at most capBytes, all of it free. Address space is
// set aside at once; pages are touched when they are first used.
func New(capBytes int64) (*Arena, error) {
	if capBytes < MinCap {
		return nil, fmt.Errorf("saker: arena: capacity %d is below %d bytes", capBytes, MinCap)
	}
	n := (capBytes + slabSize - 1) / slabSize // the cap may end within the last one
	if n > 1<<30 {
		return nil, fmt.Errorf("saker: arena: capacity %d is too large", capBytes)
	}
	a := &Arena{
		cap:   capBytes,
		slabs: make([]slab, n),
	}
	if err := a.mem.open(n * slabSize); err != nil {
		return nil, fmt.Errorf("saker: arena: %w", err)
	}
	return a, nil
}

// Close gives all memory back. It fails, and does nothing, while blocks exist:
// a mapping that stays is better than a reader that faults.
func (a *Arena) Close() error {
	a.trimMu.Lock()
	defer a.trimMu.Unlock()
	a.mu.Lock()
	blocks, done := a.blocks, a.closed
	a.closed = a.closed || blocks == 0
	a.mu.Unlock()
	if done {
		return nil
	}
	if blocks != 0 {
		return fmt.Errorf("saker: arena: close: %d bytes of blocks are in use", blocks)
	}
	a.warming.Wait()
	if err := a.mem.close(); err != nil {
		return fmt.Errorf("saker: arena: close: %w", err)
	}
	return nil
}

// Alloc returns a block of n bytes rounded up to a multiple of UnitSize, or nil
// if none is to be had. Its contents are undefined.
//
// REQUIRES: 0 < n ≤ MaxBlock; nil otherwise.
func (a *Arena) Alloc(n int) []byte {
	a.mu.Lock()
	b := a.allocLocked(n, 0)
	a.mu.Unlock()
	return b
}

// allocLocked is Alloc if charge bytes fit beside the block. REQUIRES: a.mu is held.
func (a *Arena) allocLocked(n int, charge int64) []byte {
	units := (n + UnitSize - 1) / UnitSize
	size := int64(units) * UnitSize
	if n <= 0 || units > blockUnits || a.blocks+a.charged+size+charge > a.cap || a.closed {
		return nil
	}
	i := a.fitLocked(units)
	if i < 0 {
		return nil
	}
	s := &a.slabs[i]
	at := firstRun(s.free, units)
	s.free &^= unitMask(at, units)
	s.starts |= 1 << at
	a.restackLocked(i, s)
	a.blocks += size
	a.publishLocked()
	return a.mem.take(i, at, units)
}

// fitLocked returns the slab for a block of units, -1 if there is none: one whose
// longest run is the shortest that suffices, whole ones last, those with warm
// pages before fresh ones.
func (a *Arena) fitLocked(units int) int32 {
	fit := a.present >> units << units // of slabs with blocks: a run has fewer than 64 units
	if fit != 0 {
		return a.heads[bits.TrailingZeros64(fit)] - 1
	}
	return a.wholeSlabLocked()
}

// wholeSlabLocked returns a slab without a block, preferring touched pages, -1 if
// there is none.
func (a *Arena) wholeSlabLocked() int32 {
	if i := a.heads[slabUnits] - 1; i >= 0 {
		return i
	}
	var i int32
	if n := len(a.trimmed); n > 0 {
		i = a.trimmed[n-1]
		a.trimmed = a.trimmed[:n-1]
	} else {
		if i = a.fresh; int(i) == len(a.slabs) {
			return -1
		}
		a.fresh++
		if from, ok := a.mem.warmNext(int64(a.fresh) * slabSize); ok {
			a.warming.Go(func() { a.mem.warm(from) })
		}
	}
	a.slabs[i].free = wholeSlab
	return i
}

// Free takes back a block that Alloc returned. The slice may have been shortened
// at its end. A slice that is not a block, or not any more,
// is a fault of the program that would give one piece of memory to two owners:
// Free panics.
func (a *Arena) Free(b []byte) {
	b = b[:cap(b)]
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cutLocked(b, 0)
	a.publishLocked()
}

// cutLocked gives back what lies behind the first keep units of the block b, with 0
// all of it. It panics if b is no block of so many. REQUIRES: a.mu is held.
func (a *Arena) cutLocked(b []byte, keep int) {
	i, at, ok := a.mem.find(b)
	units := len(b) / UnitSize
	if !ok || len(b)%UnitSize != 0 || keep < 0 || keep > units || !a.isBlock(i, at, units) {
		panic(fmt.Sprintf("saker: arena: %d bytes at %p, cut to %d units, are no block", len(b), unsafe.SliceData(b), keep))
	}
	if keep == units {
		return
	}
	s := &a.slabs[i]
	if keep == 0 {
		a.mem.drop(b)
		s.starts &^= 1 << at
	} else {
		a.mem.dropTail(b[keep*UnitSize:])
	}
	s.free |= unitMask(at+keep, units-keep)
	a.restackLocked(i, s)
	a.blocks -= int64(units-keep) * UnitSize
}

// isBlock reports whether a block of units begins at unit at of slab i: a start
// there, no free unit and no other start within, and a start, a free unit or
// the slab's end behind it.
func (a *Arena) isBlock(i int32, at, units int) bool {
	if i < 0 || int(i) >= len(a.slabs) || units < 1 || at+units > slabUnits {
		return false
	}
	s, m := &a.slabs[i], unitMask(at, units)
	if s.free&m != 0 || s.starts&m != 1<<at {
		return false
	}
	end := at + units
	return end == slabUnits || (s.free|s.starts)&(1<<end) != 0
}

// restackLocked moves slab i to the stack of its longest free run.
func (a *Arena) restackLocked(i int32, s *slab) {
	run := longestRun(s.free)
	if run == s.run {
		return
	}
	if s.run != 0 {
		if s.next != 0 {
			a.slabs[s.next-1].prev = s.prev
		}
		if s.prev != 0 {
			a.slabs[s.prev-1].next = s.next
		} else if a.heads[s.run] = s.next; s.next == 0 {
			a.present &^= 1 << s.run
		}
	}
	s.run, s.prev, s.next = run, 0, 0
	if run == 0 {
		return
	}
	if head := a.heads[run]; head != 0 {
		s.next = head
		a.slabs[head-1].prev = i + 1
	}
	a.heads[run] = i + 1
	a.present |= 1 << run
}

// publishLocked makes the sum visible to Reserved and keeps its maximum.
func (a *Arena) publishLocked() {
	n := a.blocks + a.charged
	a.peak = max(a.peak, n)
	a.now.Store(n)
}
