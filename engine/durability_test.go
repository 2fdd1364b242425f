package engine

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// filesIn returns how many files with the suffix the directory has.
func filesIn(t tester, o *Options, dir, suffix string) (n int) {
	t.Helper()
	names, err := o.FS.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			n++
		}
	}
	return n
}

// Recovery put each change of the catalog into the edit queue while it read the
// log, and the queue waits until all of the log is read and synced: with more of
// them behind the checkpoint than the queue has places, Open never returned.
func TestRecoveryOfManyTables(t *testing.T) {
	const tables = 5000
	o := crashOptions(t)
	o.LogLimit, o.MapMemTable = 64<<20, 4<<20
	db := mustOpen(t, o)
	for i := range tables {
		_, err := db.CreateTable(ctx, fmt.Sprintf("t%d", i))
		check(t, err)
	}
	after := crashed(o, 0)
	mustClose(t, db)
	db = mustOpen(t, after)
	if n := len(db.Tables()); n != tables {
		t.Errorf("%d tables after the crash, want %d", n, tables)
	}
	db = reopen(t, db, after)
	if n := len(db.Tables()); n != tables {
		t.Errorf("%d tables after another opening, want %d", n, tables)
	}
	mustClose(t, db)
}

// L5: each opening begins a segment, and the checkpoint position of a store in which
// nothing is committed stayed before all of them, so that none was ever reused.
func TestOpeningLeavesNoSegments(t *testing.T) {
	for _, rows := range []int{0, 10} {
		o := crashOptions(t)
		db := mustOpen(t, o)
		if rows > 0 {
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) {
				for i := range rows {
					put(t, tx, tb, fmt.Sprint(i), "v")
				}
			})
		}
		mustClose(t, db)
		for range 30 {
			mustClose(t, mustOpen(t, o))
		}
		// Closed at once, an opening may not have come to its checkpoint. One is due when
		// more than so many segments can go; one is written, one prepared, one on its way.
		db = mustOpen(t, o)
		most := int(maxPassed+db.o.LogLimit/db.log.SegmentSize()) + 3
		eventually(t, "reuse of segments", func() bool { return filesIn(t, o, "db/log", ".seg") <= most })
		mustClose(t, db)
	}
}

// L5: the same store, killed again and again before it could make a checkpoint.
func TestKilledOpeningsLeaveNoSegments(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, mustTable(t, db, "t"), "k", "v") })
	for range 40 {
		after := crashed(o, 0)
		check(t, db.Close())
		o = after
		db = mustOpen(t, o)
	}
	last := crashed(o, 0)
	check(t, db.Close())
	done := make(chan struct{}, 8)
	last.Events = &EventListener{Checkpoint: func(CheckpointInfo) { done <- struct{}{} }}
	db = mustOpen(t, last)
	if db.log.Stats().Segments > 4 {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("no checkpoint was made")
		}
	}
	if n := db.log.Stats().Segments; n > 4 {
		t.Errorf("%d log segments after 41 openings", n)
	}
	inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "k", "v") })
	check(t, db.Close())
}

// P5: a transaction deleted a row that it had written before a savepoint. Its redo
// was logged, then the scavenger chilled the older version, so that its copy came
// later in the log than the tombstone. Recovery settled the leaf between the two;
// no frame lay below, the tombstone went, and the copy brought the row back.
func TestReplayOfOlderRowAfterTombstone(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	check(t, db.Checkpoint(ctx))
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", string(value(1, 400)))
	_, err := tx.Savepoint()
	check(t, err)
	del(t, tx, tb, "k")
	for i := range 200 { // recovery makes the page larger, and settles it for that
		put(t, tx, tb, fmt.Sprintf("m%03d", i), "small")
	}
	if !db.m.Unburden(false) {
		t.Fatal("the redo was not logged")
	}
	chillAll(t, db)
	if db.Metrics().ChilledRecords == 0 {
		t.Fatal("nothing was chilled")
	}
	commit(t, tx)
	after := crashed(o, 0)
	mustClose(t, db)
	db = mustOpen(t, after)
	inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "k", "") })
	mustClose(t, db)
}

// L10: a large value that a newer one supersedes leaves the list. The newer one may
// be of a NoSync commit: the edit must not be durable before its record is, or a
// crash takes both.
func TestSupersededByNoSync(t *testing.T) {
	o := crashOptions(t)
	o.SyncInterval = 1 << 40
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	large := func(n int) string { return string(value(n, 20<<10)) }
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", large(1)) })
	check(t, db.Checkpoint(ctx))
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	put(t, tx, tb, "k", large(2))
	commit(t, tx)
	mergeAt(t, db, tb, []byte("k"))
	_, err := db.space.Flush() // as when the memtable is full
	check(t, err)
	after := crashed(o, 0)
	mustClose(t, db)
	db = mustOpen(t, after)
	inView(t, db, func(tx *Tx) {
		got, err := tx.Get(mustTable(t, db, "t"), []byte("k"))
		check(t, err)
		if s := string(got); s != large(1) && s != large(2) {
			t.Errorf("k is %.10q of %d bytes", s, len(s))
		}
	})
	mustClose(t, db)
}

// A run file was lost. Then a checkpoint took the run for unlinked and forgot that
// its owner had committed, so that the next opening took the rows for those of a
// rollback, and said nothing.
func TestLostRunIsNotForgotten(t *testing.T) {
	o := crashOptions(t)
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range uint64(100) {
			check(t, tx.Put(tb, u64(i), value(int(i), 100)))
		}
	})
	mustClose(t, db)
	db = mustOpen(t, o)
	names, err := o.FS.List("db/space/runs")
	check(t, err)
	for _, name := range names {
		check(t, o.FS.Remove("db/space/runs/"+name))
	}
	for range 2 {
		check(t, db.Checkpoint(ctx))
		inView(t, db, func(tx *Tx) {
			_, err := tx.Get(mustTable(t, db, "t"), u64(5))
			if _, ok := errors.AsType[*CorruptionError](err); !ok {
				t.Errorf("a row of the lost run: %v", err)
			}
		})
		if db.Verify(ctx) == nil {
			t.Error("Verify finds nothing")
		}
	}
	check(t, db.Close())
	for n := range 3 {
		if _, err := Open("db", o); !errors.As(err, new(*CorruptionError)) {
			t.Fatalf("opening %d: %v", n, err)
		}
	}
}

// L1: a large transaction commits what its temp table holds. While BacklogOwner
// waited for room to move one leaf, its walk had gone on, and another transaction
// split that leaf: the half that split off was never visited, its rows were in no
// frame when the commit record was written, and a crash took them.
func TestSplitWhileLargeCommits(t *testing.T) {
	const places = 4096 // in the edit queue
	o := crashOptions(t)
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	key := func(i int) string { return fmt.Sprintf("k%04d", i) }
	large, other := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	for i := range 100 {
		put(t, large, tb, key(10*i), string(value(i, 100)))
	}
	check(t, db.space.WaitApplied(db.space.LastSeq()))
	check(t, db.space.ReserveEdits(ctx, places))
	used := db.space.Stats().BufferUsed
	done := make(chan error)
	go func() { done <- large.Commit() }()
	for until := time.Now().Add(20 * time.Second); db.space.Stats().BufferUsed == used; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatal("the commit moves nothing")
		}
	}
	for i := 1; db.cache.Stats.Splits.Load() == 0; i++ {
		if i%10 != 0 {
			put(t, other, tb, key(i), string(value(i, 300)))
		}
	}
	db.space.UnreserveEdits(places)
	check(t, <-done)
	after := crashed(o, 0)
	rollback(t, other)
	mustClose(t, db)
	db = mustOpen(t, after)
	inView(t, db, func(tx *Tx) {
		rows := all(t, tx, mustTable(t, db, "t"))
		if len(rows) != 100 {
			t.Errorf("%d rows after the crash, want 100", len(rows))
		}
	})
	mustClose(t, db)
}

// entriesOf returns how many entries of the leaf map a table has.
func entriesOf(t tester, db *DB, tb *Table) (n int) {
	t.Helper()
	w := db.space.NewWalk(tb.ID)
	defer w.Close()
	for at := []byte{}; ; {
		en, found, _, high, err := w.Lookup(at)
		if err != nil {
			t.Fatal(err)
		}
		if found {
			n++
			high = bytes.Clone(en.High)
			db.space.ReleaseEntry(&en)
		}
		if high == nil {
			return n
		}
		at = bytes.Clone(high)
	}
}

// A crash took a large transaction half way. Its runs went at the next opening, but
// what the leaf map lists of them stayed there for ever where nobody wrote.
func TestEntriesOfLostTransactionGo(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range uint64(60000) {
		check(t, tx.Put(tb, u64(i), value(int(i), 100)))
	}
	check(t, db.Checkpoint(ctx))
	if n := entriesOf(t, db, tb); n < 100 {
		t.Fatalf("%d entries", n)
	}
	after := crashed(o, 0)
	rollback(t, tx)
	mustClose(t, db)
	db = mustOpen(t, after)
	tb = mustTable(t, db, "t")
	check(t, db.Checkpoint(ctx))
	check(t, db.CollectSpace(ctx))
	if n := entriesOf(t, db, tb); n > 0 {
		t.Errorf("%d entries are left", n)
	}
	mustClose(t, db)
}

// Files of the log were lost before the first checkpoint, which would have noted a
// position in them: the store opened, and what was in them had never been.
func TestLostLogIsNoticed(t *testing.T) {
	for _, all := range []bool{true, false} {
		o := crashOptions(t)
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		for n := range 40 { // more than a segment
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, fmt.Sprint("large", n), string(value(n, 9<<10)))
				for i := range 10 {
					put(t, tx, tb, fmt.Sprintf("k%d.%d", n, i), string(value(i, 1000)))
				}
			})
		}
		_, err := db.space.Flush()
		check(t, err)
		after := crashed(o, 0)
		mustClose(t, db)
		var segs []string
		names, err := after.FS.List("db/log")
		check(t, err)
		for _, name := range names {
			f, err := after.FS.Open("db/log/" + name)
			check(t, err)
			var head [8]byte
			_, err = f.ReadAt(head[:], 0)
			check(t, err)
			check(t, f.Close())
			if head != [8]byte{} { // not one made ready for later
				segs = append(segs, name)
			}
		}
		slices.Sort(segs)
		if len(segs) < 2 {
			t.Fatalf("%d segments", len(segs))
		}
		for i, name := range segs {
			if all || i == len(segs)-1 {
				check(t, after.FS.Remove("db/log/"+name))
			}
		}
		db, err = Open("db", after)
		if _, ok := errors.AsType[*CorruptionError](err); !ok {
			t.Errorf("all %v: a store whose log was lost opens: %v", all, err)
		}
		if err == nil {
			check(t, db.Close())
		}
	}
}
