package engine

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// Rows leave memory while their transaction rolls back to a savepoint: what the
// undo does not find any more is dead by its epoch (S6).
func TestRollbackToWhileRowsLeave(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	c := newCrew()
	defer c.stop()
	var due atomic.Bool
	c.repeat(func(int) { // not earlier: the undo must not know that something left
		if due.CompareAndSwap(true, false) {
			backlogAll(t, db)
		}
	})
	const rows = 1500
	for round := range 100 {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, "kept", fmt.Sprint(round))
		sp, err := tx.Savepoint()
		check(t, err)
		for i := range rows {
			put(t, tx, tb, fmt.Sprintf("gone%05d", i), "x")
		}
		due.Store(true)
		check(t, tx.RollbackTo(sp))
		if got := all(t, tx, tb); len(got) != 1 {
			t.Errorf("round %d: %d rows after the rollback, the first is %.40q", round, len(got), got[0])
			break
		}
		commit(t, tx)
	}
	c.stop()
	mustClose(t, db)
}

// A version that is live when a checkpoint writes its leaf is not marked clean:
// once committed it is written by the next one, and the log may go (L6; a leaf
// marked clean as of installing, not of capturing).
func TestPitfallCleanAsOfCapturing(t *testing.T) {
	o := memOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 100, 100) })
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 50, 60) // live versions above committed ones
	fillRows(t, tx, tb, 100, 150, 60)
	check(t, db.Checkpoint(ctx)) // captures the leaf without them
	commit(t, tx)
	check(t, db.Checkpoint(ctx)) // it passes their commit record
	want := func(db *DB) {
		t.Helper()
		inView(t, db, func(tx *Tx) {
			rows := all(t, tx, mustTable(t, db, "t"))
			if len(rows) != 150 {
				t.Fatalf("%d rows", len(rows))
			}
			for i, row := range rows {
				size := 60
				if i >= 50 && i < 100 {
					size = 100
				}
				if want := fmt.Sprintf("k%06d=%s", i, value(i, size)); row != want {
					t.Fatalf("row %d is %.40q, want %.40q", i, row, want)
				}
			}
		})
	}
	atEachCrash(t, o, fs, func(_ *testing.T, db *DB, _ *Options) { want(db) })
	evictAll(t, db) // memory lets go of what is clean
	want(db)
	mustClose(t, db)
}
