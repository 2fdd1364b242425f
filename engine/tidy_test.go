package engine

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// A checkpoint makes every row clean, so that pruning a warm leaf retires all of
// it: rows that were read all the time went to disk while their pages were full of
// garbage and slack. Tidying takes those and keeps the rows.
func TestTidyKeepsWhatIsRead(t *testing.T) {
	db, err := Open("db", &Options{FS: vfs.NewMem(), NoSync: true})
	check(t, err)
	defer mustClose(t, db)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	const rows = 5000
	inUpdate(t, db, func(tx *Tx) {
		for i := range rows {
			check(t, tx.Put(tb, u64(uint64(i)), value(i, 100)))
		}
	})
	for round := range 3 {
		for i := round; i < rows; i += 7 {
			inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, u64(uint64(i)), value(i+round, 100))) })
		}
	}
	check(t, db.Checkpoint(ctx))
	for i := 0; i < rows; i += 5 { // garbage that no frame has
		inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, u64(uint64(i)), value(i, 60))) })
	}
	before, cold := db.arena.Reserved(), db.Metrics().ColdReads
	retired := db.Metrics().RetiredVersions
	rep := relieveAll(t, db, recordcache.Tidy)
	if rep.Rows != 0 || rep.Freed <= 0 || db.arena.Reserved() >= before {
		t.Errorf("tidying freed %d bytes and wrote %d rows", rep.Freed, rep.Rows)
	}
	inView(t, db, func(tx *Tx) {
		for i := range rows {
			if _, err := tx.Get(tb, u64(uint64(i))); err != nil {
				t.Fatal(err)
			}
		}
	})
	if m := db.Metrics(); m.ColdReads != cold || m.RetiredVersions != retired {
		t.Errorf("%d rows were retired, %d frames read", m.RetiredVersions-retired, m.ColdReads-cold)
	}
	// A leaf that is being filled keeps its slack: it would grow again at once.
	tx := mustBegin(t, db, TxOptions{})
	for i := range 1000 {
		check(t, tx.Put(tb, u64(1<<40+uint64(i)*3), value(i, 100)))
	}
	relieveAll(t, db, recordcache.Tidy)
	if rep := relieveAll(t, db, recordcache.Tidy); rep.Freed != 0 {
		t.Errorf("tidying twice freed %d bytes the second time", rep.Freed)
	}
	check(t, tx.Commit())
}
