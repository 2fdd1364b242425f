package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// flip changes one byte of a file in place and returns what changes it back.
func flip(t *testing.T, fs vfs.FS, path string, off int64) (undo func()) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	check(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	check(t, err)
	write := func() {
		b[0] ^= 0x40
		_, err := f.WriteAt(b[:], off)
		check(t, err)
	}
	write()
	return func() {
		write()
		check(t, f.Close())
	}
}

// findings returns what Verify says, one by one.
func findings(t *testing.T, db *DB) []error {
	t.Helper()
	err := db.Verify(ctx)
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok {
			if err != nil {
				return []error{err}
			}
			return nil
		}
		errs := joined.Unwrap()
		if len(errs) != 1 {
			return errs
		}
		err = errs[0]
	}
}

// wantFinding fails unless a finding names the file, an offset in [lo, hi], and
// says why.
func wantFinding(t *testing.T, found []error, file string, lo, hi int64, why string) {
	t.Helper()
	for _, err := range found {
		var ce *CorruptionError
		if errors.As(err, &ce) && strings.Contains(ce.File, file) && ce.Offset >= lo && ce.Offset <= hi && strings.Contains(err.Error(), why) {
			return
		}
	}
	t.Errorf("no finding in %s at %d to %d says %q; found:", file, lo, hi, why)
	for _, err := range found {
		t.Errorf("  %v", err)
	}
}

// subject is a store with something in every structure.
type subject struct {
	t    *testing.T
	fs   vfs.FS
	o    *Options
	db   *DB
	tb   *Table
	live *Tx
	id   base.TxnID // of live

	shared, owned, temp string // run files: of committed frames, of a committed owner, of live
}

func newSubject(t *testing.T) *subject {
	t.Helper()
	o := memOptions()
	o.LogSegmentSize = 64 << 10
	return newSubjectOn(t, o)
}

func newSubjectOn(t *testing.T, o *Options) *subject {
	t.Helper()
	s := &subject{t: t, fs: o.FS, o: o, db: mustOpen(t, o)}
	s.tb = mustTable(t, s.db, "t")
	db, tb := s.db, s.tb
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 300, 100) })
	check(t, db.Checkpoint(ctx))
	s.shared = s.newRun()
	bulk := mustBegin(t, db, TxOptions{})
	fillRows(t, bulk, tb, 1000, 1300, 100)
	backlogAll(t, db)
	commit(t, bulk)
	s.owned = s.newRun()
	check(t, db.Checkpoint(ctx))
	for i := range 100 {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, fmt.Sprintf("s%03d", i), string(value(i, 900))) })
	}
	s.live = mustBegin(t, db, TxOptions{})
	fillRows(t, s.live, tb, 2000, 2300, 100)
	s.id = txnOf(t, db)
	backlogAll(t, db)
	for _, id := range db.temps.Lookup(s.id).Runs() {
		check(t, db.space.Find(id).Sync())
	}
	s.temp = s.newRun()
	check(t, db.Verify(ctx))
	return s
}

// newRun returns the newest run file.
func (s *subject) newRun() string {
	names, err := s.fs.List("db/space/runs")
	check(s.t, err)
	newest := slices.Max(names)
	if newest == filepath.Base(s.shared) || newest == filepath.Base(s.owned) {
		s.t.Fatal("no new run")
	}
	return "db/space/runs/" + newest
}

func (s *subject) segment(i int) string { return "db/log/" + s.db.log.Files()[i] }

// flipTables flips a byte of each table of the leaf map that Pebble keeps in memory.
// It was done to one table; then a compaction, which the space collector's flush had
// brought about, might have replaced that one, so that nobody had to look at it.
func (s *subject) flipTables() (undo func()) {
	release := s.db.space.HoldCompactions()
	_ = s.db.space.Verify(ctx) // now they are in memory; what it finds else is not asked here
	names, err := s.fs.List("db/space/map")
	check(s.t, err)
	var undos []func()
	for _, n := range names {
		// The file of a compaction that ended a moment ago may go any time.
		if path := "db/space/map/" + n; strings.HasSuffix(n, ".sst") {
			if info, err := s.fs.Stat(path); err == nil {
				undos = append(undos, flip(s.t, s.fs, path, info.Size()-100))
			}
		}
	}
	return func() {
		for _, fn := range undos {
			fn()
		}
		release()
	}
}

func (s *subject) size(path string) int64 {
	info, err := s.fs.Stat(path)
	check(s.t, err)
	return info.Size()
}

func (s *subject) close() {
	s.t.Helper()
	if s.live != nil {
		rollback(s.t, s.live)
	}
	mustClose(s.t, s.db)
}

// damage is one kind of damage to a live store. do returns what undoes it, and
// expect what Verify must then say.
type damage struct {
	name string
	do   func(s *subject) (undo func())
	file func(s *subject) string
	lo   int64
	hi   int64
	why  string
}

func flipAt(path func(*subject) string, off int64) func(*subject) func() {
	return func(s *subject) func() { return flip(s.t, s.fs, path(s), off) }
}

var (
	sharedRun = func(s *subject) string { return s.shared }
	ownedRun  = func(s *subject) string { return s.owned }
	tempRun   = func(s *subject) string { return s.temp }
	segment0  = func(s *subject) string { return s.segment(0) }
	segment1  = func(s *subject) string { return s.segment(1) }
	formatAt  = func(*subject) string { return formatName }
)

// damages are independent of each other: all of them can be there at once.
var damages = []damage{
	{"log block", flipAt(segment0, 300), segment0, 0, 300, "damaged block"},
	{"log block of a later segment", flipAt(segment1, 5000), segment1, 64, 5000, "damaged block"},
	{"log segment header", flipAt(segment1, 33), segment1, 0, 40, "segment"},
	{"run header", flipAt(sharedRun, 17), sharedRun, 0, 0, "checksum of run header"},
	{"frame of committed rows", flipAt(sharedRun, 200), sharedRun, 32, 32, "frame checksum"},
	{"frame of a committed owner", flipAt(ownedRun, 200), ownedRun, 32, 32, "frame checksum"},
	{"frame of a live owner", flipAt(tempRun, 200), tempRun, 32, 32, "frame checksum"},
	{"index block", func(s *subject) func() {
		return flip(s.t, s.fs, s.owned, s.size(s.owned)-10)
	}, ownedRun, 1000, 1 << 40, "index block"},
	{"leaf map", (*subject).flipTables, func(*subject) string { return ".sst" }, 1, 1 << 40, "checksum"},
	{"orphan", func(s *subject) func() {
		path := "db/space/runs/00000001000fffff.run"
		f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
		check(s.t, err)
		check(s.t, f.Close())
		return func() { check(s.t, s.fs.Remove(path)) }
	}, func(*subject) string { return "00000001000fffff.run" }, 0, 0, "nobody knows"},
	{"FORMAT", flipAt(func(*subject) string { return "db/FORMAT" }, 2), formatAt, 0, 0, "no format version"},
	{"unknown transaction", func(s *subject) func() {
		o := s.db.reg.Get(s.id)
		s.db.reg.Remove(s.id)
		return func() { s.db.reg.Add(o) }
	}, func(*subject) string { return "map" }, 0, 0, "unknown transaction"},
}

// Each kind of damage is found in a live store, and nothing is found without it.
func TestVerifyFinds(t *testing.T) {
	s := newSubject(t)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			s.t = t
			undo := d.do(s)
			wantFinding(t, findings(t, s.db), filepath.Base(d.file(s)), d.lo, d.hi, d.why)
			undo()
			check(t, s.db.Verify(ctx))
		})
	}
	s.t = t
	s.close()
}

// Several kinds of damage at once are all told.
func TestVerifyFindsAll(t *testing.T) {
	s := newSubject(t)
	var undo []func()
	for _, d := range damages {
		// A run whose header is wrong is not read on; what lists its frames is.
		undo = append(undo, d.do(s))
	}
	found := findings(t, s.db)
	for _, d := range damages {
		if d.name == "frame of a live owner" {
			continue // its owner is unknown now: its frames are nobody's
		}
		wantFinding(t, found, filepath.Base(d.file(s)), d.lo, d.hi, d.why)
	}
	for _, fn := range undo {
		fn()
	}
	check(t, s.db.Verify(ctx))
	s.close()
}

// More findings than are told are counted.
func TestVerifyIsBounded(t *testing.T) {
	s := newSubject(t)
	s.live = nil // its temp table is about to break
	const orphans = 120
	for i := range orphans {
		f, err := s.fs.Create(fmt.Sprintf("db/space/runs/00000001000f%04x.run", i), vfs.WriteCategoryUnspecified)
		check(t, err)
		check(t, f.Close())
	}
	found := findings(t, s.db)
	if len(found) != 101 || !strings.Contains(found[100].Error(), "and 20 more findings") {
		t.Errorf("%d findings, the last one %v", len(found), found[len(found)-1])
	}
	check(t, s.db.Close())
}

// A run file that something lists is cut, or gone.
func TestVerifyMissingRun(t *testing.T) {
	for _, which := range []func(*subject) string{sharedRun, ownedRun, tempRun} {
		s := newSubject(t)
		path := which(s)
		info, err := s.fs.Stat(path)
		check(t, err)
		// The store has the file open: remove it, and put half of it in its place.
		f, err := s.fs.Open(path)
		check(t, err)
		half := make([]byte, info.Size()/2)
		_, err = f.ReadAt(half, 0)
		check(t, err)
		check(t, f.Close())
		check(t, s.fs.Remove(path))
		wantFinding(t, findings(t, s.db), filepath.Base(path), 0, 0, "cannot be opened")
		w, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
		check(t, err)
		_, err = w.Write(half)
		check(t, err)
		check(t, w.Close())
		wantFinding(t, findings(t, s.db), filepath.Base(path), 32, int64(len(half)), "")
		s.live = nil
		_ = s.db.Close()
	}
}

// Runs that the map lists go while the store is open and has not read them yet:
// Verify names each file and the leaf. Opened again, Open names them all.
func TestVerifyMissingRunAfterReopen(t *testing.T) {
	s := newSubject(t)
	shared, owned := s.shared, s.owned
	s.close()
	db := mustOpen(t, s.o)
	check(t, s.fs.Remove(shared))
	check(t, s.fs.Remove(owned))
	found := findings(t, db)
	wantFinding(t, found, filepath.Base(shared), 0, 0, "missing")
	wantFinding(t, found, filepath.Base(owned), 0, 0, "missing")
	_ = db.Close()
	_, err := Open("db", s.o)
	if err == nil || !strings.Contains(err.Error(), filepath.Base(shared)) || !strings.Contains(err.Error(), filepath.Base(owned)) {
		t.Errorf("open: %v", err)
	}
}

// Every byte of a run that somebody needs, and every byte of the log up to what is
// synced: Verify finds each one flipped, and names the file.
func TestVerifyEveryByte(t *testing.T) {
	s := newSubject(t)
	fs := s.fs
	sizes := map[string]int64{s.shared: s.size(s.shared), s.owned: s.size(s.owned), s.temp: s.size(s.temp)}
	files := s.db.log.Files()
	synced := s.db.log.Synced()
	for _, name := range files[:len(files)-1] {
		sizes["db/log/"+name] = 3000 // what follows the end record may be anything
	}
	sizes["db/log/"+files[len(files)-1]] = min(3000, int64(uint64(synced)%uint64(s.db.log.SegmentSize())))
	for path, size := range sizes {
		step := max(1, size/150)
		for off := int64(0); off < size; off += step {
			undo := flip(t, fs, path, off)
			var ce *CorruptionError
			if err := s.db.Verify(ctx); !errors.As(err, &ce) || !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("%s: a flipped bit at %d is not found: %v", path, off, err)
			}
			undo()
		}
	}
	check(t, s.db.Verify(ctx))
	s.close()
}

// The accounts of record memory are compared when nobody changes them.
func TestVerifyAccounts(t *testing.T) {
	s := newSubject(t)
	rollback(t, s.live)
	s.live = nil
	waitSwept(t, s.db)
	check(t, s.db.Verify(ctx))
	if !s.db.arena.Charge(64) {
		t.Fatal("no room")
	}
	if err := s.db.Verify(ctx); err == nil || !strings.Contains(err.Error(), "M1") {
		t.Errorf("64 bytes too many are charged: %v", err)
	}
	// The space collector charges a leaf before it is found: whenever it was between
	// the two, the accounts were said to be wrong.
	check(s.t, s.db.collect.mu.lock(ctx))
	check(t, s.db.Verify(ctx))
	s.db.collect.mu.unlock()
	s.db.arena.Uncharge(64)
	b := s.db.arena.Alloc(1024)
	if err := s.db.Verify(ctx); err == nil || !strings.Contains(err.Error(), "M1") {
		t.Errorf("a block of nobody: %v", err)
	}
	s.db.arena.Free(b)
	s.close()
}

// A temp table whose transaction is not known, or whose run is gone.
func TestVerifyTempTable(t *testing.T) {
	s := newSubject(t)
	o := s.db.reg.Get(s.id)
	s.db.reg.Remove(s.id)
	s.db.reg.Add(versionchain.NewOutcome(s.id)) // another one
	err := s.db.Verify(ctx)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("temp table of %v: L7", s.id)) {
		t.Errorf("temp table of an unknown transaction: %v", err)
	}
	s.db.reg.Remove(s.id)
	s.db.reg.Add(o)
	check(t, s.db.Verify(ctx))
	check(t, s.db.space.DropRun(s.db.temps.Lookup(s.id).Runs()[0]))
	err = s.db.Verify(ctx)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("temp table of %v: P2", s.id)) {
		t.Errorf("temp table without its run: %v", err)
	}
	rollback(t, s.live)
	_ = s.db.Close()
}

// A store under load, with low memory, bulk transactions, rollbacks, checkpoints
// and changes of the catalog, is clean whenever one looks.
func TestVerifyUnderLoad(t *testing.T) {
	o := tinyOptions()
	o.LogSegmentSize, o.LogLimit = 64<<10, 1<<20
	db := mustOpen(t, o)
	c := newCrew()
	defer c.stop()
	tb := mustTable(t, db, "t")
	for g := range 3 {
		c.repeat(func(i int) {
			tx := mustBegin(t, db, TxOptions{NoSync: i%4 == 0})
			for j := range 20 + i%7*100 {
				put(t, tx, tb, fmt.Sprintf("%d/%05d", g, (i*613+j*17)%4000), string(value(i+j, 60+j%3*400)))
			}
			if i%5 == 0 {
				rollback(t, tx)
			} else {
				commit(t, tx)
			}
		})
	}
	c.repeat(func(i int) {
		name := fmt.Sprint("x", i)
		x := mustTable(t, db, name)
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, x, 0, 50, 50) })
		check(t, db.DropTable(ctx, name))
		check(t, db.Checkpoint(ctx))
	})
	c.repeat(func(int) {
		tx := mustBegin(t, db, TxOptions{ReadOnly: true}) // whoever moves leaves is somebody to Verify
		evictAll(t, db)
		collapseAll(db)
		rollback(t, tx)
	})
	rounds := 30
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		commits := db.Metrics().Commits
		eventually(t, "work", func() bool { return db.Metrics().Commits > commits })
		check(t, db.Verify(ctx))
	}
	c.stop()
	mustClose(t, db)
}

// The end of its context ends Verify at the next look, and so does Close.
func TestVerifyEnds(t *testing.T) {
	for n := int64(1); ; n += 25 {
		o := memOptions()
		o.LogSegmentSize = 64 << 10
		var reads, after atomic.Int64
		var armed atomic.Bool
		cctx, cancel := context.WithCancel(ctx)
		o.FS = errorfs.Wrap(o.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed.Load() && op.Kind == errorfs.OpFileReadAt {
				if reads.Add(1) >= n {
					cancel()
					after.Add(1)
				}
			}
			return nil
		}))
		s := newSubjectOn(t, o)
		armed.Store(true)
		err := s.db.Verify(cctx)
		armed.Store(false)
		cancel()
		s.close()
		if reads.Load() < n {
			check(t, err)
			break
		}
		wantErr(t, fmt.Sprint("canceled at read ", n), err, context.Canceled)
		if after.Load() > 64 {
			t.Errorf("%d reads after the context had ended", after.Load())
		}
	}
	s := newSubject(t)
	wantErr(t, "canceled before", s.db.Verify(canceled), context.Canceled)
	done := make(chan error, 1)
	go func() {
		for {
			if err := s.db.Verify(ctx); err != nil {
				done <- err
				return
			}
		}
	}()
	rollback(t, s.live)
	check(t, s.db.Close())
	wantErr(t, "closed", <-done, ErrClosed)
}
