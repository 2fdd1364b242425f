package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
)

// Whoever waits for the turn of a change of tables, of a checkpoint or of a space
// collection goes when its context ends. They had waited for a mutex.
func TestWaitsForATurnEndWithTheContext(t *testing.T) {
	db, tb := misuseStore(t)
	writer := mustBegin(t, db, TxOptions{})
	put(t, writer, tb, "l", "1")
	dropping, cancel := context.WithCancel(ctx)
	dropped := make(chan error, 1)
	go func() { dropped <- db.DropTable(dropping, "t") }()
	for tb.Dropped.Load() == 0 {
		time.Sleep(time.Millisecond) // until it waits for the writer
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	_, err := db.CreateTable(short, "u")
	wantErr(t, "create while another change waits", err, context.DeadlineExceeded)
	wantErr(t, "drop while another change waits", db.DropTable(short, "u"), context.DeadlineExceeded)
	cancel()
	wantErr(t, "drop", <-dropped, context.Canceled)
	put(t, writer, tb, "l", "2")
	commit(t, writer)

	for name, m := range map[string]mutex{"checkpoint": db.ckpt.mu, "collect": db.collect.mu} {
		check(t, m.lock(ctx))
		short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
		if name == "checkpoint" {
			err = db.Checkpoint(short)
		} else {
			err = db.CollectSpace(short)
		}
		wantErr(t, name, err, context.DeadlineExceeded)
		stop()
		m.unlock()
	}
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "0", "l", "2") })
	mustClose(t, db)
}

// A cursor that has moved past an end of its range is behind that end, whatever
// way it came there: Next and Prev had begun anew after a Seek behind the range,
// and after an own write at the last key that the range allows.
func TestCursorBehindItsRange(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		for _, k := range []string{"a", "b", "c", "m", "x"} {
			put(s, tx, s.tb, k, k)
		}
		s.move()
		c := tx.Cursor(s.tb, Range{From: []byte("b"), To: []byte("n")})
		defer func() { check(s, c.Close()) }()
		at := func(what string, ok bool, want string) {
			s.Helper()
			if ok != (want != "") || string(c.Key()) != want || c.Err() != nil {
				s.Errorf("%s: at %q, %v, %v, want %q", what, c.Key(), ok, c.Err(), want)
			}
		}
		at("seek behind the range", c.Seek([]byte("x")), "")
		at("next behind the range", c.Next(), "")
		at("prev from behind the range", c.Prev(), "m")
		at("seek before the range", c.SeekBefore([]byte("a")), "")
		at("prev before the range", c.Prev(), "")
		at("next from before the range", c.Next(), "b")
		at("seek before the first", c.SeekBefore([]byte("b")), "")
		at("prev before the first", c.Prev(), "")
		at("next from before the first", c.Next(), "b")
		at("before no key", c.SeekBefore(nil), "")
		at("before the empty key", c.SeekBefore([]byte{}), "")
		at("from no key", c.Seek(nil), "b")
		put(s, tx, s.tb, "b", "b")
		at("prev of the first, after a write", c.Prev(), "")
		at("prev again", c.Prev(), "")
		at("next", c.Next(), "b")
		at("last", c.Last(), "m")
		at("next of the last", c.Next(), "")
		at("next again", c.Next(), "")
		put(s, tx, s.tb, "mm", "mm") // it sees own writes when it moves
		at("next after a write", c.Next(), "")
		at("prev", c.Prev(), "mm")
		at("seek into nothing", c.Seek([]byte("mmm")), "")
		at("next after it", c.Next(), "")

		one := tx.Cursor(s.tb, Range{From: []byte("c"), To: []byte("c\x00")})
		defer func() { check(s, one.Close()) }()
		n := 0
		for one.Next() {
			put(s, tx, s.tb, "c", fmt.Sprint(n))
			n++
		}
		if one.Next() || n != 1 || one.Err() != nil {
			s.Errorf("a range of one key has %d, and begins anew: %q, %v", n, one.Key(), one.Err())
		}
		none := tx.Cursor(s.tb, Range{From: []byte("c"), To: []byte("b")})
		if none.First() || none.Next() || none.Last() || none.Prev() || none.Seek([]byte("b")) || none.SeekBefore([]byte("c")) || none.Err() != nil {
			s.Errorf("an empty range has %q, %v", none.Key(), none.Err())
		}
		check(s, none.Close())
		rollback(s, tx)
	})
}

// Bounds and keys to seek may be longer than any key.
func TestLongBounds(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		long := strings.Repeat("k", MaxKeySize)
		for _, k := range []string{"j", "k", long, "l"} {
			put(s, tx, s.tb, k, k[:1])
		}
		s.move()
		beyond := []byte(strings.Repeat("k", 200<<10))
		keys := func(r Range) (got string) {
			for row, err := range tx.Scan(s.tb, r) {
				check(s, err)
				got += fmt.Sprint(len(row.Key), string(row.Value), " ")
			}
			return got
		}
		for _, c := range []struct {
			r    Range
			want string
		}{
			{Range{From: beyond}, "1l "},
			{Range{To: beyond}, "1j 1k 8192k "},
			{Range{From: beyond, Reverse: true}, "1l "},
			{Range{To: beyond, Reverse: true}, "8192k 1k 1j "},
			{Range{From: []byte(long), To: beyond}, "8192k "},
			{Range{From: beyond, To: append(bytes.Clone(beyond), 0)}, ""},
		} {
			if got := keys(c.r); got != c.want {
				s.Errorf("from %d to %d reverse %v: %s, want %s", len(c.r.From), len(c.r.To), c.r.Reverse, got, c.want)
			}
		}
		c := tx.Cursor(s.tb, Range{})
		if !c.Seek(beyond) || string(c.Key()) != "l" || !c.SeekBefore(beyond) || string(c.Key()) != long {
			s.Errorf("cursor at %.10q, %v", c.Key(), c.Err())
		}
		check(s, c.Close())
		rollback(s, tx)
	})
}

// A transaction, cursor or table that nobody made says so.
func TestZeroHandles(t *testing.T) {
	db, tb := misuseStore(t)
	misuse(t, "zero transaction", &Tx{}, tb, true, ErrTxDone)
	wantErr(t, "commit", (&Tx{}).Commit(), ErrTxDone)
	wantErr(t, "rollback", (&Tx{}).Rollback(), ErrTxDone)
	_, err := (&Tx{}).Savepoint()
	wantErr(t, "savepoint", err, ErrTxDone)
	wantErr(t, "rollback to", (&Tx{}).RollbackTo(Savepoint{}), ErrTxDone)
	wantErr(t, "release", (&Tx{}).Release(Savepoint{}), ErrTxDone)
	mustClose(t, db)
}

// An Update whose context has ended is over, though its last try was a conflict: a
// caller who runs what is retryable again would never end.
func TestUpdateEndsWithItsContext(t *testing.T) {
	db, _ := misuseStore(t)
	c, cancel := context.WithCancel(ctx)
	err := db.Update(c, func(*Tx) error { cancel(); return ErrConflict })
	wantErr(t, "update", err, context.Canceled)
	wantErr(t, "update", err, ErrConflict)
	if IsRetryable(err) {
		t.Errorf("%v is retryable", err)
	}
	if !IsRetryable(fmt.Errorf("again: %w", base.ErrDeadlock)) || IsRetryable(nil) || IsRetryable(ErrRecordMemory) {
		t.Error("IsRetryable")
	}
	mustClose(t, db)
}

// A checkpoint is over, its lock included, when its event is told.
func TestCheckpointEventHoldsNoLock(t *testing.T) {
	o := memOptions()
	var db *DB
	told := 0
	o.Events = &EventListener{Checkpoint: func(CheckpointInfo) {
		if !db.ckpt.mu.tryLock() {
			t.Error("the event is told under the checkpoint's lock")
			return
		}
		db.ckpt.mu.unlock()
		_, err := db.Table("t")
		if told++; err != nil || len(db.Tables()) != 1 || db.Metrics().RecordMemoryCap == 0 {
			t.Errorf("the listener cannot look at the store: %v", err)
		}
	}}
	db = mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 100, 100) })
	check(t, db.Checkpoint(ctx))
	if told != 1 {
		t.Errorf("%d events", told)
	}
	o.Events.Checkpoint = nil
	mustClose(t, db)
}

// The logger is told why a store failed.
func TestLoggerIsToldOfFailure(t *testing.T) {
	var out strings.Builder
	o := memOptions()
	o.Logger = slog.New(slog.NewTextHandler(&out, nil))
	db := mustOpen(t, o)
	db.fail(errors.New("the disk is on fire"))
	_ = db.Close()
	if !strings.Contains(out.String(), "the disk is on fire") || !strings.Contains(out.String(), "level=ERROR") {
		t.Errorf("logged: %s", out.String())
	}
}

// The space of dropped tables comes back: by itself as the store grows, with one
// checkpoint, with CollectSpace, and on a store at rest. It had come back only with
// the second checkpoint after the drop, and bulk loads, which hardly write to the
// log, never led to one.
func TestSpaceOfDroppedTables(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 64 << 10
	db := mustOpen(t, o)
	const perTable = 20000 * 100
	drop := func(name string) {
		tb := mustTable(t, db, name)
		inUpdate(t, db, func(tx *Tx) {
			for k := range uint64(20000) {
				check(t, tx.Put(tb, u64(k), value(int(k), 100)))
			}
		})
		check(t, db.DropTable(ctx, name))
	}
	for i := range 20 {
		drop(fmt.Sprint("t", i))
		if n := db.space.RunBytes(); n > 5*perTable {
			t.Fatalf("%d KiB in runs after %d tables of %d KiB that were dropped", n>>10, i+1, perTable>>10)
		}
	}
	for name, now := range map[string]func() error{
		"Checkpoint":   func() error { return db.Checkpoint(ctx) },
		"CollectSpace": func() error { return db.CollectSpace(ctx) },
		"at rest": func() error {
			for end := time.Now().Add(20 * time.Second); db.space.RunBytes() > perTable/10 && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		},
	} {
		drop(name)
		check(t, now())
		if n := db.space.RunBytes(); n > perTable/10 {
			t.Errorf("%s leaves %d KiB in runs", name, n>>10)
		}
	}
	tb := mustTable(t, db, "read")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	old := mustBegin(t, db, TxOptions{})
	check(t, db.DropTable(ctx, "read"))
	check(t, db.Checkpoint(ctx))
	check(t, db.CollectSpace(ctx))
	gets(t, old, tb, "k", "v") // whoever reads it keeps it
	rollback(t, old)
	mustClose(t, db)
}
