package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/sakerdb/saker/engine"
)

// writer does one thing after the other, at random, and says so in the journal.
type writer struct {
	k   *worker
	id  int
	rng *rand.Rand
	txn int // of the last intent or transaction

	table string // one of its own, for the step under way
}

// errRolledBack ends a transaction that its writer rolled back on purpose.
var errRolledBack = errors.New("rolled back")

// tx is a transaction with what it leaves if it commits.
type tx struct {
	*engine.Tx

	w       *writer
	n       int
	step    int
	effects []effect
	key     []byte
	val     []byte
}

// put writes r under the keys, with a new stamp.
func (x *tx) put(table string, k keys, r row) error {
	x.step++
	r.Stamp = stampOf(x.w.k.o.Round, x.w.id, x.n, x.step)
	r.Size = max(r.Size, rowHeader)
	t := x.w.k.table(table)
	for i := range k.len() {
		x.key = k.append(x.key[:0], i)
		x.val = r.appendValue(x.val[:0], x.key)
		if err := x.Put(t, x.key, x.val); err != nil {
			return fmt.Errorf("put %s %q: %w", table, x.key, err)
		}
	}
	x.effects = append(x.effects, effect{Table: table, Keys: k, Row: r})
	return nil
}

// del deletes the row, if it is there.
func (x *tx) del(table string, key []byte) error {
	err := x.Delete(x.w.k.table(table), key)
	switch {
	case err == nil:
		x.effects = append(x.effects, effect{Table: table, Keys: oneKey(key), Delete: true})
	case !errors.Is(err, engine.ErrNotFound):
		return fmt.Errorf("delete %s %q: %w", table, key, err)
	}
	return nil
}

// get locks and reads a shared row.
func (x *tx) get(table string, key []byte) (row, error) {
	v, err := x.GetForUpdate(x.w.k.table(table), key)
	if err != nil {
		return row{}, fmt.Errorf("get %s %q: %w", table, key, err)
	}
	r, ok, _ := parseValue(key, v, nil)
	if !ok {
		return row{}, fmt.Errorf("get %s %q: bytes that nobody wrote: %v", table, key, r)
	}
	return r, nil
}

// step does one thing.
func (w *writer) step() (err error) {
	if w.table, err = w.own(); err != nil {
		return err
	}
	switch r := w.rng.IntN(100); {
	case r < 4:
		return w.changeTables()
	case r < 6:
		return w.sync(w.k.db.Sync)
	case r < 8:
		return w.sync(func() error { return w.k.db.Checkpoint(context.Background()) })
	case r < 30:
		return w.transact(w.transfer)
	case r < 45:
		return w.transact(w.regroup)
	case r < 52:
		return w.transact(w.number)
	case r < 55:
		return w.transact(w.large)
	case r < 58:
		return w.transact(w.clear)
	case r < 62 || w.id == 0 && r < 75: // one writer does it most of the time
		return w.transact(w.bulk)
	case r < 80:
		return w.transact(w.medium)
	default:
		return w.transact(w.mixed)
	}
}

// transact runs fn in a transaction, again after a conflict, and commits it or,
// now and then, rolls it back.
func (w *writer) transact(fn func(*tx) error) error {
	noSync := w.rng.IntN(3) == 0
	for {
		err := w.commit(noSync, func(x *tx) error {
			if err := fn(x); err != nil {
				return err
			}
			if w.rng.IntN(8) == 0 {
				return errRolledBack
			}
			return nil
		})
		switch {
		case errors.Is(err, errRolledBack):
			return nil
		case !engine.IsRetryable(err):
			return err
		}
	}
}

// commit runs one transaction. Its last row is the writer's head: it tells the
// oracle how far the writer came.
func (w *writer) commit(noSync bool, fn func(*tx) error) error {
	t, err := w.k.db.Begin(context.Background(), engine.TxOptions{NoSync: noSync})
	if err != nil {
		return err
	}
	defer func() { _ = t.Rollback() }()
	w.txn++
	x := &tx{Tx: t, w: w, n: w.txn}
	if err := fn(x); err != nil {
		return err
	}
	if err := x.put(tableHeads, oneKey(headKey(w.id)), row{}); err != nil {
		return err
	}
	err = w.k.j.write(record{Kind: kindCommit, Writer: w.id, Txn: x.n, NoSync: noSync, Effects: x.effects})
	if err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		if engine.IsRetryable(err) {
			return errors.Join(err, w.answer(kindVoid))
		}
		return fmt.Errorf("commit: %w", err)
	}
	return w.answer(kindAck)
}

// answer tells what became of the last intent.
func (w *writer) answer(kind string) error {
	return w.k.j.write(record{Kind: kind, Writer: w.id, Txn: w.txn})
}

// intend tells what is going to be called.
func (w *writer) intend(kind, table string) error {
	w.txn++
	return w.k.j.write(record{Kind: kind, Writer: w.id, Txn: w.txn, Table: table})
}

func (w *writer) sync(fn func() error) error {
	if err := w.intend(kindSync, ""); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return w.answer(kindAck)
}

// create creates a table. Names come back after a drop: nothing of the old
// table's rows may.
func (w *writer) create(name string) error {
	if err := w.intend(kindCreate, name); err != nil {
		return err
	}
	t, err := w.k.db.CreateTable(context.Background(), name)
	if err != nil {
		return err
	}
	w.k.setTable(name, t)
	return w.answer(kindAck)
}

func (w *writer) drop(name string) error {
	if err := w.intend(kindDrop, name); err != nil {
		return err
	}
	if err := w.k.db.DropTable(context.Background(), name); err != nil {
		return err
	}
	w.k.setTable(name, nil)
	return w.answer(kindAck)
}

func (w *writer) changeTables() error {
	name := ownTable(w.id, w.rng.IntN(ownTables))
	if w.k.table(name) == nil {
		return w.create(name)
	}
	return w.drop(name)
}

// own returns one of the writer's tables; it creates one if there is none.
func (w *writer) own() (string, error) {
	first := w.rng.IntN(ownTables)
	for i := range ownTables {
		if name := ownTable(w.id, (first+i)%ownTables); w.k.table(name) != nil {
			return name, nil
		}
	}
	name := ownTable(w.id, first)
	return name, w.create(name)
}
