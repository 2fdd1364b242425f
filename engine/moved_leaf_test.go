package engine

import (
	"fmt"
	"testing"
)

// A leaf is made present from a map entry that was read before another one was made
// present from it, lost its frames to a sweep, was filled in key order and moved
// right of what it sealed. The first one then overlapped the second and hid what
// was sealed: it wrote an entry over several others, or deleted one. Found by
// bench/history, whose big transactions roll back among small ones, as leaves of
// the map that overlap (P4).
func TestEntryReadBeforeItsLeafMovedRight(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	gone := mustBegin(t, db, TxOptions{})
	put(t, gone, tb, "k9", "rolled back")
	evictAll(t, db) // its frame is all there is of the leaf, in the map

	w := mustBegin(t, db, TxOptions{})
	const rows = 1000
	hooked := false
	db.cache.AfterLookup = func() {
		if hooked {
			return
		}
		hooked = true
		put(t, w, tb, "k0000", "w") // makes the leaf present
		rollback(t, gone)
		waitSwept(t, db) // and takes its frame from it
		for i := 1; i < rows; i++ {
			put(t, w, tb, fmt.Sprintf("k%04d", i), string(value(i, 100)))
		}
	}
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k0005", "") })
	if m := db.Metrics(); !hooked || m.SealedLeaves == 0 {
		t.Fatalf("no leaf was sealed\n%s", m)
	}
	put(t, w, tb, "k0005", "again")
	evictAll(t, db)
	checkStore(t, db)
	commit(t, w)
	evictAll(t, db)
	inView(t, db, func(tx *Tx) {
		if n := len(all(t, tx, tb)); n != rows {
			t.Errorf("%d rows, want %d", n, rows)
		}
		gets(t, tx, tb, "k0005", "again")
		gets(t, tx, tb, "k0006", string(value(6, 100)))
	})
	mustClose(t, db)
}
