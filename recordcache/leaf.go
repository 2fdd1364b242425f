package recordcache

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// frame is one entry of a leaf's list.
type frame struct {
	tablespace.FrameRef
	out *versionchain.Outcome // of the owner; nil for a committed frame
}

// frameList is the immutable list of frames of a leaf. A change makes a new one.
type frameList struct {
	seq    base.EditSeq          // of the edit that listed it: the leaf's epoch (P7)
	sole   *versionchain.Outcome // the owner of all frames, if they have one owner
	frames []frame
	// gone are runs that the entry in the map names for owners that never
	// committed: the next edit of the entry leaves them out and counts them down.
	gone []base.RunID
}

// dropGone counts down the runs that the edit e leaves out of the entry.
func (fl *frameList) dropGone(e *tablespace.EditTx) {
	if fl == nil {
		return
	}
	for _, r := range fl.gone {
		e.Refs(r, -1)
	}
}

// within reports whether the frame may hold keys of [low, high).
func (f *frame) within(low, high []byte) bool {
	return (f.Last == nil || bytes.Compare(f.Last, low) >= 0) &&
		(high == nil || f.First == nil || bytes.Compare(f.First, high) < 0)
}

// holds reports whether the frame may hold the key.
func (f *frame) holds(key []byte, hash uint64) bool {
	if f.First != nil && (bytes.Compare(key, f.First) < 0 || bytes.Compare(key, f.Last) > 0) {
		return false
	}
	return versionchain.FilterMayContain(f.Filter, hash)
}

// undecided reports whether the frame's owner has no published outcome.
func (f *frame) undecided() bool {
	if f.out == nil {
		return false
	}
	st, _ := f.out.Status()
	return st != versionchain.Committed
}

func newList(seq base.EditSeq, frames []frame) *frameList {
	l := &frameList{seq: seq, frames: frames}
	if len(frames) > 0 {
		l.sole = frames[0].out
		for i := range frames {
			if frames[i].out != l.sole {
				l.sole = nil
			}
		}
	}
	return l
}

// undecided reports whether some frame's owner has no published outcome.
func (fl *frameList) undecided() bool {
	for i := range fl.frames {
		if fl.frames[i].undecided() {
			return true
		}
	}
	return false
}

// Leaf is a contiguous key range of one table: the unit of locking, residency,
// backlogging and checkpointing.
type Leaf struct {
	mu sync.RWMutex // guards everything below; ring and ref excepted

	// What a search looks at first, in as few cache lines as possible: the lock
	// and the page's header fill one, the rest down to table the next.
	page     versionchain.Page
	list     *frameList            // nil: none
	sole     *versionchain.Outcome // list.sole
	lowHead  uint64                // dirHead of low
	highHead uint64                // dirHead of high
	prefix   int32                 // length of the common prefix of all keys in the leaf
	open     bool                  // no high fence
	dead     bool                  // no longer in the directory: search again
	mapped   bool                  // the leaf map has an entry at low
	dirty    bool                  // may hold committed versions that no frame holds
	chilled  bool                  // may hold chilled versions
	partial  bool                  // the frames may hold what somebody sees and the page lacks
	live     int                   // at least the number of undecided versions
	ref      atomic.Uint32         // touched since the clock hand passed
	reads    atomic.Uint32         // cold reads since it became a stub
	table    *Table

	// low and high are the fences [low, high); nil high is open. They change,
	// by setFences, under mu and table.mu both: either is enough to read them.
	low, high []byte
	charged   int64
	mem       [][]byte // resident copies of list.frames, by index; nil: none

	prev, next *Leaf // ring of leaves, guarded by Cache.ring.mu
	inRing     bool
	endMark    bool // no leaf but the end of a walk

	_ [24]byte // to a multiple of the cache line, so that the allocator aligns it
}

// leafBytes is what a leaf's descriptor costs on the Go heap, in bytes, its place
// in the directory and its row of the leaf map included, frameBytes what a frame
// in its list costs (both measured on heap profiles), and heapFactor what a live
// byte there costs in all: at the collector's default setting the heap grows to
// twice what lives before it is swept.
const (
	leafBytes  = 700
	frameBytes = 160
	heapFactor = 2
)

func commonPrefix(low, high []byte) int {
	if high == nil {
		return 0
	}
	n := min(len(low), len(high))
	for i := range n {
		if low[i] != high[i] {
			return i
		}
	}
	return n
}

// between reports whether key lies in [low, high); nil high is open.
func between(key, low, high []byte) bool {
	return bytes.Compare(key, low) >= 0 && (high == nil || bytes.Compare(key, high) < 0)
}

// covers reports whether key belongs to the leaf. REQUIRES: l.mu is held.
func (l *Leaf) covers(key []byte) bool {
	if l.dead {
		return false
	}
	h := dirHead(key)
	if h < l.lowHead || (h == l.lowHead && bytes.Compare(key, l.low) < 0) {
		return false
	}
	return l.open || h < l.highHead || (h == l.highHead && bytes.Compare(key, l.high) < 0)
}

// setFences gives the leaf its range.
func (l *Leaf) setFences(low, high []byte) {
	l.low, l.high, l.open = low, high, high == nil
	l.lowHead, l.highHead = dirHead(low), dirHead(high)
	l.prefix = int32(commonPrefix(low, high))
}

// touch tells the clock hand that the leaf is warm. A load first: the line
// stays shared between cores while nothing changes.
func (l *Leaf) touch() {
	if l.ref.Load() == 0 {
		l.ref.Store(1)
	}
}

// setList replaces the frame list; partial says that the new one may hold what
// somebody sees and the page does not (P9). The caller has charged what the list costs
// more, or settles the charge now (M1). REQUIRES: l.mu is held exclusively.
func (l *Leaf) setList(nl *frameList, c *Cache, partial bool) {
	var mem [][]byte
	if l.mem != nil && l.list != nil {
		for i := range l.list.frames {
			b := l.mem[i]
			if b == nil {
				continue
			}
			at := -1
			if nl != nil {
				at = nl.index(l.list.frames[i].Addr)
			}
			if at < 0 {
				c.arena.Free(b)
				continue
			}
			if mem == nil {
				mem = make([][]byte, len(nl.frames))
			}
			mem[at] = b
		}
	}
	l.list, l.mem, l.sole = nl, mem, nil
	l.partial = partial && nl != nil
	if nl != nil {
		l.sole = nl.sole
	}
}

// cost is what the descriptor and its list take on the Go heap.
func (l *Leaf) cost() int64 {
	n := leafCost(l.low, l.high)
	if l.list != nil {
		n += listCost(l.list.frames)
	}
	return n
}

// same reports whether two lists of leaves that cover one key are the same list,
// perhaps read from the leaf map again: numbers of edits do not repeat (P7).
func (fl *frameList) same(x *frameList) bool {
	return fl == x || (fl != nil && x != nil && fl.seq == x.seq)
}

func (fl *frameList) index(a tablespace.Addr) int {
	for i := range fl.frames {
		if fl.frames[i].Addr == a {
			return i
		}
	}
	return -1
}

// refs returns the list as the leaf map stores it.
func (fl *frameList) refs() []tablespace.FrameRef {
	out := make([]tablespace.FrameRef, len(fl.frames))
	for i := range fl.frames {
		out[i] = fl.frames[i].FrameRef
		// A published owner's timestamp is final: store it for readers of the map.
		if o := fl.frames[i].out; o != nil {
			if st, ts := o.Status(); st == versionchain.Committed {
				out[i].Newest = ts
			}
		}
	}
	return out
}
