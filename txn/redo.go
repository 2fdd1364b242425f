package txn

import (
	"context"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
)

// note remembers a write of a small transaction: for redo at commit, stamping
// and undo. It makes the transaction large when it has outgrown memory's
// patience. The write itself stands whatever happens here.
func (tx *Tx) note(t *recordcache.Table, leaf *recordcache.Leaf, m recordcache.Mode, key, value []byte) error {
	at := len(tx.keys)
	tx.keys = append(tx.keys, key...)
	tx.refs = append(tx.refs, ref{t: t, leaf: leaf, key: at, klen: len(key), lock: m == recordcache.ModeLock})
	if m != recordcache.ModeLock && len(value) <= base.LargeValueSize {
		kind := base.KindValue
		if m == recordcache.ModeDelete {
			kind = base.KindTombstone
		}
		tx.redo = seriallog.AppendRow(tx.redo, &seriallog.Row{
			Table: t.ID, Kind: kind, Epoch: tx.sp.Now(), Leave: tx.w.LastLeave, Key: key, Value: value,
		})
	}
	if tx.bytes > tx.m.ChillThreshold {
		return tx.grow(true)
	}
	if !tx.chargeBuffers() {
		return tx.shed(false, true)
	}
	if len(tx.redo) > maxRedo {
		return tx.flushRedo(true)
	}
	return nil
}

// shed gives up buffers of a small transaction: its redo goes to the log; with
// all, or if the rest does not fit, the transaction becomes large. park as in
// flushRedo.
func (tx *Tx) shed(all, park bool) error {
	if all {
		return tx.grow(park)
	}
	if err := tx.flushRedo(park); err != nil {
		return err
	}
	tx.redo = nil
	if !tx.chargeBuffers() {
		return tx.grow(park)
	}
	return nil
}

// chargeBuffers keeps what refs, keys and redo take charged to record memory
// (M1). It reports false when there is no room.
func (tx *Tx) chargeBuffers() bool {
	n := int64(cap(tx.refs)*48 + cap(tx.keys) + cap(tx.redo))
	if n <= freeBytes {
		n = 0
	}
	switch delta := n - tx.charged; {
	case delta < 0:
		tx.m.Arena.Uncharge(-delta)
	case delta > 0 && !tx.m.Arena.Charge(delta):
		return false
	}
	tx.setCharged(n)
	return true
}

func (tx *Tx) setCharged(n int64) {
	if n != tx.charged {
		tx.m.buffered.Add(n - tx.charged)
		tx.charged = n
	}
}

func (tx *Tx) uncharge() {
	if tx.charged > 0 {
		tx.m.Arena.Uncharge(tx.charged)
		tx.setCharged(0)
	}
}

// grow makes the transaction large: its redo so far is logged, and from now on
// what it writes leaves through its temp table. Nothing it keeps grows any more
// (M5). park as in flushRedo.
func (tx *Tx) grow(park bool) error {
	if err := tx.flushRedo(park); err != nil {
		return err
	}
	tx.out.Large.Store(true)
	tx.w.Large, tx.w.Logged = true, false
	tx.refs, tx.keys, tx.redo = nil, nil, nil
	tx.uncharge()
	return nil
}

// flushRedo logs the redo kept so far as one group, or several. With park, at the
// end of a statement, it waits for room without tx.mu; others may then log the
// redo, or end the transaction, in its stead.
func (tx *Tx) flushRedo(park bool) error {
	for len(tx.redo) > 0 {
		n := tx.groupEnd()
		cost := n + seriallog.RecordOverhead()
		if err := tx.reserveLog(cost, park); err != nil {
			return err
		}
		if tx.groupEnd() != n {
			tx.m.Log.Unreserve(cost)
			continue
		}
		start, err := tx.m.Log.AppendGroupPinned(tx.out.ID, tx.redo[:n])
		if err != nil {
			tx.m.Log.Unreserve(cost)
			return err
		}
		tx.track(start, tx.m.Log.SegmentOf(start))
		tx.redo = tx.redo[:copy(tx.redo, tx.redo[n:])]
	}
	tx.out.Depart()
	return nil
}

// reserveLog waits for room in the log's buffer. The caller's context does not end
// the wait: the statement has been executed.
func (tx *Tx) reserveLog(cost int, park bool) error {
	log := tx.m.Log
	if !park {
		return log.Reserve(context.Background(), cost)
	}
	granted := false
	err := tx.parked(func() error {
		err := log.Reserve(context.Background(), cost)
		granted = err == nil
		return err
	})
	if err != nil && granted {
		log.Unreserve(cost)
	}
	return err
}

// groupEnd returns how much of the redo fits into one group, whole rows.
func (tx *Tx) groupEnd() int {
	limit := tx.m.Log.MaxBody()
	if len(tx.redo) <= limit {
		return len(tx.redo)
	}
	n := 0
	for n < len(tx.redo) {
		_, size, err := seriallog.DecodeRow(tx.redo[n:])
		if err != nil || n+size > limit {
			break
		}
		n += size
	}
	return n
}

// track notes a pinned segment that holds a group of the transaction.
func (tx *Tx) track(first base.LSN, seg uint64) {
	tx.trackMu.Lock()
	defer tx.trackMu.Unlock()
	tx.trackLocked(first, seg)
}

func (st *state) trackLocked(first base.LSN, seg uint64) {
	if st.first == 0 || first < st.first {
		st.first = first
	}
	if slices.Contains(st.segs, seg) {
		st.m.Log.Unpin(seg) // one pin a segment is enough
		return
	}
	st.segs = append(st.segs, seg)
}

// Track is track for the scavenger, which chills for any transaction.
func (m *Manager) Track(id base.TxnID, first base.LSN, seg uint64) {
	if st := m.find(id); st != nil {
		st.trackMu.Lock()
		defer st.trackMu.Unlock()
		if st.owner.Load() == uint64(id) {
			st.trackLocked(first, seg)
			return
		}
	}
	m.Log.Unpin(seg)
}
