package txn

import (
	"sync"

	"github.com/sakerdb/saker/savepoint"
	"github.com/sakerdb/saker/seriallog"
)

// spares make Begin cheap. A Tx is small, comes from a block of many and is
// never used again; the state behind it is.
type spares struct {
	states sync.Pool // of *state
	blocks sync.Pool // of *txBlock
}

// txBlock is handed out Tx by Tx; the collector frees it with the last of them.
type txBlock struct {
	txs  [32]Tx
	used int
}

func (s *spares) newTx() *Tx {
	b, _ := s.blocks.Get().(*txBlock)
	if b == nil {
		b = new(txBlock)
	}
	tx := &b.txs[b.used]
	if b.used++; b.used < len(b.txs) {
		s.blocks.Put(b)
	}
	return tx
}

func (s *spares) newState() *state {
	if st, ok := s.states.Get().(*state); ok {
		return st
	}
	return new(state)
}

const (
	// spareRefs, spareBytes and spareScratch are what a spare state keeps of its
	// buffers; they are not charged, as those of a small transaction are not.
	spareRefs    = 8
	spareBytes   = 768
	spareScratch = 32 << 10
)

// giveState takes back the state of a transaction that has left all registers.
// Nobody refers to it but, for a moment, who found it by its id, and the queue
// of the committer if the commit failed: then it is not used again.
func (s *spares) giveState(st *state) {
	if st.queued {
		return
	}
	if st.out != nil {
		st.forgetWrites()
	}
	st.tx, st.ctx, st.snap, st.stack = nil, nil, nil, nil
	st.sp, st.writes, st.written, st.changed = savepoint.Stack{}, 0, 0, 0
	st.w.Epoch, st.w.Stretch = 0, 0
	if st.reads.on {
		st.reads.recycle()
	}
	st.sc.Recycle(spareScratch)
	s.states.Put(st)
}

// forgetWrites is the part of giveState that a transaction without writes has no
// need of.
func (st *state) forgetWrites() {
	st.trackMu.Lock()
	st.owner.Store(0)
	st.segs, st.first = nil, 0
	st.trackMu.Unlock()
	st.spMu.Lock()
	st.sp = savepoint.Stack{}
	st.spMu.Unlock()
	st.out = nil
	st.w.Recycle(spareScratch)
	clear(st.refs)
	st.refs = spare(st.refs, spareRefs)
	st.keys = spare(st.keys, spareBytes)
	st.redo = spare(st.redo, spareBytes)
	clear(st.tables)
	st.tables = spare(st.tables, spareRefs)
	if st.upkeep != nil {
		st.upkeep.forget()
	}
	st.bytes, st.relief, st.noWait = 0, 0, false
	st.record, st.pending = seriallog.Commit{}, pending{}
}

// spare returns b empty, or nil if it is too large to be kept.
func spare[T any](b []T, limit int) []T {
	if cap(b) > limit {
		return nil
	}
	return b[:0]
}

var _ recorder = (*Tx)(nil)
