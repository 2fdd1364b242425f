package engine

import (
	"fmt"
	"testing"
)

// L9: while the log is over its limit because no checkpoint can pass, a first write
// waits. Nothing else does: not later writes, chill, backlog, savepoints, commit or
// rollback of those who have begun to write, and not reads. When a checkpoint has
// passed, the waiter goes on. Segments are used again, not made anew.
func TestLogBackPressure(t *testing.T) {
	o := memOptions()
	o.LogSegmentSize, o.LogLimit, o.ChillThreshold = 64<<10, 1<<20, 64<<20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	older, second := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	put(t, older, tb, "older", "1")
	put(t, second, tb, "second", "1")

	check(t, db.ckpt.mu.lock(ctx)) // no checkpoint passes
	fill := mustBegin(t, db, TxOptions{})
	for i := 0; db.log.SinceCheckpoint() <= o.LogLimit; i++ {
		put(t, fill, tb, fmt.Sprintf("f%06d", i), string(value(i, 1000)))
	}
	// What a live transaction has logged does not count: no checkpoint can pass it.
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "free", "1") })
	commit(t, fill)
	waiting := &switchCtx{Context: ctx}
	late, err := db.Begin(waiting, TxOptions{})
	check(t, err)
	gets(t, late, tb, "older", "")
	first := func() error { return late.Put(tb, []byte("late"), []byte("1")) }
	wantErr(t, "first write over the limit", waiting.impatiently(first), canceled.Err())

	put(t, older, tb, "older2", "2")
	sp, err := older.Savepoint()
	check(t, err)
	put(t, older, tb, "older3", "3")
	chillAll(t, db)
	backlogAll(t, db)
	check(t, older.RollbackTo(sp))
	commit(t, older)
	rollback(t, second)
	wantErr(t, "first write over the limit, still", waiting.impatiently(first), canceled.Err())

	done := make(chan error)
	go func() { done <- first() }()
	db.ckpt.mu.unlock()
	check(t, db.Checkpoint(ctx))
	check(t, <-done)
	commit(t, late)
	inView(t, db, func(tx *Tx) {
		gets(t, tx, tb, "older2", "2")
		gets(t, tx, tb, "older3", "")
		gets(t, tx, tb, "second", "")
		gets(t, tx, tb, "late", "1")
	})
	for round := range 8 {
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 300, 200+round) })
		check(t, db.Checkpoint(ctx))
	}
	if m := db.Metrics(); m.LogRecycled == 0 {
		t.Errorf("no log segment was used again\n%v", m)
	}
	mustClose(t, db)
}
