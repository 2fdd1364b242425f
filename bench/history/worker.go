package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/history"
)

// worker runs transactions one after the other and records them.
type worker struct {
	*runner
	id    int
	rng   *rand.Rand
	txns  []history.Txn
	tally tally
	value []byte
}

// tally counts what workers did.
type tally struct {
	commits, rollbacks, conflicts, deadlocks, serialization int // how transactions ended
	readOnly, big, savepoints, undone                       int
	contradictions                                          int // a write said otherwise than the read before it, or a row was there that never was
}

func (t *tally) add(o *tally) {
	t.commits += o.commits
	t.rollbacks += o.rollbacks
	t.conflicts += o.conflicts
	t.deadlocks += o.deadlocks
	t.serialization += o.serialization
	t.readOnly += o.readOnly
	t.big += o.big
	t.savepoints += o.savepoints
	t.undone += o.undone
	t.contradictions += o.contradictions
}

// recorded is a transaction and what it did so far.
type recorded struct {
	*worker
	ctx   context.Context
	tx    *engine.Tx
	txn   history.Txn
	depth int
	wrote bool
	marks []mark
}

// mark is a live savepoint and its index among the operations.
type mark struct {
	sp engine.Savepoint
	op int
}

// chance is true n times out of a hundred.
func (w *worker) chance(n int) bool { return w.rng.IntN(100) < n }

// transaction runs one, from begin to end. It returns an error that no level
// permits.
func (w *worker) transaction(ctx context.Context, depth int) error {
	big := w.chance(2)
	readOnly := !big && w.chance(15)
	r := &recorded{worker: w, ctx: ctx, depth: depth}
	if err := r.begin(engine.TxOptions{ReadOnly: readOnly, NoSync: !w.chance(3)}); err != nil {
		return err
	}
	steps := 1 + w.rng.IntN(6)
	switch {
	case readOnly:
		w.tally.readOnly++
	case big:
		w.tally.big++
		steps += 4
	}
	for range steps {
		err := r.step(readOnly, big)
		switch {
		case err == nil:
		case readOnly:
			return errors.Join(fmt.Errorf("a transaction that only reads: %w", err), r.tx.Rollback())
		case errors.Is(err, engine.ErrConflict) && w.chance(25):
			w.tally.conflicts++ // the statement has failed; the transaction goes on
		case engine.IsRetryable(err):
			return r.giveUp(err)
		case errors.Is(err, engine.ErrNotFound), errors.Is(err, engine.ErrKeyExists):
			w.tally.contradictions++
			return r.giveUp(nil)
		default:
			return errors.Join(err, r.tx.Rollback())
		}
	}
	if w.chance(5) {
		return r.giveUp(nil)
	}
	return r.commit(readOnly)
}

// everything reads all keys of the round in one transaction.
func (w *worker) everything(ctx context.Context, from, to int) error {
	r := &recorded{worker: w, ctx: ctx}
	if err := r.begin(engine.TxOptions{ReadOnly: true}); err != nil {
		return err
	}
	if err := r.scan(from, to, false, 0); err != nil {
		return errors.Join(err, r.tx.Rollback())
	}
	return r.commit(true)
}

func (r *recorded) begin(o engine.TxOptions) (err error) {
	o.Isolation = r.c.Level
	r.txn.Begin = r.clock.Add(1)
	r.tx, err = r.store.Begin(r.ctx, o)
	return err
}

// giveUp rolls back, because of cause or for no reason.
func (r *recorded) giveUp(cause error) error {
	r.count(cause)
	if err := r.tx.Rollback(); err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	r.txn.Status = history.Aborted
	r.end()
	return nil
}

func (r *recorded) count(cause error) {
	switch {
	case cause == nil:
		r.tally.rollbacks++
	case errors.Is(cause, engine.ErrDeadlock):
		r.tally.deadlocks++
	default:
		r.tally.conflicts++
	}
}

func (r *recorded) commit(readOnly bool) error {
	err := r.tx.Commit()
	switch {
	case err == nil:
		r.tally.commits++
	case engine.IsRetryable(err) && !readOnly && r.c.Level == engine.Serializable:
		r.tally.serialization++
		r.txn.Status = history.Aborted
	default:
		return fmt.Errorf("commit: %w", err)
	}
	r.end()
	return nil
}

func (r *recorded) end() {
	r.txn.End = r.clock.Add(1)
	r.txns = append(r.txns, r.txn)
	if r.txn.End%int64(r.c.txns/4+1) == 0 {
		select {
		case r.due <- struct{}{}:
		default:
		}
	}
}

// step is one operation, or a few that belong together.
func (r *recorded) step(readOnly, big bool) error {
	switch n := r.rng.IntN(100); {
	case readOnly && n < 50, n < 25:
		_, err := r.read(r.key(), false)
		return err
	case readOnly, n < 42:
		from := r.key()
		return r.scan(from, from+1+r.rng.IntN(12), r.chance(50), r.rng.IntN(2)*(1+r.rng.IntN(4)))
	case n < 50:
		return r.savepoint()
	case n < 57 && len(r.marks) > 0:
		return r.undo()
	case n < 60 && len(r.marks) > 0:
		return r.release()
	case n < 63 && !r.wrote && r.depth < 2:
		// Others run while this one's snapshot stands. It holds no lock that they
		// could wait for.
		for n := 1 + r.rng.IntN(4); n > 0 && r.left.Add(-1) >= 0; n-- {
			if err := r.transaction(r.ctx, r.depth+1); err != nil {
				return err
			}
		}
		return nil
	case big && n < 75:
		return r.fill(r.filler, 100, func(n int) []byte { return fmt.Appendf(nil, "%03d.%05d", r.id, n) })
	case big && n < 85:
		return r.regret()
	default:
		return r.append(r.key())
	}
}

// key chooses a list: some are asked for more often than others.
func (w *worker) key() int {
	n := w.rng.IntN(len(w.slots))
	if w.chance(50) {
		n = w.rng.IntN(n + 1)
	}
	return int(w.slots[n].Load())
}

func rowKey(key int) []byte { return fmt.Appendf(nil, "list%08d", key) }

// read reads a list, for update or not, and records it.
func (r *recorded) read(key int, lock bool) ([]int32, error) {
	get := r.tx.Get
	if lock {
		get = r.tx.GetForUpdate
		r.wrote = true
	}
	v, err := get(r.lists, rowKey(key))
	var list []int32
	if err == nil {
		list, err = decode(v)
	} else if errors.Is(err, engine.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	r.txn.Ops = append(r.txn.Ops, history.Op{Kind: history.Read, Key: key, List: list})
	return list, nil
}

// append reads a list and writes it back with another element.
func (r *recorded) append(key int) error {
	list, err := r.read(key, r.c.Level == engine.ReadCommitted || r.chance(25))
	if err != nil {
		return err
	}
	if len(list) >= maxList {
		next := r.nextKey.Add(1)
		for i := range r.slots {
			if r.slots[i].CompareAndSwap(int64(key), next) {
				return nil
			}
		}
		return nil // somebody else was first; one key remains unused
	}
	r.wrote = true
	element := r.element.Add(1)
	r.value = encode(r.value[:0], append(slices.Clip(list), element), r.rng.IntN(600))
	k := rowKey(key)
	switch n := r.rng.IntN(10); {
	case n < 6:
		err = r.tx.Put(r.lists, k, r.value)
	case len(list) == 0:
		err = r.tx.Insert(r.lists, k, r.value)
	case n < 8:
		err = r.tx.Update(r.lists, k, r.value)
	default:
		if err = r.tx.Delete(r.lists, k); err == nil {
			err = r.tx.Insert(r.lists, k, r.value)
		}
	}
	if err != nil {
		return err
	}
	r.txn.Ops = append(r.txn.Ops, history.Op{Kind: history.Append, Key: key, Value: element})
	return nil
}

// scan reads the lists in [from, to) in either direction, limit of them at most if
// it is not 0. What it records is the range that it has seen.
func (r *recorded) scan(from, to int, reverse bool, limit int) error {
	op := history.Op{Kind: history.Scan, From: from, To: to}
	rg := engine.Range{From: rowKey(from), To: rowKey(to), Reverse: reverse, Limit: limit}
	for row, err := range r.tx.Scan(r.lists, rg) {
		if err != nil {
			return err
		}
		if bytes.Contains(row.Key, []byte(besideMark)) {
			r.tally.contradictions++
			continue
		}
		var key int
		if _, err := fmt.Sscanf(string(row.Key), "list%d", &key); err != nil {
			return fmt.Errorf("scan: key %q: %w", row.Key, err)
		}
		list, err := decode(row.Value)
		if err != nil {
			return err
		}
		if n := len(op.Rows); n > 0 && (key > op.Rows[n-1].Key) == reverse {
			return fmt.Errorf("scan: key %d behind %d, reverse: %v", key, op.Rows[n-1].Key, reverse)
		}
		op.Rows = append(op.Rows, history.Row{Key: key, List: list})
	}
	if n := len(op.Rows); limit != 0 && n == limit {
		if reverse {
			op.From = op.Rows[n-1].Key
		} else {
			op.To = op.Rows[n-1].Key + 1
		}
	}
	if reverse {
		slices.Reverse(op.Rows)
	}
	r.txn.Ops = append(r.txn.Ops, op)
	return nil
}

func (r *recorded) savepoint() error {
	sp, err := r.tx.Savepoint()
	if err != nil {
		return err
	}
	r.tally.savepoints++
	r.marks = append(r.marks, mark{sp, len(r.txn.Ops)})
	r.txn.Ops = append(r.txn.Ops, history.Op{Kind: history.Mark})
	return nil
}

func (r *recorded) undo() error {
	n := r.rng.IntN(len(r.marks))
	if err := r.tx.RollbackTo(r.marks[n].sp); err != nil {
		return err
	}
	r.tally.undone++
	r.txn.Ops = append(r.txn.Ops, history.Op{Kind: history.Undo, To: r.marks[n].op})
	r.marks = r.marks[:n+1]
	return nil
}

func (r *recorded) release() error {
	n := r.rng.IntN(len(r.marks))
	err := r.tx.Release(r.marks[n].sp)
	r.marks = r.marks[:n]
	return err
}

// regret appends below a savepoint, drives the rows out of memory by many others
// beside them, and rolls all that back.
func (r *recorded) regret() error {
	if err := r.savepoint(); err != nil {
		return err
	}
	for range 1 + r.rng.IntN(3) {
		key := r.key()
		if err := r.append(key); err != nil {
			return errors.Join(err, r.undo()) // the transaction may go on after a conflict
		}
		beside := func(n int) []byte { return fmt.Appendf(rowKey(key), "%s%03d.%05d", besideMark, r.id, n) }
		if err := r.fill(r.lists, 100, beside); err != nil {
			return errors.Join(err, r.undo())
		}
	}
	return r.undo()
}

// besideMark is in the keys of rows that are always rolled back.
const besideMark = " beside "

// fill writes rows that nobody else looks at, so that memory runs short.
func (r *recorded) fill(t *engine.Table, n int, key func(n int) []byte) error {
	r.wrote = true
	r.value = r.value[:0]
	for len(r.value) < 400 {
		r.value = binary.LittleEndian.AppendUint64(r.value, r.rng.Uint64())
	}
	for range n + r.rng.IntN(2*n) {
		if err := r.tx.Put(t, key(r.rng.IntN(2000)), r.value); err != nil {
			return err
		}
	}
	return nil
}
