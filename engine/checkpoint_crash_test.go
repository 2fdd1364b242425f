package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Crashes while checkpoints write leaves whole: their lists have one frame then, and
// runs go before the checkpoint has ended. The other crash tests keep moving rows out
// of memory, and hardly a leaf of theirs is written whole.

// calmStep is step for a writer whose rows stay in memory.
func (w *crashWriter) calmStep() {
	switch r := w.rng.IntN(20); {
	case r < 5:
		check(w.t, w.db.Checkpoint(ctx))
	case r == 5:
		check(w.t, w.db.CollectSpace(ctx))
	case r == 6:
		acked, _, _ := w.o.span()
		check(w.t, w.db.Sync())
		w.o.synced(acked)
	case r == 7 && w.rng.IntN(6) == 0:
		// Leaves that rows have left are not written whole any more: another table
		// has others.
		evictAll(w.t, w.db)
		w.addTable()
		if len(w.tables) > 2 {
			w.dropTable()
		}
	default:
		w.transaction(300+w.rng.IntN(600), 40)
	}
}

func calmOptions(fs vfs.FS) *Options {
	o := memOptions()
	o.FS, o.LogSegmentSize, o.RunSize, o.ChillThreshold = fs, 64<<10, 64<<10, 256<<10
	return o
}

// See TestCrashAtEverySync.
func TestCrashAtEverySyncOfWholeLeaves(t *testing.T) {
	seed := max(*crashSeed, 1)
	mem := newCrashFS(t)
	w := &crashWriter{id: 0, t: t, rng: rand.New(rand.NewPCG(seed, 4)), o: newOracle(), calm: true}
	writers := []*crashWriter{w}
	c := newCrashes(mem, seed, *everySync, writers)
	o := calmOptions(c.fs())
	w.db = mustOpen(t, o)
	w.db.collect.least = 16 << 10
	w.db.cache.AlwaysWhole.Store(true)
	w.addTable()
	opened, again, unlinked := 0, 0, uint64(0)
	for range 120 * (*scale) {
		w.step()
		for _, p := range c.take() {
			again += p.recoverTwice(t, *o, writers, seed+uint64(opened))
			opened++
		}
		unlinked = w.db.space.Stats().Unlinked
	}
	c.stop()
	whole := w.db.cache.Stats.WholeLeaves.Load()
	t.Logf("%d crashes, %d again in recovery; %d leaves written whole, %d runs unlinked\n%v", opened, again, whole, unlinked, w.db.Metrics())
	if whole == 0 || unlinked == 0 || opened == 0 || again == 0 {
		t.Error("the workload does not do what it is for")
	}
	mustClose(t, w.db)
}

// See TestCrash.
func TestCrashOfWholeLeaves(t *testing.T) {
	seed := max(*crashSeed, 1)
	fs := newCrashFS(t)
	o := calmOptions(fs)
	db := mustOpen(t, o)
	db.collect.least = 16 << 10
	db.cache.AlwaysWhole.Store(true)
	writers := newCrashWriters(t, db, seed)
	c := newCrew()
	defer c.stop()
	for _, w := range writers {
		w.calm, w.bulk = true, false
		c.repeat(func(int) { w.step() })
	}
	rng := rand.New(rand.NewPCG(seed, 98))
	for i := range *crashRounds {
		enough := db.cache.Stats.WholeLeaves.Load() + 1 + rng.Uint64N(10)
		eventually(t, "leaves written whole", func() bool { return db.cache.Stats.WholeLeaves.Load() >= enough })
		p := takeCrash(fs, i%3*50, rng, writers)
		p.recover(t, *o, writers, rng)
		if t.Failed() {
			return
		}
	}
	c.stop()
	mustClose(t, db)
}
