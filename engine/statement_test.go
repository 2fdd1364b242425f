package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
)

// A failed statement leaves its transaction exactly as it was, locks included. Each
// way to fail is tried on rows that are resident, chilled and backlogged, in small
// and large transactions, inside a savepoint and outside.

// failure is a statement that fails.
type failure struct {
	name string
	key  string
	want error
	run  func(s *failing) error
}

// failing is the transaction, and what is around it.
type failing struct {
	*story
	ctx *switchCtx
	tx  *Tx
}

var tooLong = strings.Repeat("k", MaxKeySize+1)

var failures = []failure{
	{"insert of an own row", "own", ErrKeyExists, func(s *failing) error { return s.tx.Insert(s.tb, []byte("own"), []byte("x")) }},
	{"insert of a committed row", "old", ErrKeyExists, func(s *failing) error { return s.tx.Insert(s.tb, []byte("old"), []byte("x")) }},
	{"insert of a large row over an old one", "old", ErrKeyExists, func(s *failing) error { return s.tx.Insert(s.tb, []byte("old"), make([]byte, 30000)) }},
	{"insert over a large row", "large", ErrKeyExists, func(s *failing) error { return s.tx.Insert(s.tb, []byte("large"), nil) }},
	{"update of nothing", "none", ErrNotFound, func(s *failing) error { return s.tx.Update(s.tb, []byte("none"), []byte("x")) }},
	{"large update of nothing", "none", ErrNotFound, func(s *failing) error { return s.tx.Update(s.tb, []byte("none"), make([]byte, 30000)) }},
	{"update of an own deleted row", "gone", ErrNotFound, func(s *failing) error { return s.tx.Update(s.tb, []byte("gone"), []byte("x")) }},
	{"delete of nothing", "none", ErrNotFound, func(s *failing) error { return s.tx.Delete(s.tb, []byte("none")) }},
	{"delete of an own deleted row", "gone", ErrNotFound, func(s *failing) error { return s.tx.Delete(s.tb, []byte("gone")) }},
	{"put over a newer row", "new", ErrConflict, func(s *failing) error { return s.tx.Put(s.tb, []byte("new"), []byte("x")) }},
	{"large put over a newer row", "new", ErrConflict, func(s *failing) error { return s.tx.Put(s.tb, []byte("new"), make([]byte, 30000)) }},
	{"insert of a row that cannot be seen", "unseen", ErrConflict, func(s *failing) error { return s.tx.Insert(s.tb, []byte("unseen"), []byte("x")) }},
	{"delete of a newer row", "new", ErrConflict, func(s *failing) error { return s.tx.Delete(s.tb, []byte("new")) }},
	{"lock of a newer row", "new", ErrConflict, func(s *failing) error { _, err := s.tx.GetForUpdate(s.tb, []byte("new")); return err }},
	{"wait that is cancelled", "theirs", context.Canceled, func(s *failing) error {
		return s.ctx.impatiently(func() error { return s.tx.Put(s.tb, []byte("theirs"), []byte("x")) })
	}},
	{"lock whose wait is cancelled", "theirs", context.Canceled, func(s *failing) error {
		return s.ctx.impatiently(func() error { _, err := s.tx.GetForUpdate(s.tb, []byte("theirs")); return err })
	}},
	{"large put whose wait is cancelled", "theirs", context.Canceled, func(s *failing) error {
		return s.ctx.impatiently(func() error { return s.tx.Put(s.tb, []byte("theirs"), make([]byte, 30000)) })
	}},
	{"empty key", "", ErrKeyEmpty, func(s *failing) error { return s.tx.Put(s.tb, nil, []byte("x")) }},
	{"long key", "", ErrKeyTooLarge, func(s *failing) error { return s.tx.Put(s.tb, []byte(tooLong), []byte("x")) }},
	{"large value", "", ErrValueTooLarge, func(s *failing) error { return s.tx.Put(s.tb, []byte("own"), hugeValue) }},
	{"no table", "", ErrTableNotFound, func(s *failing) error { return s.tx.Put(nil, []byte("own"), []byte("x")) }},
	{"savepoint that is gone", "", ErrSavepointNotFound, func(s *failing) error { return s.tx.RollbackTo(Savepoint{}) }},
}

var hugeValue = make([]byte, MaxValueSize+1)

func TestFailedStatementChangesNothing(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("old", "0", "new", "0", "gone", "0", "large", string(value(1, 30000)), "free", "0")
		x := &failing{story: s, ctx: &switchCtx{Context: ctx}}
		var err error
		x.tx, err = s.db.Begin(x.ctx, TxOptions{})
		check(s, err)
		put(s, x.tx, s.tb, "own", "1")
		del(s, x.tx, s.tb, "gone")
		put(s, x.tx, s.tb, "ownlarge", string(value(2, 30000)))
		inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "new", "1"); put(s, tx, s.tb, "unseen", "1") })
		other := s.begin()
		put(s, other, s.tb, "theirs", "2")
		s.move()
		for depth := range 2 {
			for _, f := range failures {
				x.fails(f)
			}
			s.savepoint(x.tx)
			put(s, x.tx, s.tb, "own", fmt.Sprint(depth+1))
			s.move()
		}
		rollback(s, other)
		commit(s, x.tx)
		s.wantCommitted("old", "0", "new", "1", "unseen", "1", "large", string(value(1, 30000)), "free", "0", "own", "2", "ownlarge", string(value(2, 30000)))
	})
}

// fails runs the statement, and then checks all that the transaction sees and holds.
func (x *failing) fails(f failure) {
	x.Helper()
	before := all(x, x.tx, x.tb)
	cur := x.tx.Cursor(x.tb, Range{})
	defer func() { _ = cur.Close() }()
	cur.First()
	if err := f.run(x); !errors.Is(err, f.want) {
		x.Fatalf("%s: %v, want %v", f.name, err, f.want)
	}
	x.move()
	if d := cmp.Diff(before, all(x, x.tx, x.tb)); d != "" {
		x.Fatalf("%s: the transaction sees something else: %.400s", f.name, d)
	}
	for i := range before { // a cursor from before goes on
		if got := string(cur.Key()) + "=" + string(cur.Value()); got != before[i] {
			x.Fatalf("%s: the cursor is at %.40q, want %.40q", f.name, got, before[i])
		}
		if cur.Next() != (i+1 < len(before)) {
			x.Fatalf("%s: the cursor ends at row %d of %d: %v", f.name, i, len(before), cur.Err())
		}
	}
	held := []string{"gone", "own", "ownlarge", "theirs"}
	for _, k := range []string{"own", "gone", "ownlarge", "old", "none", "new", "unseen", "large", "free", "theirs"} {
		if got, want := x.locked(k), slices.Contains(held, k); got != want {
			x.Fatalf("%s: %s is locked: %v", f.name, k, got)
		}
	}
}

// locked reports whether another transaction cannot write the record.
func (x *failing) locked(key string) bool {
	x.Helper()
	c := &switchCtx{Context: ctx}
	tx, err := x.db.Begin(c, TxOptions{})
	check(x, err)
	err = c.impatiently(func() error { return tx.Put(x.tb, []byte(key), []byte("other")) })
	rollback(x, tx)
	waitSwept(x, x.db)
	if err != nil && !errors.Is(err, context.Canceled) {
		x.Fatalf("put of %s: %v", key, err)
	}
	return err != nil
}

// A statement that record memory has no room for fails when nothing can move, and
// leaves its transaction as it was; it can go on when there is room again.
func TestStatementWithoutMemoryChangesNothing(t *testing.T) {
	for _, threshold := range []int64{1, 1 << 30} {
		t.Run(fmt.Sprint("threshold=", threshold), func(t *testing.T) {
			o := tinyOptions()
			o.ChillThreshold = threshold
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			c := &switchCtx{Context: ctx}
			tx, err := db.Begin(c, TxOptions{})
			check(t, err)
			fillRows(t, tx, tb, 0, 500, 100)
			sp, err := tx.Savepoint()
			check(t, err)
			fillRows(t, tx, tb, 200, 700, 50)
			before := all(t, tx, tb)
			evictAll(t, db)
			for i := range 100 {
				eventually(t, "the scavenger rests", func() bool {
					return db.scav.Quiet(func() {
						n := db.arena.Cap()
						for n > 0 && !db.arena.Charge(n) { // what the leaves left, somebody else takes
							n -= 256
						}
						err = c.impatiently(func() error { return tx.Put(tb, fmt.Appendf(nil, "k%06d", i), value(-i, 200)) })
						db.arena.Uncharge(n)
					})
				})
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("put %d: %v, with %d bytes left", i, err, db.arena.Cap()-db.arena.Reserved())
				}
			}
			if d := cmp.Diff(before, all(t, tx, tb)); d != "" {
				t.Fatalf("the transaction sees something else: %.400s", d)
			}
			check(t, tx.RollbackTo(sp))
			wantRows(t, tx, tb, 0, 500, 100)
			fillRows(t, tx, tb, 500, 600, 100)
			commit(t, tx)
			inView(t, db, func(tx *Tx) { wantRows(t, tx, tb, 0, 600, 100) })
			mustClose(t, db)
		})
	}
}

// GetForUpdate took the lock and then read the row. When the disk refused, the
// statement had failed, and the lock stayed.
func TestLockOfUnreadableRowIsNone(t *testing.T) {
	for _, threshold := range []int64{1, 1 << 30} {
		mem := newCrashFS(t)
		f := &faults{kind: errorfs.OpIsRead, skip: toWrite, err: errInjected}
		o := faultOptions(errorfs.Wrap(mem, f))
		o.ChillThreshold = threshold
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 500, 100) })
		check(t, db.Checkpoint(ctx))
		evictAll(t, db)
		x := &failing{story: &story{T: t, db: db, tb: tb}, tx: mustBegin(t, db, TxOptions{})}
		put(t, x.tx, tb, "own", "1")
		evictAll(t, db)
		f.arm(1)
		_, err := x.tx.GetForUpdate(tb, []byte("k000250"))
		f.armed.Store(false)
		wantErr(t, "lock of a row that cannot be read", err, errInjected)
		if x.locked("k000250") {
			t.Error("the record is locked")
		}
		got, err := x.tx.GetForUpdate(tb, []byte("k000250"))
		if err != nil || string(got) != string(value(250, 100)) {
			t.Fatalf("lock: %.40q %v", got, err)
		}
		if !x.locked("k000250") {
			t.Error("the record is not locked")
		}
		commit(t, x.tx)
		mustClose(t, db)
	}
}
