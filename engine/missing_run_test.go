package engine

import (
	"errors"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// runsOf returns the names of the run files in an image.
func (im image) runs() (names []string) {
	for _, name := range im.files() {
		if path.Ext(name) == ".run" {
			names = append(names, name)
		}
	}
	return names
}

// names reports whether err is a CorruptionError of that file.
func names(err error, file string) bool {
	corrupt, ok := errors.AsType[*CorruptionError](err)
	return ok && path.Base(corrupt.File) == path.Base(file)
}

// L11: a run file that somebody removed was taken for one that was replaced: of a
// killed store a whole bulk commit was missing, and nobody said so. Each is missed
// at open, whatever the store went through, and named; or its rows are elsewhere.
func TestRemovedRun(t *testing.T) {
	closed, killed := newVictims(t)
	for name, v := range map[string]*victim{"closed": closed, "killed": killed, "backup": newBackedUp(t, killed)} {
		t.Run(name, func(t *testing.T) {
			n, err := v.read(v.im.restore(t))
			if err != nil || n != v.n {
				t.Fatalf("with all its files: the state after %d commits, %v", n, err)
			}
			named := 0
			for _, file := range v.im.runs() {
				im := maps.Clone(v.im)
				delete(im, file)
				n, err := v.read(im.restore(t))
				switch {
				case names(err, file):
					named++
				case err != nil:
					t.Errorf("without %s: %v", file, err)
				case n != v.n:
					t.Errorf("without %s: the state after %d of %d commits, and nobody says so", file, n, v.n)
				}
			}
			if named == 0 {
				t.Errorf("none of %d files was needed", len(v.im.runs()))
			}
		})
	}
}

// A leaf map that somebody removed, or the marker of its manifest, was made anew
// without a word, and rows that only merged shared runs held were gone. So was all of
// a log that the map on disk did not know of yet. Whatever directory or marker goes,
// and whatever the store went through, that is noticed and named.
func TestRemovedDirectory(t *testing.T) {
	closed, killed := newVictims(t)
	young := newYoung(t)
	for name, v := range map[string]*victim{"closed": closed, "killed": killed, "backup": newBackedUp(t, killed), "young": young} {
		t.Run(name, func(t *testing.T) {
			removed := map[string]string{ // and what is named
				"db/FORMAT": "FORMAT", "db/log": "log", "db/space": "map", "db/space/map": "map",
				"db/space/map/marker.manifest": "map", "db/space/map/marker.format-version": "map",
			}
			for what, want := range removed {
				im := maps.Clone(v.im)
				maps.DeleteFunc(im, func(name string, _ []byte) bool { return strings.HasPrefix(name, what) })
				if len(im) == len(v.im) {
					t.Fatalf("nothing is called %s", what)
				}
				fs := im.restore(t)
				for range 2 { // the first refusal leaves nothing that the second trusts
					_, err := v.read(fs)
					if c, ok := errors.AsType[*CorruptionError](err); !ok || !strings.Contains(c.File, want) {
						t.Errorf("without %s: %v", what, err)
					}
				}
			}
		})
	}
}

// newYoung makes a store that was killed before its first checkpoint: one segment
// of the log, no run.
func newYoung(t *testing.T) *victim {
	t.Helper()
	mem := newCrashFS(t)
	db := mustOpen(t, faultOptions(mem))
	orc := newOracle()
	l := newLife(db, orc, 11, func(error) bool { return false })
	check(t, l.create("a"))
	check(t, l.transaction("a", 8, 100, false, false, nil))
	_, _, n := orc.span()
	im := takeImage(t, mem.CrashClone(vfs.CrashCloneCfg{}), "db")
	check(t, db.Close())
	v := &victim{im, orc, n}
	if got, err := v.read(im.restore(t)); err != nil || got != n || len(im.runs()) > 0 {
		t.Fatalf("with all its files: the state after %d of %d commits, %d runs, %v", got, n, len(im.runs()), err)
	}
	return v
}

// No alarm is false: a store that is killed at any moment of its first opening, with
// or without what was not synced, opens.
func TestKilledInItsFirstMoments(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex // the store writes in several goroutines
	var clones []vfs.FS
	o := memOptions()
	o.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			mu.Lock()
			defer mu.Unlock()
			n := len(clones)
			clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{
				UnsyncedDataPercent: n % 3 * 50, RNG: rand.New(rand.NewPCG(uint64(n), 4)),
			}))
		}
		return nil
	}))
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	mustClose(t, db)
	if len(clones) < 30 {
		t.Fatalf("%d crashes", len(clones))
	}
	for i, fs := range clones {
		c := *o
		c.FS = fs
		db, err := Open("db", &c)
		if err != nil {
			t.Fatalf("crash %d of %d: %v", i, len(clones), err)
		}
		mustClose(t, db)
	}
}

// newBackedUp makes a backup of the store.
func newBackedUp(t *testing.T, v *victim) *victim {
	t.Helper()
	fs := v.im.restore(t)
	db := mustOpen(t, faultOptions(fs))
	check(t, db.Backup(ctx, "copy"))
	check(t, db.Close())
	im := image{}
	for name, b := range takeImage(t, fs, "copy") {
		im["db"+strings.TrimPrefix(name, "copy")] = b
	}
	return &victim{im, v.o, v.n}
}

// bulkKilled returns a store that was killed right after a bulk commit of which the
// map on disk knows nothing.
func bulkKilled(t *testing.T, o *Options) image {
	t.Helper()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	check(t, db.Checkpoint(ctx))
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 5000, 100) })
	im := takeImage(t, fs.CrashClone(vfs.CrashCloneCfg{}), "db")
	mustClose(t, db)
	return im
}

// The worst case of TestRemovedRun: only the commit record names the runs. All that
// are missing are named at once, and Verify and a read name one that goes later.
func TestRemovedRunOfCommitRecord(t *testing.T) {
	o := tinyOptions()
	o.MapMemTable = 16 << 20 // no flush of its own
	o.RunSize = 64 << 10
	im := bulkKilled(t, o)
	runs := im.runs()
	if len(runs) < 3 {
		t.Fatalf("%d runs", len(runs))
	}
	gone := maps.Clone(im)
	for _, file := range runs {
		delete(gone, file)
	}
	o.FS = gone.restore(t)
	_, err := Open("db", o)
	for _, file := range runs {
		if err == nil || !strings.Contains(err.Error(), path.Base(file)) {
			t.Errorf("%s is missing, and Open says %v", file, err)
		}
	}

	fs := im.restore(t)
	o.FS = fs
	mustClose(t, reopen(t, mustOpen(t, o), o)) // a recovery and a checkpoint: then the map knows them
	for _, file := range slices.Backward(runs) {
		db := mustOpen(t, o)
		if _, err := fs.Stat(file); err != nil {
			mustClose(t, db)
			continue // collected
		}
		check(t, fs.Remove(file))
		if err := db.Verify(ctx); !names(err, file) {
			t.Errorf("verify: %v", err)
		}
		tb, err := db.Table("t")
		check(t, err)
		err = db.View(ctx, func(tx *Tx) error {
			for _, err := range tx.Scan(tb, Range{}) {
				if err != nil {
					return err
				}
			}
			return nil
		})
		if !names(err, file) {
			t.Errorf("scan: %v", err)
		}
		_ = db.Close() // it may need the file
		if _, err := Open("db", o); !names(err, file) {
			t.Errorf("open: %v", err)
		}
		break
	}
}

// A run that a commit record names may have been replaced, and be gone for good:
// before the commit, by merges of the owner's frames, or since. Killed at any time,
// and in the recovery, the store opens: no alarm is false.
func TestReplacedRunsAreNotMissed(t *testing.T) {
	o := tinyOptions()
	o.RunSize = 64 << 10
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	key := func(i int) []byte { return value(i%300, 12) }
	tx := mustBegin(t, db, TxOptions{})
	for i := range 900 {
		put(t, tx, tb, string(key(i)), string(value(i, 1000)))
		if i%100 == 99 {
			backlogAll(t, db)
			mergeAt(t, db, tb, key(i))
			_, err := db.space.Flush()
			check(t, err)
		}
	}
	opens := func(what string) {
		t.Helper()
		opts, left := *o, fs
		for again := range 3 { // killed right after the recovery, twice
			opts.FS = left.CrashClone(vfs.CrashCloneCfg{})
			db := mustOpen(t, &opts)
			inView(t, db, func(tx *Tx) {
				if n := len(all(t, tx, mustTable(t, db, "t"))); n != 300 {
					t.Errorf("%s, opened %d times: %d rows", what, again+1, n)
				}
			})
			checkStore(t, db)
			left = memFS(opts.FS).CrashClone(vfs.CrashCloneCfg{})
			mustClose(t, db)
		}
	}
	before := db.Metrics().Runs
	commit(t, tx)
	opens("committed")
	_, err := db.space.Flush()
	check(t, err)
	opens("flushed")
	evictAll(t, db)
	for i := range 300 {
		mergeAt(t, db, tb, key(i))
	}
	opens("merged")
	for range 2 {
		_, err = db.space.Flush()
		check(t, err)
		opens("merged and flushed")
	}
	if after := db.Metrics().Runs; after >= before {
		t.Errorf("%d runs before, %d after the merges", before, after)
	}
	// The outcome must not go as long as the commit record is replayed.
	if n := len(db.cache.Unnamed()); n > 0 {
		t.Errorf("%d outcomes would be forgotten before the checkpoint", n)
	}
	check(t, db.Checkpoint(ctx))
	opens("after a checkpoint")
	mustClose(t, db)
}
