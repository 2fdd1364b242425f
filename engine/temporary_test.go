package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// The two races of the seed about temporary states, forced. There, a state was
// marked temporary by one thread after another had made it permanent (race 1), and
// a reader that looked at the mark before and at the state after got a temporary
// one (race 2). Here the mark is the owner's missing outcome: nobody sets it a
// second time, and a row has one owner.

// stopFS stops an operation on a kind of file, once: it calls the hook, and goes on
// when the hook returns. The operations are "read" and "sync", which is of data only:
// log segments that are prepared in the background have theirs with Sync.
type stopFS struct {
	*vfs.MemFS
	hook atomic.Pointer[stop]
}

type stop struct {
	op, suffix string
	fn         func()
}

type stopFile struct {
	vfs.File
	fs   *stopFS
	name string
}

func (s *stopFS) at(op, name string) {
	h := s.hook.Load()
	if h != nil && h.op == op && strings.HasSuffix(name, h.suffix) && s.hook.CompareAndSwap(h, nil) {
		h.fn()
	}
}

// on runs fn at the next such operation, which happens within do.
func (s *stopFS) on(t *testing.T, op, suffix string, fn, do func()) {
	t.Helper()
	var ran atomic.Bool
	s.hook.Store(&stop{op, suffix, func() { fn(); ran.Store(true) }})
	do()
	s.hook.Store(nil)
	if !ran.Load() {
		t.Fatalf("no %s of a %s file happened: nothing was forced", op, suffix)
	}
}

func (s *stopFS) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &stopFile{f, s, name}, nil
}

func (s *stopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.MemFS.Create(name, c)
	return s.wrap(f, name, err)
}

func (s *stopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.MemFS.OpenReadWrite(name, c, o...)
	return s.wrap(f, name, err)
}

func (s *stopFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.MemFS.Open(name, o...)
	return s.wrap(f, name, err)
}

func (f *stopFile) SyncData() error {
	f.fs.at("sync", f.name)
	return f.File.SyncData()
}

func (f *stopFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.at("read", f.name)
	return f.File.ReadAt(b, off)
}

// wantOwners checks that exactly the rows of the owners given are there: keys of
// a and b alternate, so that every leaf holds frames of both.
func wantOwners(t tester, db *DB, owners ...string) {
	t.Helper()
	inView(t, db, func(tx *Tx) {
		tb := mustTableOf(t, db)
		n := map[string]int{}
		for _, row := range all(t, tx, tb) {
			n[row[strings.IndexByte(row, '=')+1:][:1]]++
		}
		total := 0
		for _, o := range owners {
			if n[o] != 400 {
				t.Fatalf("%d rows of %s, want 400 (all: %v)", n[o], o, n)
			}
			total += n[o]
		}
		if sum := n["a"] + n["b"]; sum != total {
			t.Fatalf("rows of others: %v, want those of %v only", n, owners)
		}
	})
}

func mustTableOf(t tester, db *DB) *Table {
	t.Helper()
	tb, err := db.Table("t")
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// Race 1. Two transactions fill the same leaves with temporary rows. While one
// adopts its own (before the sync of its runs, and before the sync of its commit
// record) the other rolls back, its rows are swept, its runs are dropped, leaves
// are merged and space is collected. Nothing of what is being adopted goes: not in
// the store, and not in a crash at that moment or after it.
func TestTemporaryRace1Adoption(t *testing.T) {
	for _, at := range []string{".run", ".seg"} {
		for _, percent := range []int{0, 50, 100} {
			t.Run(fmt.Sprintf("before sync of %s, %d %% of unsynced data", at, percent), func(t *testing.T) {
				mem := newCrashFS(t)
				fs := &stopFS{MemFS: mem}
				o := tinyOptions()
				o.FS, o.SyncInterval = fs, time.Hour // no sync is under way when the commit asks for one
				db := mustOpen(t, o)
				db.collect.least = 1
				tb := mustTable(t, db, "t")
				a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
				for i := range 400 {
					put(t, a, tb, fmt.Sprintf("k%05d", 2*i), "a"+string(value(i, 100)))
					put(t, b, tb, fmt.Sprintf("k%05d", 2*i+1), "b"+string(value(i, 100)))
				}
				evictAll(t, db)
				_, err := db.space.Flush() // both marks are on disk, temporary
				check(t, err)
				// A third party that wants what a owns waits or fails, it never marks it anew.
				other := &switchCtx{Context: ctx}
				c, err := db.Begin(other, TxOptions{})
				check(t, err)
				wantErr(t, "put over a live row", other.impatiently(func() error { return c.Put(tb, []byte("k00000"), []byte("c")) }), canceled.Err())

				var crashed *vfs.MemFS
				if at == ".seg" { // a pass syncs the log, too: none is under way
					check(t, db.collect.mu.lock(ctx))
				}
				fs.on(t, "sync", at, func() {
					rollback(t, b)
					waitSwept(t, db)
					for i := 0; i < 800; i += 50 {
						check(t, db.cache.Merge(ctx, tb, fmt.Appendf(nil, "k%05d", i), db.m.Stretches))
					}
					if at == ".run" {
						check(t, db.CollectSpace(ctx)) // syncs the log: not under the sync of the log
					}
					crashed = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rngOf(uint64(percent))})
				}, func() { commit(t, a) })
				if at == ".seg" {
					db.collect.mu.unlock()
				}
				wantErr(t, "put over a newer row", c.Put(tb, []byte("k00000"), []byte("c")), ErrConflict)
				rollback(t, c)
				wantOwners(t, db, "a")
				check(t, db.CollectSpace(ctx))
				wantOwners(t, db, "a")
				after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rngOf(uint64(percent))})
				mustClose(t, db)

				c2 := *o
				c2.FS = after
				db = mustOpen(t, &c2)
				wantOwners(t, db, "a")
				mustClose(t, db)
				c2.FS = crashed
				db = mustOpen(t, &c2)
				rows := 0
				inView(t, db, func(tx *Tx) { rows = len(all(t, tx, mustTableOf(t, db))) })
				switch {
				case rows == 0 && (at == ".run" || percent < 100):
				case rows == 400 && at == ".seg":
					wantOwners(t, db, "a") // its record was on disk, not yet known to be synced
				default:
					t.Fatalf("%d rows after a crash during the adoption", rows)
				}
				mustClose(t, db)
			})
		}
	}
}

// Race 2. A reader is stopped within a read from disk, between looking at a leaf's
// list and reading a frame, and between looking at the leaf map and asking for the
// owners in it. Meanwhile the owner of the temporary rows there commits, or rolls
// back and everything of it is swept and forgotten. The reader gets what its
// snapshot has, in every kind of read; one that begins after gets the new rows.
func TestTemporaryRace2Reader(t *testing.T) {
	for _, how := range []string{"get", "forward", "reverse", "update"} {
		for _, where := range []string{"in a frame", "after the leaf map"} {
			for _, end := range []string{"commit", "rollback"} {
				t.Run(how+" "+where+" "+end, func(t *testing.T) { temporaryReader(t, how, where, end) })
			}
		}
	}
}

func temporaryReader(t *testing.T, how, where, end string) {
	fs := &stopFS{MemFS: newCrashFS(t)}
	o := tinyOptions()
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 200, 100) })
	evictAll(t, db)
	check(t, db.Checkpoint(ctx))
	owner := mustBegin(t, db, TxOptions{})
	for i := range 200 {
		put(t, owner, tb, fmt.Sprintf("k%06d", i), "temporary")
	}
	evictAll(t, db)
	_, err := db.space.Flush()
	check(t, err)
	reader := mustBegin(t, db, TxOptions{})
	decide := func() {
		if end == "commit" {
			commit(t, owner)
		} else {
			rollback(t, owner)
			waitSwept(t, db)
		}
		check(t, db.Checkpoint(ctx))
		check(t, db.CollectSpace(ctx))
		relieveAll(t, db, recordcache.Prune)
	}
	read := func() {
		switch how {
		case "get":
			got, err := reader.Get(tb, []byte("k000100"))
			if err != nil || string(got) != string(value(100, 100)) {
				t.Errorf("get: %.20q, %v", got, err)
			}
		case "update":
			err := reader.Update(tb, []byte("k000100"), []byte("mine"))
			if end == "commit" {
				wantErr(t, "update of a row that was committed meanwhile", err, ErrConflict)
			} else {
				check(t, err)
			}
		default:
			n := 0
			for row, err := range reader.Scan(tb, Range{Reverse: how == "reverse"}) {
				check(t, err)
				i := n
				if n++; how == "reverse" {
					i = 200 - n
				}
				if want := value(i, 100); string(row.Value) != string(want) {
					t.Fatalf("row %s is %.20q, want %.20q", row.Key, row.Value, want)
				}
			}
			if n != 200 {
				t.Errorf("%d rows, want 200", n)
			}
		}
	}
	if where == "in a frame" {
		fs.on(t, "read", ".run", decide, read)
	} else {
		done := false
		db.cache.AfterLookup = func() {
			if !done {
				done = true
				decide()
			}
		}
		read()
		db.cache.AfterLookup = nil
		if !done {
			t.Fatal("nothing was looked up: nothing was forced")
		}
	}
	rollback(t, reader)
	inView(t, db, func(tx *Tx) {
		want := string(value(100, 100))
		if end == "commit" {
			want = "temporary"
		}
		gets(t, tx, tb, "k000100", want)
	})
	mustClose(t, db)
}

func rngOf(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 11)) }
