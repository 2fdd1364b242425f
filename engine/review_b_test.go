package engine

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A settle that cannot compact leaves dropped versions in the page; their
// transaction is forgotten all the same.
func TestReviewDroppedVersionMoves(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k0", "x") })
	check(t, db.Checkpoint(ctx))
	a := mustBegin(t, db, TxOptions{})
	big := mustTable(t, db, "other")
	for i := range 40 { // makes a large
		put(t, a, big, fmt.Sprintf("x%03d", i), string(value(i, 100)))
	}
	sp, err := a.Savepoint()
	check(t, err)
	put(t, a, tb, "k5", string(value(1, 400)))
	check(t, a.RollbackTo(sp))
	b := mustBegin(t, db, TxOptions{})
	put(t, b, tb, "k6", string(value(1, 900)))
	rollback(t, b)
	commit(t, a)
	for range 2 {
		check(t, db.Checkpoint(ctx))
	}
	checkStore(t, db)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k5", "") })
	mustClose(t, db)
}

// A frame of one row is large by its key, too; a lock in it hides nothing.
func TestReviewLockSupersedes(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	long := string(bytes.Repeat([]byte("k"), 4400))
	inUpdate(t, db, func(tx *Tx) { // leaves with long fences
		for i := range 40 {
			put(t, tx, tb, fmt.Sprintf("%02d", i)+long, "n")
		}
	})
	evictAll(t, db)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "05", "v") })
	backlogAll(t, db) // one row, one frame of more than 8 KiB
	tx := mustBegin(t, db, TxOptions{})
	_, err := tx.GetForUpdate(tb, []byte("05"))
	check(t, err)
	backlogAll(t, db)
	commit(t, tx)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "05", "v") })
	mergeAt(t, db, tb, []byte("05"))
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "05", "v") })
	mustClose(t, db)
}

// A scan over large values must not hold a leaf full of them at once.
func TestReviewScanLargeMemory(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	v := make([]byte, 1<<20)
	for i := range 30 {
		inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, fmt.Appendf(nil, "k%02d", i), v)) })
	}
	pruneAll(t, db)
	check(t, db.Checkpoint(ctx))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	inView(t, db, func(tx *Tx) {
		n := 0
		for _, err := range tx.Scan(tb, Range{Limit: 1}) {
			check(t, err)
			n++
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
	})
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 8<<20 {
		t.Errorf("M5: a scan that stands at its first row holds %d MiB", grew>>20)
	}
	mustClose(t, db)
}

// Large values under keys whose bounds a list does not keep: the leaf must split
// all the same, or its list outgrows record memory and writers spin for ever.
func TestReviewLongKeysLarge(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	v := value(1, 8200)
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	for i := range 400 {
		k := append(fmt.Appendf(nil, "%05d", i*7919%400), bytes.Repeat([]byte("k"), 65)...)
		check(t, tx.Put(tb, k, v))
		if i%100 == 0 {
			pruneAll(t, db)
		}
	}
	if n := db.cache.Leaves(); n < 3 {
		t.Errorf("M5: 400 large values in %d leaves, %d bytes of descriptors", n, db.arena.Charged())
	}
	commit(t, tx)
	checkStore(t, db)
	mustClose(t, db)
}

// The commit of a transaction with a temp table fails; who waits for it must
// learn of it (L8, S5).
func TestReviewWaiterOfFailedCommit(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	var bad atomic.Bool
	errDisk := errors.New("disk is gone")
	mem := o.FS
	o.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "run") {
			return errDisk
		}
		return nil
	}))
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	a := mustBegin(t, db, TxOptions{})
	for i := range 60 {
		put(t, a, tb, fmt.Sprintf("k%03d", i), string(value(i, 100)))
	}
	b := mustBegin(t, db, TxOptions{})
	done := make(chan error, 1)
	go func() { done <- b.Put(tb, []byte("k007"), []byte("b")) }()
	time.Sleep(20 * time.Millisecond)
	bad.Store(true)
	err := a.Commit()
	t.Log("commit:", err)
	if err == nil {
		t.Skip("the fault was not met")
	}
	select {
	case err := <-done:
		t.Log("waiter:", err)
	case <-time.After(3 * time.Second):
		t.Error("who waited for the failed transaction waits for ever")
	}
	bad.Store(false)
	_ = db.Close()
}

// The shared run is full and another begins, under the lock of the edit queue.
func TestReviewRunRollsOver(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	o.RunSize = 64 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	for r := range 20 {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 50 {
				put(t, tx, tb, fmt.Sprintf("k%05d", (i*37+r)%3000), string(value(i, 500)))
			}
		})
		backlogAll(t, db)
	}
	check(t, db.Checkpoint(ctx))
	time.Sleep(50 * time.Millisecond)
	mustClose(t, db)
}

// The rows of a leaf of chilled headers need more buffer than a page.
func TestReviewThawWholeLeafBuffer(t *testing.T) {
	o := memOptions()
	o.LogLimit = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	v := value(1, 8000)
	for i := range 400 {
		put(t, tx, tb, fmt.Sprintf("k%03d", i), string(v))
		chillAll(t, db)
	}
	backlogAll(t, db)
	for range 100 {
		if db.space.Stats().BufferUsed <= 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	commit(t, tx)
	check(t, db.Checkpoint(ctx))
	if n := db.space.Stats().BufferUsed; n < 0 {
		t.Errorf("M1: %d bytes of buffer in use", n)
	}
	mustClose(t, db)
}
