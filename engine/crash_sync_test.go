package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncFS tells about each operation that changes what a crash may leave: after
// syncs of files and directories, renames and removals (moment "sync"), and after
// writes ("write").
type syncFS struct {
	*vfs.MemFS
	after func(moment, name string)
}

type syncFile struct {
	vfs.File
	fs   *syncFS
	name string
}

func (s *syncFS) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &syncFile{f, s, name}, nil
}

func (s *syncFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.MemFS.Create(name, c)
	return s.wrap(f, name, err)
}

func (s *syncFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.MemFS.OpenReadWrite(name, c, o...)
	return s.wrap(f, name, err)
}

func (s *syncFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.MemFS.ReuseForWrite(old, name, c)
	return s.wrap(f, name, err)
}

func (s *syncFS) OpenDir(name string) (vfs.File, error) {
	f, err := s.MemFS.OpenDir(name)
	return s.wrap(f, name, err)
}

func (s *syncFS) Remove(name string) error {
	err := s.MemFS.Remove(name)
	s.after("sync", name)
	return err
}

func (s *syncFS) Rename(old, name string) error {
	err := s.MemFS.Rename(old, name)
	s.after("sync", name)
	return err
}

func (f *syncFile) Sync() error {
	err := f.File.Sync()
	f.fs.after("sync", f.name)
	return err
}

func (f *syncFile) SyncData() error {
	err := f.File.SyncData()
	f.fs.after("sync", f.name)
	return err
}

func (f *syncFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.fs.after("write", f.name)
	return n, err
}

func (f *syncFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	f.fs.after("write", f.name)
	return n, err
}

// crashes collects clones taken by a syncFS. After each operation it takes one with
// the chance of its moment, in percent of unsynced data at random; with
// -saker.everysync three after every sync.
type crashes struct {
	mem     *vfs.MemFS
	sync    int // one in so many; 0: none
	write   int
	every   bool
	writers []*crashWriter

	mu     sync.Mutex // guards the fields below
	rng    *rand.Rand
	off    bool
	points []crashPoint
	seen   map[string]int // syncs by kind of file
}

func newCrashes(mem *vfs.MemFS, seed uint64, every bool, writers []*crashWriter) *crashes {
	return &crashes{
		mem: mem, sync: 40, write: 400, every: every, writers: writers,
		rng: rand.New(rand.NewPCG(seed, 7)), seen: map[string]int{},
	}
}

func (c *crashes) fs() *syncFS { return &syncFS{MemFS: c.mem, after: c.after} }

func suffixOf(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[i:]
	}
	return strings.TrimRight(name[strings.LastIndexByte(name, '/')+1:], "-0123456789")
}

func (c *crashes) after(moment, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return
	}
	chance := c.write
	if moment == "sync" {
		chance = c.sync
		c.seen[suffixOf(name)]++
	}
	percents := []int{c.rng.IntN(3) * 50}
	switch {
	case moment == "sync" && c.every:
		percents = []int{0, 50, 100}
	case chance == 0 || c.rng.IntN(chance) != 0:
		return
	}
	for _, percent := range percents {
		p := takeCrash(c.mem, percent, c.rng, c.writers)
		p.at = moment + " " + name
		c.points = append(c.points, p)
	}
}

// take returns the clones so far.
func (c *crashes) take() []crashPoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	points := c.points
	c.points = nil
	return points
}

func (c *crashes) stop() {
	c.mu.Lock()
	c.off = true
	c.mu.Unlock()
}

// recoverTwice opens what the crash left while it crashes again, at operations of
// recovery itself and right after it; every one of those must recover to a state
// that the first crash allows, and what was read once stays (recovery is
// idempotent).
func (p *crashPoint) recoverTwice(t *testing.T, o Options, writers []*crashWriter, seed uint64) (again int) {
	t.Helper()
	again = -1
	c := newCrashes(p.fs, seed, false, nil)
	c.sync, c.write = 12, 60
	o.FS = c.fs()
	db, err := Open("db", &o)
	c.stop()
	if err != nil {
		t.Fatalf("%s, %d %% of unsynced data: %v", p.at, p.percent, err)
	}
	next := takeCrash(p.fs, c.rng.IntN(3)*50, c.rng, nil)
	next.at = "right after recovery"
	checkStore(t, db)
	next.lo, next.hi = make([]int, len(writers)), make([]int, len(writers))
	for i, w := range writers {
		what := fmt.Sprintf("%s, %d %% of unsynced data, writer %d", p.at, p.percent, w.id)
		n := w.o.match(t, what, contents(t, db, w.id), p.lo[i], p.hi[i])
		next.lo[i], next.hi[i] = n, n
	}
	check(t, db.Close())
	points := c.take()
	for i := range points {
		q := &points[i]
		q.lo, q.hi = p.lo, p.hi
		q.at = p.at + ", then in recovery " + q.at
	}
	for _, q := range append(points, next) {
		o.FS = q.fs
		db, err := Open("db", &o)
		if err != nil {
			t.Fatalf("%s, %d %% of unsynced data: %v", q.at, q.percent, err)
		}
		checkStore(t, db)
		for i, w := range writers {
			w.o.match(t, fmt.Sprintf("%s, %d %% of unsynced data, writer %d", q.at, q.percent, w.id), contents(t, db, w.id), q.lo[i], q.hi[i])
		}
		check(t, db.Close())
		again++
	}
	return again
}

// Pebble makes a manifest, then the marker that names it, then syncs the directory.
// A crash in between could leave the marker without the manifest, and the store did
// not open.
func TestCrashBetweenManifestAndMarker(t *testing.T) {
	collect := func(mem *vfs.MemFS, moment string, seeds uint64) (clones []*vfs.MemFS) {
		var mu sync.Mutex // several goroutines write
		fs := &syncFS{MemFS: mem, after: func(_, name string) {
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(name, moment) {
				for seed := range seeds {
					clones = append(clones, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rngOf(seed)}))
				}
			}
		}}
		o := tinyOptions()
		o.FS = fs
		check(t, mustOpen(t, o).Close())
		return clones
	}
	n := 0
	for _, first := range collect(newCrashFS(t), "db/log", 1) { // the first opening crashed
		for _, clone := range collect(first, "marker.", 6) { // and the next one
			o := tinyOptions()
			o.FS = clone
			check(t, mustOpen(t, o).Close())
			n++
		}
	}
	if n == 0 {
		t.Fatal("no marker was written")
	}
}

// Crashes after syncs, renames and removals, and after writes, over a workload that
// does everything that changes files; each clone is opened, verified and compared,
// its recovery crashes in turn. A sample by default, all of them with
// -saker.everysync.
func TestCrashAtEverySync(t *testing.T) {
	seed := max(*crashSeed, 1)
	mem := newCrashFS(t)
	w := &crashWriter{id: 0, t: t, rng: rand.New(rand.NewPCG(seed, 3)), o: newOracle(), bulk: true, few: 1500}
	writers := []*crashWriter{w}
	c := newCrashes(mem, seed, *everySync, writers)
	o := crashLifeOptions(c.fs())
	o.LogSegmentSize, o.RunSize, o.ChillThreshold = 64<<10, 64<<10, 32<<10
	w.db = mustOpen(t, o)
	w.db.collect.least = 16 << 10
	w.addTable()
	opened, again := 0, 0
	for range 160 * (*scale) {
		w.step()
		for _, p := range c.take() {
			again += p.recoverTwice(t, *o, writers, seed+uint64(opened))
			opened++
		}
	}
	c.stop()
	m := w.db.Metrics()
	t.Logf("%d crashes, %d again in recovery; syncs by kind %v\n%v", opened, again, c.seen, m)
	for what, n := range map[string]uint64{
		"chilled": m.ChilledRecords, "backlogged": m.BackloggedChains, "merged": m.FrameMerges, "collected": m.CollectedRuns,
		"recycled": m.LogRecycled, "rolled back": m.Rollbacks, "crashed": uint64(opened), "crashed in recovery": uint64(again),
	} {
		if n == 0 {
			t.Errorf("nothing was %s: the workload does not do what it is for", what)
		}
	}
	mustClose(t, w.db)
}
