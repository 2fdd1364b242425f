package engine

import (
	"fmt"
	"runtime"
	"testing"
)

// A reverse scan whose From lies below a leaf and does not share the leaf's
// common prefix.
func TestReverseScanFromBelowLeaf(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range uint64(5000) {
			check(t, tx.Put(tb, u64(i), value(int(i), 200)))
		}
	})
	inView(t, db, func(tx *Tx) {
		for from := uint64(0); from < 5000; from += 111 {
			n := 0
			for _, err := range tx.Scan(tb, Range{From: u64(from), Reverse: true}) {
				check(t, err)
				n++
			}
			if n != 5000-int(from) {
				t.Fatalf("from %d: %d rows, want %d", from, n, 5000-from)
			}
		}
	})
	mustClose(t, db)
}

// A scan over large values must not hold a leaf full of them at once.
func TestScanHoldsOneLargeValue(t *testing.T) {
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

// A cursor over a gap is open when the store is closed.
func TestCloseUnderCursor(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range uint64(3000) {
			check(t, tx.Put(tb, u64(i), value(int(i), 40)))
		}
	})
	evictAll(t, db)
	tx := mustBegin(t, db, TxOptions{})
	c := tx.Cursor(tb, Range{})
	for range 500 {
		if !c.Next() {
			t.Fatal(c.Err())
		}
	}
	if err := db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if c.Next() {
		t.Fatal("row after Close")
	}
	wantErr(t, "cursor", c.Err(), ErrClosed)
	check(t, c.Close())
}
