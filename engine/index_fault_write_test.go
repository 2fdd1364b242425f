package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestIndexFaultAtEveryWrite fails the n-th write of a workload on indexed tables, and
// all after it. The store is poisoned; reopened from what the disk has, it has the
// rows that were acknowledged, and its indexes agree with them.
func TestIndexFaultAtEveryWrite(t *testing.T) {
	step := func(n int64) int64 { return 3 + n/6 }
	indexes := 0
	faultPlan(t, 1, step, func(n int64) bool {
		mem := newCrashFS(t)
		f := &faults{kind: errorfs.OpIsWrite, err: errInjected}
		db := mustOpen(t, faultOptions(errorfs.Wrap(mem, f)))
		f.arm(n)
		orc := newOracle()
		l := newLife(db, orc, 7, poisonedOnly)
		l.index = func(tb *Table) error {
			_, err := db.CreateIndex(ctx, tb, "i", false, byEnds)
			return err
		}
		what := func() string { return fmt.Sprintf("write %d: %s", n, f.where()) }
		within(t, what, l.run)
		if l.strange != nil {
			t.Errorf("%s: %v", what(), l.strange)
		}
		acked, durable, started := orc.span()
		within(t, what, func() {
			if db.failed() != nil {
				for _, tb := range l.tables { // what was committed is read, by index, too
					if ix, err := db.Index(tb, "i"); err == nil && ix.Ready() != 0 {
						inView(t, db, func(tx *Tx) { sameIndexBy(t, tx, ix, byEnds) })
					}
				}
			}
			f.armed.Store(false)
			if err := db.Close(); err == nil {
				durable = acked
			} else if !errors.Is(err, ErrPoisoned) {
				t.Errorf("%s: close: %v", what(), err)
			}
		})
		fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(n % 3 * 50), RNG: rand.New(rand.NewPCG(uint64(n), 5))})
		within(t, what, func() { indexes += checkIndexLife(t, fs, orc, durable, started, what()) })
		return f.failed.Load() > 0
	})
	if indexes == 0 {
		t.Error("no index was ever there")
	}
}

// byEnds is the function of an index: two keys a row, of which many rows have the same.
func byEnds(row Row, emit func([]byte)) {
	v := row.Value
	emit(v[:min(1, len(v))])
	emit(v[len(v)-min(2, len(v)):])
}

// checkIndexLife opens what is left of a life, attaches the indexes that are there,
// and compares; it says how many there are.
func checkIndexLife(t *testing.T, fs vfs.FS, o *oracle, lo, hi int, what string) (indexes int) {
	t.Helper()
	db, err := Open("db", faultOptions(fs))
	if err != nil {
		t.Errorf("%s: reopen: %v", what, err)
		return 0
	}
	for _, name := range db.Tables() {
		tb := mustTable(t, db, name)
		for range db.Indexes(tb) {
			ix, err := db.CreateIndex(ctx, tb, "i", false, byEnds)
			check(t, err)
			inView(t, db, func(tx *Tx) { sameIndexBy(t, tx, ix, byEnds) })
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "after", "the fault") })
			inView(t, db, func(tx *Tx) { sameIndexBy(t, tx, ix, byEnds) })
			inUpdate(t, db, func(tx *Tx) { del(t, tx, tb, "after") })
			indexes++
		}
	}
	checkStore(t, db)
	o.match(t, what, contents(t, db, 0), lo, hi)
	mustClose(t, db)
	return indexes
}
