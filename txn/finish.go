package txn

import (
	"context"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
)

// Commit makes the transaction's writes permanent and visible, all or none. On
// return they are on stable storage, unless NoSync. ErrTxDone when it has ended.
// After ErrPoisoned whether the transaction is permanent shows when the store is
// opened again (L8); after any other error it has been rolled back.
func (tx *Tx) Commit() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.alive(); err != nil {
		return err
	}
	tx.ended = base.ErrTxDone
	defer tx.m.leave(tx)
	defer tx.release()
	if tx.out == nil {
		return nil
	}
	if err := tx.commit(); err != nil {
		return fmt.Errorf("saker: commit: %w", err)
	}
	tx.m.Counters.Commits.Add(1)
	return nil
}

// commit is the life of a commit after the last statement:
//
//  1. what a large transaction has in memory goes to its temp table, unless it is
//     serializable and shows to have lost already
//  2. Prepare: from here on nobody moves anything of it
//  3. the temp table's runs are indexed and synced (L1)
//  4. the commit record, and the outcome row behind it, in timestamp order
//  5. the sync of the log, shared; publication in order
//  6. versions in memory are stamped, so that nobody asks for the outcome again
func (tx *Tx) commit() error {
	m, out := tx.m, tx.out
	if err := m.Failure(); err != nil {
		tx.abandon()
		return err
	}
	if tx.w.Large {
		if err := tx.foresee(); err != nil {
			tx.abandon()
			return err
		}
		if err := m.Cache.BacklogOwner(context.Background(), out); err != nil {
			tx.abandon()
			return err
		}
	}
	if len(tx.redo)+commitRoom > m.Log.MaxBody() {
		if err := tx.flushRedo(false); err != nil {
			tx.abandon()
			return err
		}
	}
	spilled, err := tx.spillDead()
	if err != nil {
		tx.abandon()
		return err
	}
	out.Prepare(false)
	c := &tx.record
	c.Txn, c.NoSync, c.Dead = out.ID, tx.noSync, out.Dead()
	if spilled {
		c.Dead = []base.EpochRange{deadSpilled}
	}
	temp := m.Backlog.Lookup(out.ID)
	if temp != nil {
		tails, err := temp.Finish()
		if err != nil {
			tx.abandon()
			return m.poisoned(err)
		}
		c.Runs = tails
	}
	tx.trackMu.Lock()
	c.FirstGroup, c.Segments = tx.first, tx.segs
	tx.trackMu.Unlock()
	p := &tx.pending
	p.out, p.tx, p.durable = out, tx, !tx.noSync
	if tx.validates() {
		err = tx.enqueueValidated()
	} else {
		err = tx.enqueue(c, p)
	}
	if err != nil {
		tx.abandon() // nothing was appended: it never happened
		return m.poisoned(err)
	}
	if temp != nil {
		temp.Seal()
	}
	if err := m.commit.finish(p, m.Log, &m.snaps.snapshots); err != nil {
		tx.queued = true
		m.waits.wake(out, 0)
		return m.poisoned(err)
	}
	m.waits.wake(out, 0)
	tx.stamp(p.ts, temp != nil)
	if len(c.Segments) > 0 {
		m.mu.Lock()
		m.pins = append(m.pins, segmentPins{end: p.end, segs: c.Segments})
		m.mu.Unlock()
	}
	return nil
}

// commitRoom is what a commit record may need beside its rows.
const commitRoom = 16 << 10

// enqueue appends the commit record and, if frames carry the owner's name, puts
// the outcome row into the edit queue before anyone can publish: a checkpoint
// that passes the record finds the row ahead of it.
func (tx *Tx) enqueue(c *seriallog.Commit, p *pending) error {
	m := tx.m
	c.TS = base.MaxTS // the longest; what it does not need goes back
	cost := seriallog.CommitCost(c, len(tx.redo))
	if err := m.Log.Reserve(context.Background(), cost); err != nil {
		return err
	}
	framed := len(c.Runs) > 0
	if framed {
		if err := m.Space.ReserveEdits(context.Background(), 1); err != nil {
			m.Log.Unreserve(cost)
			return err
		}
	}
	if err := m.commit.enqueue(p, tx, m.Log.Sync); err != nil {
		m.Log.Unreserve(cost)
		if framed {
			m.Space.UnreserveEdits(1)
		}
		return err
	}
	m.Log.Unreserve(cost - seriallog.CommitCost(c, len(tx.redo)))
	return nil
}

// append is the part of enqueue that needs the timestamp.
func (tx *Tx) append(ts base.CommitTS) (base.LSN, error) {
	m, c := tx.m, &tx.record
	c.TS = ts
	end, err := m.Log.AppendCommit(c, tx.redo)
	if err != nil || len(c.Runs) == 0 {
		return end, err
	}
	runs := make([]base.RunID, len(c.Runs))
	for i := range c.Runs {
		runs[i] = c.Runs[i].Run
	}
	e := m.Space.BeginEdit()
	e.PutOutcome(c.Txn, ts, tx.out.Dead(), runs)
	e.NeedSync()
	e.End()
	m.Cache.AddOwner(tx.out, runs)
	return end, nil
}

// poisoned returns the store's failure, or err if it has none to tell.
func (m *Manager) poisoned(err error) error {
	if f := m.Failure(); f != nil {
		return f
	}
	return err
}

// stamp gives resident versions their timestamp. A transaction that was moved
// about by the scavenger, or is large, may have versions that no list names;
// it stays known until a checkpoint has seen every leaf.
func (tx *Tx) stamp(ts base.CommitTS, temp bool) {
	m := tx.m
	for i := range tx.refs {
		r := &tx.refs[i]
		r.t.Stamp(r.leaf, tx.keys[r.key:r.key+r.klen], tx.out.ID, ts)
	}
	if temp {
		m.Backlog.Forget(tx.out.ID)
	}
	if temp || tx.w.Large || tx.out.Left.Load() {
		m.retire(tx.out, temp)
	} else {
		m.Reg.Remove(tx.out.ID)
	}
}

// Rollback undoes the transaction. ErrTxDone when it has ended.
func (tx *Tx) Rollback() error { return tx.end(base.ErrTxDone) }

// end rolls back and leaves reason as the answer to later calls.
func (tx *Tx) end(reason error) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.alive(); err != nil {
		return err
	}
	tx.ended = reason
	defer tx.m.leave(tx)
	defer tx.release()
	if tx.out != nil {
		tx.abandon()
		tx.m.Counters.Rollbacks.Add(1)
	}
	return nil
}

// abandon aborts: the outcome turns everything into garbage at one stroke. What
// a small transaction has in memory is removed here; the rest is the sweeper's.
func (tx *Tx) abandon() {
	m, out := tx.m, tx.out
	out.Prepare(true)
	clean := !tx.w.Large
	for i := len(tx.refs) - 1; i >= 0; i-- {
		r := &tx.refs[i]
		if !r.t.Undo(r.leaf, tx.keys[r.key:r.key+r.klen], out.ID, 0) {
			clean = false
		}
	}
	m.waits.wake(out, 0)
	tx.trackMu.Lock()
	segs := tx.segs
	tx.segs = nil
	tx.trackMu.Unlock()
	temp := m.Backlog.Lookup(out.ID)
	if clean && temp == nil && !out.Left.Load() {
		m.Reg.Remove(out.ID)
		return
	}
	m.sweep(&sweep{out: out, temp: temp, segs: segs})
}

// release lets go of everything but the outcome. REQUIRES: tx.mu is held.
func (tx *Tx) release() {
	tx.uncharge()
	tx.forgetReads()
	for _, c := range tx.cursors {
		c.it.Close()
		c.letGo()
	}
	tx.cursors = nil
	for _, t := range tx.tables {
		t.Writers.Add(-1)
	}
}
