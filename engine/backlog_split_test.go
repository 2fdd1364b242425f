package engine

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// P6, L1: a commit lost the rows of half a leaf. BacklogOwner walks the leaves and
// relieves them with several processors, so the walk was ahead of the work: a leaf
// that it had passed, and that was split before its turn came, left half of the
// transaction's rows in a leaf that nobody visited. They stayed in memory, visible,
// and were gone after a crash: 49 rows in round 301 of bench/crash with seed 7.
func TestLeafSplitWhileItsOwnerCommits(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 16 << 10
	o.LogLimit = 64 << 20 // no checkpoint helps
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	key := func(i int) string { return fmt.Sprintf("k%05d", i) }
	for i := range 1000 { // some leaves
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, key(i*100), string(value(i, 100))) })
	}
	tx := mustBegin(t, db, TxOptions{})
	for i := range 1000 { // the first leaf last: redo of the first rows is logged
		i = 999 - i
		put(t, tx, tb, key(i*100), string(value(i, 40)))
	}
	if !db.reg.Get(txnOf(t, db)).Large.Load() {
		t.Fatal("the transaction is small")
	}

	// The first leaf's turn comes when the walk has come to the second and the
	// first was split, by others who write into it.
	var first, second sync.Once
	walked := make(chan struct{})
	db.cache.BeforeBacklog = func(low []byte) {
		if len(low) > 0 {
			second.Do(func() { close(walked) })
			return
		}
		first.Do(func() {
			<-walked
			before := db.Metrics().LeafSplits
			for i := 0; db.Metrics().LeafSplits == before && i < 99000; i++ {
				if i%100 != 0 {
					inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, key(i), "x") })
				}
			}
			if db.Metrics().LeafSplits == before {
				t.Error("no leaf was split")
			}
		})
	}
	commit(t, tx)
	db.cache.BeforeBacklog = nil
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	again := mustOpen(t, o)
	tb2 := mustTable(t, again, "t")
	lost := 0
	inView(t, again, func(tx *Tx) {
		for i := range 1000 {
			got, err := tx.Get(tb2, []byte(key(i*100)))
			check(t, err)
			if string(got) != string(value(i, 40)) {
				lost++
			}
		}
	})
	if lost > 0 {
		t.Errorf("%d rows of a durable commit are lost", lost)
	}
	mustClose(t, again)
	mustClose(t, db)
}
