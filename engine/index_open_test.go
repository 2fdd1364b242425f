package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// leftIndexes is what a crash leaves of a store with a table t with an index "kept",
// one that was being built, and one whose table was dropped.
func leftIndexes(t *testing.T) *vfs.MemFS {
	t.Helper()
	mem := newCrashFS(t)
	db := mustOpen(t, faultOptions(mem))
	tb, gone := mustTable(t, db, "t"), mustTable(t, db, "gone")
	fillWords(t, db, tb, 60)
	mustIndex(t, db, tb, "kept", false)
	mustIndex(t, db, gone, "orphan", true)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, gone, "1", "a") })
	check(t, db.ddl.lock(ctx))
	check(t, db.commitDrop(gone))
	db.ddl.unlock()
	var killed *vfs.MemFS
	_, err := db.CreateIndex(ctx, tb, "left", false, func(row Row, emit func([]byte)) {
		if byWords(row, emit); killed == nil {
			killed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		}
	})
	check(t, err)
	check(t, db.Close())
	return killed
}

// Each write of an opening fails that has indexes to drop: what fails leaves nothing
// behind that works (TestMain counts goroutines), and the next opening drops them. An
// opening dropped them beside the checkpointer, which looks at the same list, and left
// it running when that failed.
func TestIndexFaultAtOpen(t *testing.T) {
	killed := leftIndexes(t)
	for _, kind := range []errorfs.OpReadWrite{errorfs.OpIsWrite, errorfs.OpIsRead} {
		faultPlan(t, 1, func(n int64) int64 { return 1 + n/16 }, func(n int64) bool {
			mem := killed.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			f := &faults{kind: kind, err: errInjected}
			what := func() string { return fmt.Sprintf("operation %d of open: %s", n, f.where()) }
			within(t, what, func() {
				f.arm(n)
				db, err := Open("db", faultOptions(errorfs.Wrap(mem, f)))
				f.armed.Store(false)
				if err == nil {
					_ = db.Close() // what fails now is another test's
				} else if !errors.Is(err, errInjected) {
					t.Errorf("%s: %v", what(), err)
				}
			})
			rng := rand.New(rand.NewPCG(uint64(n), 6))
			o := faultOptions(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(n % 3 * 50), RNG: rng}))
			within(t, what, func() {
				db := mustOpen(t, o)
				tb := mustTable(t, db, "t")
				if got := fmt.Sprint(db.Tables(), db.Indexes(tb), len(db.tables)); got != "[t] [kept] 2" {
					t.Errorf("%s: tables, indexes: %s", what(), got)
				}
				ix := mustIndex(t, db, tb, "kept", false)
				inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
				mustClose(t, db)
			})
			return f.failed.Load() > 0
		})
	}
}
