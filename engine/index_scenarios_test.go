package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Scenario 13 by index: an old snapshot looks up the old value of a row whose indexed
// value has changed since, chilled, committed, pruned, evicted and merged.
func TestScenario13OldValueByIndex(t *testing.T) {
	for _, threshold := range []int64{1, 1 << 30} {
		o := memOptions()
		o.ChillThreshold = threshold
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		ix := mustIndex(t, db, tb, "words", false)
		one := mustIndex(t, db, tb, "unique", true)
		inUpdate(t, db, func(tx *Tx) {
			put(t, tx, tb, "k", "old")
			put(t, tx, tb, "l", "other")
		})
		old := mustBegin(t, db, TxOptions{ReadOnly: true})
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, "k", "new")
		chillAll(t, db)
		looks := func(when string) {
			t.Helper()
			for _, ix := range []*Index{ix, one} {
				for word, want := range map[string]string{"old": `"old"→"k"="old"`, "new": "", "other": `"other"→"l"="other"`} {
					got := scanned(t, old, ix, Range{From: []byte(word), To: []byte(word + "\x00")})
					if strings.Join(got, " ") != want {
						t.Fatalf("%s: index %q of %q: %q, want %q", when, ix.Name(), word, got, want)
					}
				}
			}
		}
		looks("uncommitted")
		commit(t, tx)
		looks("committed")
		pruneAll(t, db)
		looks("pruned")
		evictAll(t, db)
		looks("evicted")
		for i := range 12 {
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", fmt.Sprint("new", i)) })
			backlogAll(t, db)
		}
		mergeAt(t, db, ix.Entries(), []byte("o"))
		mergeAt(t, db, tb, []byte("k"))
		check(t, db.Checkpoint(ctx))
		looks("merged")
		rollback(t, old)
		wantShow(t, db, ix, "new11:k other:l")
		wantShow(t, db, one, "new11:k other:l")
		mustClose(t, db)
	}
}

// Scenario 16 by index: three snapshots over values that come back, with filler that
// forces everything out of memory; each still finds its own by index.
func TestScenario16ThreeSnapshotsByIndex(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb, filler := mustTable(t, db, "t"), mustTable(t, db, "filler")
	ix := mustIndex(t, db, tb, "words", false)
	values := []string{"D", "A", "C"}
	var snaps []*Tx
	for i, v := range values {
		inUpdate(t, db, func(tx *Tx) {
			for j := range 300 {
				put(t, tx, tb, fmt.Sprintf("k%03d", j), fmt.Sprintf("%s x%d", v, (i+j)%7))
			}
		})
		snaps = append(snaps, mustBegin(t, db, TxOptions{ReadOnly: true}))
		inUpdate(t, db, func(tx *Tx) {
			for j := range 400 * *scale {
				put(t, tx, filler, fmt.Sprintf("f%d.%06d", i, j), string(value(j, 2000)))
			}
		})
	}
	inUpdate(t, db, func(tx *Tx) {
		for j := range 300 {
			put(t, tx, tb, fmt.Sprintf("k%03d", j), "A") // again
		}
	})
	for round := range 3 {
		for i, tx := range snaps {
			sameIndex(t, tx, ix)
			for _, v := range values {
				want := 0
				if v == values[i] {
					want = 300
				}
				if got := len(scanned(t, tx, ix, Range{From: []byte(v), To: []byte(v + "\x00")})); got != want {
					t.Fatalf("round %d, snapshot of %s: %d rows of %s", round, values[i], got, v)
				}
			}
		}
		evictAll(t, db)
	}
	for _, tx := range slices.Backward(snaps) {
		rollback(t, tx)
	}
	inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
	mustClose(t, db)
}

// A transaction far larger than record memory writes an indexed table, rolls back to
// a savepoint, and goes on: rows and entries leave memory together.
func TestIndexInLargeTransaction(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "words", false)
	tx := mustBegin(t, db, TxOptions{})
	write := func(from, to int, word string) {
		for i := from; i < to; i++ {
			put(t, tx, tb, fmt.Sprintf("k%05d", i*7919%20000), fmt.Sprintf("%s%d %s", word, i%100, value(i, 100)))
		}
	}
	n := 6000 * *scale
	write(0, n, "a")
	sp, err := tx.Savepoint()
	check(t, err)
	write(n/2, n+n/2, "b")
	sameIndex(t, tx, ix)
	check(t, tx.RollbackTo(sp))
	sameIndex(t, tx, ix)
	write(0, n/10, "c")
	sameIndex(t, tx, ix)
	commit(t, tx)
	inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
	if n := db.Metrics().BackloggedChains; n == 0 {
		t.Error("nothing was backlogged")
	}
	mustClose(t, db)
}
