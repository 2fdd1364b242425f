package engine

import (
	"errors"
	"testing"
)

// Memory holds nothing of a record that is older than what frames hold of it (P1):
// who finds the newest version in memory does not ask the frames.
//
// The story: a writer brought the value of a backlogged record back to memory, below
// its own version, although a lock lay above the value in a frame. When it rolled
// back, the value was the newest version in memory, and a transaction older than the
// committed lock wrote over it without a conflict. TestModel found it
// (seed 5389841482091653047).
func TestRestoreBelowCommittedLock(t *testing.T) {
	for _, change := range []string{"update", "delete", "put"} {
		t.Run(change, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			k := []byte("k")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "value") })
			old := mustBegin(t, db, TxOptions{})
			inUpdate(t, db, func(tx *Tx) {
				_, err := tx.GetForUpdate(tb, k)
				check(t, err)
			})
			evictAll(t, db)
			tx := mustBegin(t, db, TxOptions{})
			switch change {
			case "update":
				check(t, tx.Update(tb, k, []byte("new")))
			case "delete":
				check(t, tx.Delete(tb, k))
			case "put":
				check(t, tx.Put(tb, k, []byte("new")))
			}
			check(t, tx.Rollback())
			if err := old.Put(tb, k, []byte("old")); !errors.Is(err, ErrConflict) {
				t.Errorf("a transaction older than the lock writes: %v, want %v", err, ErrConflict)
			}
			check(t, old.Rollback())
			inView(t, db, func(tx *Tx) {
				if v, err := tx.Get(tb, k); err != nil || string(v) != "value" {
					t.Errorf("%q, %v", v, err)
				}
			})
			checkStore(t, db)
			mustClose(t, db)
		})
	}
}
