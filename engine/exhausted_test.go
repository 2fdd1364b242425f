package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// hogMemory takes all of record memory; free gives it back.
func hogMemory(db *DB) (free func()) {
	var hog [][]byte
	for size := 32 << 10; size >= 1<<10; size /= 2 {
		for b := db.arena.Alloc(size); b != nil; b = db.arena.Alloc(size) {
			hog = append(hog, b)
		}
	}
	return func() {
		for _, b := range hog {
			db.arena.Free(b)
		}
	}
}

// 14. Memory that is freed serves those who wait at once.
func TestHazard14FreedMemoryIsServedAtOnce(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	free := hogMemory(db)
	done := make(chan error, 4)
	for i := range 4 {
		go func() {
			done <- db.Update(ctx, func(tx *Tx) error { return tx.Put(tb, fmt.Appendf(nil, "k%d", i), value(i, 100)) })
		}()
	}
	eventually(t, "wait for memory", func() bool { return db.scav.Waiters() == 4 })
	if len(done) > 0 {
		t.Fatalf("a write went through without memory: %v", <-done)
	}
	free()
	for range 4 { // within a round, not when they give up
		check(t, <-done)
	}
	mustClose(t, db)
}

// Nothing can be moved: ErrRecordMemory says so after a bounded wait, which
// honours the context (M3), and the transaction is as it was.
func TestRecordMemoryExhausted(t *testing.T) {
	t.Parallel() // it waits for most of its time
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	c := &switchCtx{Context: ctx}
	tx, err := db.Begin(c, TxOptions{})
	check(t, err)
	put(t, tx, tb, "k", "before")
	evictAll(t, db)
	free := hogMemory(db)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	c.now = short
	wantErr(t, "put without memory", tx.Put(tb, []byte("l"), []byte("x")), context.DeadlineExceeded)
	c.now = nil
	gets(t, tx, tb, "k", "before") // reads need no record memory (M8)
	if !testing.Short() {
		err = tx.Put(tb, []byte("l"), []byte("x"))
		wantErr(t, "put without memory", err, ErrRecordMemory)
		if !strings.HasSuffix(err.Error(), db.holders()) {
			t.Errorf("M3: %v\ndoes not say who holds the memory: %s", err, db.holders())
		}
		if IsRetryable(err) || errors.Is(err, ErrConflict) {
			t.Error("lack of memory looks like a conflict")
		}
	}
	free()
	put(t, tx, tb, "l", "after")
	commit(t, tx)
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "before", "l", "after") })
	mustClose(t, db)
}
