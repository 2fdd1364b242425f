package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// replacer writes large and small values of few records, and rolls some back, each
// transaction durable or not.
type replacer struct {
	*crashWriter
	tb *Table
	n  int
}

func (r *replacer) val() []byte {
	r.n++
	return value(r.n, []int{20, 9000, 30_000}[r.rng.IntN(3)])
}

func (r *replacer) write(tx *Tx, d delta) {
	key := fmt.Sprintf("k%d", r.rng.IntN(6))
	at := r.tb.Name + "\x00" + key
	if r.rng.IntN(3) == 0 {
		if err := tx.Delete(r.tb, []byte(key)); err == nil {
			d[at] = nil
		}
		return
	}
	v := r.val()
	check(r.t, tx.Put(r.tb, []byte(key), v))
	d[at] = v
}

func (r *replacer) transaction() {
	nosync := r.rng.IntN(2) == 0
	tx := mustBegin(r.t, r.db, TxOptions{NoSync: nosync})
	d := delta{}
	for range 1 + r.rng.IntN(4) {
		r.write(tx, d)
		if r.rng.IntN(3) == 0 {
			sp, err := tx.Savepoint()
			check(r.t, err)
			r.write(tx, delta{})
			if r.rng.IntN(2) == 0 {
				backlogAll(r.t, r.db)
			}
			check(r.t, tx.RollbackTo(sp))
		}
		if r.rng.IntN(3) == 0 {
			evictAll(r.t, r.db)
		}
	}
	r.o.start(d)
	check(r.t, tx.Commit())
	r.o.ack(!nosync)
}

// A large value is taken off its leaf's list for what hides it, which may have been
// committed without sync, or by the same transaction: a crash leaves one or the other
// (L10). See TestCrashAtEverySync.
func TestCrashWhileReplacedIsUnlisted(t *testing.T) {
	seed := max(*crashSeed, 1)
	mem := newCrashFS(t)
	w := &crashWriter{id: 0, t: t, rng: rand.New(rand.NewPCG(seed, 5)), o: newOracle()}
	writers := []*crashWriter{w}
	c := newCrashes(mem, seed, *everySync, writers)
	c.sync, c.write = 8, 100
	o := calmOptions(c.fs())
	w.db = mustOpen(t, o)
	w.db.collect.least = 1
	r := &replacer{crashWriter: w}
	w.o.start(delta{"w0/t": []byte("table")})
	r.tb = mustTable(t, w.db, "w0/t")
	w.o.ack(true)
	opened, again := 0, 0
	for range 100 * (*scale) {
		r.transaction()
		if w.rng.IntN(3) == 0 {
			evictAll(t, w.db)
			check(t, w.db.CollectSpace(ctx))
		}
		for _, p := range c.take() {
			again += p.recoverTwice(t, *o, writers, seed+uint64(opened))
			opened++
		}
	}
	c.stop()
	w.o.match(t, "at the end", contents(t, w.db, 0), w.o.acked, w.o.acked)
	n := w.db.space.Stats().Unlinked
	t.Logf("%d crashes, %d again in recovery; %d runs unlinked\n%v", opened, again, n, w.db.Metrics())
	if opened == 0 || again == 0 || n == 0 {
		t.Error("the workload does not do what it is for")
	}
	mustClose(t, w.db)
}
