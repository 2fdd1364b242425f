package engine

import (
	"fmt"
	"slices"
	"testing"
)

// runFiles returns the names of the run files of the store.
func runFiles(t *testing.T, o *Options) []string {
	t.Helper()
	names, err := o.FS.List("db/space/runs")
	check(t, err)
	return names
}

// Recovery asked the leaf map whether it had an entry for a frame that it listed
// again, and never let go of the runs that the entry named: their files stayed, with
// nothing in them that anybody lists, until the next opening.
func TestRecoveryHoldsNoRuns(t *testing.T) {
	o := crashOptions(t)
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	evictAll(t, db)
	check(t, db.Checkpoint(ctx))
	old := runFiles(t, o)
	inUpdate(t, db, func(tx *Tx) {
		for i := range 100 {
			put(t, tx, tb, fmt.Sprintf("k%03d", i), string(value(i, 100)))
		}
		backlogAll(t, db)
	})
	after := crashed(o, 0) // the edits are lost
	mustClose(t, db)
	db = mustOpen(t, after)
	tb = mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "w") })
	for range 2 {
		evictAll(t, db)
		mergeAt(t, db, tb, []byte("k"))
		check(t, db.Checkpoint(ctx))
	}
	describeMap(t, db, tb)
	for _, name := range old {
		if slices.Contains(runFiles(t, after), name) {
			t.Errorf("%s is still there", name)
		}
	}
	mustClose(t, db)
}
