package engine

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Pebble syncs a new manifest's content, then makes the marker file that names
// it, and only then syncs the directory. A crash that kept the marker's entry in
// the directory and lost the manifest's left a store that never opened again, new
// or old, since each opening makes a manifest. Found by a crash in the creation of
// examples/registry. The map's file system syncs the directory in between.
func TestManifestIsThereBeforeItsMarker(t *testing.T) {
	mem := newCrashFS(t)
	o := memOptions()
	o.FS = mem
	mustClose(t, mustOpen(t, o))
	for _, at := range []string{"db/space/map", "new/space/map"} {
		var mu sync.Mutex // the store syncs in several goroutines
		var clones []vfs.FS
		h := *o
		h.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			// A sync of the directory itself: what it is to make durable is not yet.
			if op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, at) {
				mu.Lock()
				defer mu.Unlock()
				for seed := range uint64(6) {
					cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, uint64(len(clones))))}
					clones = append(clones, mem.CrashClone(cfg))
				}
			}
			return nil
		}))
		dir, _, _ := strings.Cut(at, "/")
		db, err := Open(dir, &h)
		check(t, err)
		check(t, db.Close())
		if len(clones) < 6 {
			t.Fatalf("%s: %d crashes", at, len(clones))
		}
		for i, fs := range clones {
			c := *o
			c.FS = fs
			db, err := Open(dir, &c)
			if err != nil {
				t.Fatalf("crash %d in opening %s: %v", i, dir, err)
			}
			mustClose(t, db)
		}
	}
}
