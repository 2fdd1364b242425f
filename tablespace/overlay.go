package tablespace

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/google/btree"

	"github.com/sakerdb/saker/internal/base"
)

// pendingEntry is an entry, or the removal of one, that is not in Pebble yet.
type pendingEntry struct {
	table   base.TableID
	low     []byte
	deleted bool
	en      Entry
}

func pendingLess(a, b *pendingEntry) bool {
	if a.table != b.table {
		return a.table < b.table
	}
	return bytes.Compare(a.low, b.low) < 0
}

type pendingTree = btree.BTreeG[*pendingEntry]

const pendingDegree = 32

// queue holds the edits that are not applied, twice: in order for the applier,
// and by key for lookups (the overlay).
type queue struct {
	mu              sync.Mutex // everything below; short, may be taken under a leaf lock
	seq             base.EditSeq
	tx              EditTx
	ops             []op
	edits           []queued
	tree            *pendingTree // the overlay
	idle            bool         // the applier waits for work
	closing, closed bool

	work    sync.Cond // with mu: edits came, or closing
	done    sync.Cond // with mu: applied rose, or a failure
	applied base.EditSeq

	// snap is a clone of tree as of the last edit, nil if nobody asked since.
	// Clones are immutable and lookups search them without mu.
	snap atomic.Pointer[pendingTree]
	// pops counts the times that applied entries left the overlay. It rises
	// after they are in Pebble and before the first one leaves.
	pops atomic.Uint64
}

// overlay returns the pending entries as of now.
func (q *queue) overlay() *pendingTree {
	if t := q.snap.Load(); t != nil {
		return t
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.snap.Load(); t != nil {
		return t
	}
	t := q.tree.Clone()
	q.snap.Store(t)
	return t
}

// popSlice bounds the entries popped per hold of mu.
const popSlice = 64

// pop takes applied entries out of the overlay, except those that a later edit
// replaced. REQUIRES: they are in Pebble.
func (q *queue) pop(ops []op, applied base.EditSeq) {
	q.pops.Add(1)
	for len(ops) > 0 {
		q.mu.Lock()
		if len(q.edits) == 0 && q.seq == applied {
			q.tree.Clear(false)
			q.snap.Store(nil)
			q.mu.Unlock()
			return
		}
		n := min(len(ops), popSlice)
		for i := range ops[:n] {
			p := ops[i].pending
			if p == nil {
				continue
			}
			if now, ok := q.tree.Get(p); ok && now == p {
				q.tree.Delete(p)
			}
		}
		q.snap.Store(nil)
		q.mu.Unlock()
		ops = ops[n:]
	}
}
