package engine

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
)

// TestIndexFaultsAtRandom: statements on an indexed table of which every other meets
// a disk that does not read, the leaf map included, whose blocks do not fit into its
// cache. What fails has changed nothing, and leaves no lock; what does not fail is
// there, within savepoints that come and go, for transactions that commit and such
// that do not.
func TestIndexFaultsAtRandom(t *testing.T) {
	const rows = 500
	long := strings.Repeat("k", 500) // so that the map is large
	key := func(i int) string { return fmt.Sprintf("%04d%s", i, long) }
	val := func(n, u int) string { return fmt.Sprintf("u%d w%d x%d", u, n%9, n%50) }
	for _, threshold := range []int64{1, 1 << 30} {
		f := &faults{kind: errorfs.OpIsRead, skip: toWrite, err: errInjected}
		o := faultOptions(errorfs.Wrap(newCrashFS(t), f))
		o.ChillThreshold, o.LockTimeout = threshold, -1
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		fns := []func(Row, func([]byte)){byWords, firstWord}
		var ixs []*Index
		attach := func() {
			ixs = ixs[:0]
			for i, name := range []string{"plain", "unique"} {
				ix, err := db.CreateIndex(ctx, tb, name, i == 1, fns[i])
				check(t, err)
				ixs = append(ixs, ix)
			}
		}
		attach()
		model := map[string]string{} // committed
		inUpdate(t, db, func(tx *Tx) {
			for i := range rows {
				model[key(i)] = val(i, i)
				put(t, tx, tb, key(i), model[key(i)])
			}
		})
		same := func(tx *Tx, want map[string]string) {
			t.Helper()
			for i, ix := range ixs {
				sameIndexBy(t, tx, ix, fns[i])
			}
			var list []string
			for _, k := range slices.Sorted(maps.Keys(want)) {
				list = append(list, k+"="+want[k])
			}
			if d := cmp.Diff(list, all(t, tx, tb)); d != "" {
				t.Fatalf("rows: %.900s", d)
			}
		}
		free := func(t2 *Table, k []byte) {
			t.Helper()
			probe := mustBegin(t, db, TxOptions{})
			_, err := probe.GetForUpdate(t2, k)
			for try := 0; errors.Is(err, errInjected) && try < 10; try++ {
				// The disk reads again, but somebody in the background is still opening a file
				// of the map that it did not read, and whoever asks for it gets his error.
				_, err = probe.GetForUpdate(t2, k)
			}
			if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrConflict) {
				t.Fatalf("%s %.40q is locked: %v", t2.Name, k, err)
			}
			rollback(t, probe)
		}
		rng := rand.New(rand.NewPCG(uint64(threshold), max(*crashSeed, 1)))
		failed, maps_ := 0, 0
		for round := range 6 * *scale {
			evictAll(t, db)
			db = reopen(t, db, o)
			tb = mustTable(t, db, "t")
			attach()
			release := db.space.HoldCompactions() // they would read the map into memory
			tx := mustBegin(t, db, TxOptions{Isolation: Isolation(round % 3)})
			now, touched := maps.Clone(model), map[string]bool{}
			for step := range 60 {
				k := key(rng.IntN(rows + 20))
				n := rng.IntN(rows)
				v := val(n, n)
				before, there := now[k]
				var want error
				if taken := slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(other string) bool {
					return other != k && strings.HasPrefix(now[other], fmt.Sprintf("u%d ", n))
				}); taken {
					want = ErrKeyExists
				}
				armed := rng.IntN(3) > 0
				f.failed.Store(0)
				if armed {
					f.arm(int64(1 + rng.IntN(4)))
				}
				var err error
				op := rng.IntN(5)
				switch op {
				case 0:
					err = tx.Put(tb, []byte(k), []byte(v))
				case 1:
					if there {
						want = ErrKeyExists
					}
					err = tx.Insert(tb, []byte(k), []byte(v))
				case 2:
					if !there {
						want = ErrNotFound
					}
					err = tx.Update(tb, []byte(k), []byte(v))
				case 3:
					if want = nil; !there {
						want = ErrNotFound
					}
					err = tx.Delete(tb, []byte(k))
				case 4:
					want = nil
					err = brokenScan(tx, ixs[n%2], Range{From: []byte("u1"), To: []byte("x4"), Limit: 30, Reverse: step%2 == 0})
				}
				f.armed.Store(false)
				met := f.failed.Load() > 0
				if told := met && errors.Is(err, errInjected); !told && (!errors.Is(err, want) || want == nil && err != nil) {
					t.Fatalf("round %d, step %d, operation %d: %v, want %v", round, step, op, err, want)
				}
				switch {
				case err == nil && op == 3:
					delete(now, k)
				case err == nil && op < 3:
					now[k] = v
				case err != nil && errors.Is(err, errInjected):
					if failed++; strings.Contains(f.where(), "space/map") {
						maps_++
					}
				}
				if err != nil && !touched[k] {
					free(tb, []byte(k))
				}
				byWords(Row{Value: []byte(before + " " + v)}, func(w []byte) {
					e := entryOf(ixs[0], w, k)
					switch {
					case err == nil && op < 4:
						touched[k], touched[string(e)] = true, true
					case err != nil && !touched[string(e)]:
						free(ixs[0].Entries(), e)
					}
				})
				if step%6 == 0 {
					waitSwept(t, db)
					evictAll(t, db)
					db.cache.DropCold()
				}
				if step%20 == 19 {
					same(tx, now)
				}
			}
			if round%3 == 2 {
				rollback(t, tx)
			} else {
				commit(t, tx)
				model = now
			}
			inView(t, db, func(tx *Tx) { same(tx, model) })
			release()
		}
		t.Logf("threshold %d: %d statements failed, %d of them for the map", threshold, failed, maps_)
		if failed < 20 || maps_ < 3 {
			t.Error("the disk was hardly asked")
		}
		mustClose(t, db)
	}
}
