package engine

import (
	"fmt"
	"testing"

	"github.com/sakerdb/saker/versionchain"
)

// chilledLeaf makes a leaf with more chilled data of one live transaction than one
// step brings back from the log, and behind it a chilled row, z, of another.
func chilledLeaf(t *testing.T) (db *DB, tb *Table, first, last *Tx) {
	t.Helper()
	o := memOptions()
	o.ChillThreshold = 400 << 10
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	first, last = mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	for i := range 40 {
		put(t, first, tb, fmt.Sprintf("a%02d", i), string(value(i, 8<<10)))
		chillAll(t, db)
	}
	put(t, last, tb, "z", string(value(1, 8<<10)))
	chillAll(t, db)
	if n := db.Metrics().ChilledRecords; n != 41 || db.cache.Leaves() != 1 {
		t.Fatalf("%d rows chilled in %d leaves", n, db.cache.Leaves())
	}
	return db, tb, first, last
}

// endChilled commits the transaction that filled the leaf, and looks at its rows.
func endChilled(t *testing.T, db *DB, tb *Table, first *Tx) {
	t.Helper()
	commit(t, first)
	inView(t, db, func(tx *Tx) {
		gets(t, tx, tb, "a39", string(value(39, 8<<10)))
		gets(t, tx, tb, "z", string(value(1, 8<<10)))
	})
	checkStore(t, db)
	mustClose(t, db)
}

// A commit that moves its rows to its temp table repeats the walk until a leaf holds
// none of them. The step read chilled rows of others back first, as many as it may,
// which it then left alone, and came to those of the commit never: it hung.
func TestCommitBehindChilledRows(t *testing.T) {
	db, tb, first, last := chilledLeaf(t)
	other := mustTable(t, db, "other")
	for i := range 500 {
		put(t, last, other, fmt.Sprintf("k%04d", i), string(value(i, 1000)))
	}
	large := false
	db.reg.Each(func(o *versionchain.Outcome) { large = large || o.Large.Load() })
	if !large {
		t.Fatal("the transaction is small")
	}
	commit(t, last)
	endChilled(t, db, tb, first)
}

// A checkpoint repeats the step on a leaf in which it missed a chilled row. It read
// rows of live transactions back, which it does not write, and took those that it
// had not read for missed: it hung as long as they lived.
func TestCheckpointBehindChilledRows(t *testing.T) {
	db, tb, first, last := chilledLeaf(t)
	commit(t, last)
	check(t, db.Checkpoint(ctx))
	endChilled(t, db, tb, first)
}
