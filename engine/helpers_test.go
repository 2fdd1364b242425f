package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/crashdisk"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Fatal(args ...any)
	Logf(format string, args ...any)
}

// The hands of the scavenger, at the test's command.

// relieveAll does one action to every leaf.
func relieveAll(t tester, db *DB, a recordcache.Action) (rep recordcache.Report) {
	t.Helper()
	db.cache.Walk(func(l *recordcache.Leaf) bool {
		r, err := db.cache.Relieve(ctx, l, &recordcache.Request{Action: a, Horizon: db.snaps.Horizon()})
		if err != nil {
			t.Fatalf("relieve: %v", err)
		}
		rep.Freed += r.Freed
		rep.Rows += r.Rows
		rep.Few += r.Few
		rep.Busy += r.Busy
		rep.Missed += r.Missed
		return true
	})
	return rep
}

func pruneAll(t tester, db *DB)   { t.Helper(); relieveAll(t, db, recordcache.Prune) }
func backlogAll(t tester, db *DB) { t.Helper(); relieveAll(t, db, recordcache.BacklogAll) }

// chillAll chills what may be chilled, in every leaf.
func chillAll(t tester, db *DB) {
	t.Helper()
	db.cache.Walk(func(l *recordcache.Leaf) bool {
		if _, err := db.cache.Chill(ctx, l, db.m.Track); err != nil {
			t.Fatalf("chill: %v", err)
		}
		return true
	})
}

// collapseAll returns every leaf without resident rows to the leaf map.
func collapseAll(db *DB) {
	db.cache.Walk(func(l *recordcache.Leaf) bool { db.cache.Collapse(l); return true })
}

// maintain does what the scavenger might do at any moment. key is where op "merge"
// merges.
func maintain(t tester, db *DB, op string, tb *Table, key []byte) {
	t.Helper()
	switch op {
	case "prune":
		pruneAll(t, db)
	case "backlog":
		relieveAll(t, db, recordcache.Backlog)
	case "all":
		backlogAll(t, db)
	case "chill":
		chillAll(t, db)
	case "collapse":
		collapseAll(db)
	case "evict":
		evictAll(t, db)
	case "merge":
		mergeAt(t, db, tb, key)
	default:
		t.Fatalf("no such maintenance: %q", op)
	}
}

// mergeAt merges the frames of the leaf at key until there is nothing to merge.
func mergeAt(t tester, db *DB, tb *Table, key []byte) {
	t.Helper()
	inView(t, db, func(tx *Tx) { // Merge works on present leaves
		if _, err := tx.Get(tb, key); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrTableNotFound) {
			t.Fatalf("get: %v", err)
		}
	})
	for range 3 {
		if err := db.cache.Merge(ctx, tb, key, db.m.Stretches); err != nil && !recordcache.IsNoMemory(err) {
			t.Fatalf("merge: %v", err)
		}
	}
}

// evictAll leaves as little as possible in memory: everything is backlogged and
// all leaves are collapsed into gaps.
func evictAll(t tester, db *DB) {
	t.Helper()
	backlogAll(t, db)
	pruneAll(t, db)
	collapseAll(db)
}

// checkStore verifies what can be verified while the store is in use (M1).
func checkStore(t tester, db *DB) {
	t.Helper()
	if err := db.Verify(ctx); err != nil {
		t.Fatalf("verify: %v", err)
	}
	if err := db.arena.Check(); err != nil {
		t.Fatal(err)
	}
	if db.arena.Peak() > db.arena.Cap() {
		t.Fatalf("M1: peak %d, cap %d", db.arena.Peak(), db.arena.Cap())
	}
}

// checkIdle verifies that nothing remains of transactions when all have ended.
func checkIdle(t tester, db *DB) {
	t.Helper()
	waitSwept(t, db)
	// What a checkpoint has seen can be forgotten; what retired while it ran, by
	// the next one. Recovery and the sweeper may have left work for it.
	for range 3 {
		if err := db.Checkpoint(ctx); err != nil {
			t.Fatalf("checkpoint: %v", err)
		}
	}
	checkStore(t, db)
	if n := db.m.Active(); n != 0 {
		t.Fatalf("%d transactions are active", n)
	}
	if n := db.temps.Len(); n != 0 {
		t.Fatalf("%d temp tables are left", n)
	}
	if n := db.reg.Len(); n != 0 {
		t.Fatalf("L7: %d transactions are left in the registry", n)
	}
	if h := db.snaps.Horizon(); len(h) != 1 {
		t.Fatalf("S1: snapshots are left: %v", h)
	}
	if st := db.log.Stats(); st.PinnedSegments != 0 {
		t.Fatalf("L5: %d log segments are pinned", st.PinnedSegments)
	}
}

func waitSwept(t tester, db *DB) {
	t.Helper()
	eventually(t, "sweep", func() bool { return db.m.Sweeping() == 0 })
}

// mustClose checks the store at rest and closes it.
func mustClose(t tester, db *DB) {
	t.Helper()
	checkIdle(t, db)
	if err := db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// reopen closes the store and opens it again.
func reopen(tb testing.TB, db *DB, o *Options) *DB {
	tb.Helper()
	mustClose(tb, db)
	return mustOpen(tb, o)
}

func tinyOptions() *Options {
	o := memOptions()
	o.Memory = 4 << 20
	o.RecordMemory = 1 << 20
	o.ChillThreshold = 1 << 10
	return o
}

func value(n, size int) []byte {
	b := fmt.Appendf(make([]byte, 0, size+16), "%d.", n)
	for len(b) < size {
		b = append(b, byte('a'+(n+len(b))%26))
	}
	return b[:size]
}

func put(t tester, tx *Tx, tb *Table, key, val string) {
	t.Helper()
	if err := tx.Put(tb, []byte(key), []byte(val)); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func del(t tester, tx *Tx, tb *Table, key string) {
	t.Helper()
	if err := tx.Delete(tb, []byte(key)); err != nil {
		t.Fatalf("delete %q: %v", key, err)
	}
}

func commit(t tester, tx *Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

func rollback(t tester, tx *Tx) {
	t.Helper()
	if err := tx.Rollback(); err != nil {
		t.Fatalf("rollback: %v", err)
	}
}

// gets checks a point read and every other path to the row; want "" is absent.
func gets(t tester, tx *Tx, tb *Table, key, want string) {
	t.Helper()
	got, err := tx.Get(tb, []byte(key))
	if want == "" {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("get %q: %.40q %v, want it absent", key, got, err)
		}
	} else if err != nil || string(got) != want {
		t.Fatalf("get %q: %.40q %v, want %.40q", key, got, err, want)
	}
	for _, reverse := range []bool{false, true} {
		seen := ""
		r := Range{From: []byte(key), To: append([]byte(key), 0), Reverse: reverse}
		for row, err := range tx.Scan(tb, r) {
			if err != nil {
				t.Fatalf("scan %q: %v", key, err)
			}
			if seen != "" || string(row.Key) != key {
				t.Fatalf("scan of %q found %q", key, row.Key)
			}
			seen = string(row.Value)
		}
		if seen != want {
			t.Fatalf("scan of %q, reverse %v: %.40q, want %.40q", key, reverse, seen, want)
		}
	}
}

// all returns the rows that tx sees as key=value, scanned in both directions.
func all(t tester, tx *Tx, tb *Table) (rows []string) {
	t.Helper()
	for row, err := range tx.Scan(tb, Range{}) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		rows = append(rows, string(row.Key)+"="+string(row.Value))
	}
	i := len(rows)
	for row, err := range tx.Scan(tb, Range{Reverse: true}) {
		if err != nil {
			t.Fatalf("scan in reverse: %v", err)
		}
		if i--; i < 0 || rows[i] != string(row.Key)+"="+string(row.Value) {
			t.Fatalf("scan in reverse differs at %q", row.Key)
		}
	}
	if i != 0 {
		t.Fatalf("scan in reverse misses %d of %d rows", i, len(rows))
	}
	return rows
}

func inView(t tester, db *DB, fn func(tx *Tx)) {
	t.Helper()
	if err := db.View(ctx, func(tx *Tx) error { fn(tx); return nil }); err != nil {
		t.Fatalf("view: %v", err)
	}
}

func inUpdate(t tester, db *DB, fn func(tx *Tx)) {
	t.Helper()
	if err := db.Update(ctx, func(tx *Tx) error { fn(tx); return nil }); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func wantErr(t tester, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got %v, want %v", what, err, want)
	}
}

// switchCtx is the context of a transaction whose waits can be made to fail at
// once: a test in one goroutine cannot wait for another transaction.
type switchCtx struct {
	context.Context
	now context.Context // nil: the embedded one
}

var canceled = func() context.Context {
	c, cancel := context.WithCancel(context.Background())
	cancel()
	return c
}()

func (s *switchCtx) cur() context.Context {
	if s.now != nil {
		return s.now
	}
	return s.Context
}
func (s *switchCtx) Done() <-chan struct{} { return s.cur().Done() }
func (s *switchCtx) Err() error            { return s.cur().Err() }

// impatiently runs op, which is expected to wait, so that it fails instead.
func (s *switchCtx) impatiently(op func() error) error {
	s.now = canceled
	defer func() { s.now = nil }()
	return op()
}

// newCrashFS returns a file system that can crash, in which the directory of the
// store is on stable storage already.
func newCrashFS(t tester) *vfs.MemFS { t.Helper(); return crashdisk.New(t, "db") }

// liveHeap returns the bytes of the Go heap that the collector found alive. What
// others allocate between its run and the look does not count.
func liveHeap(t tester) int64 {
	t.Helper()
	least := int64(math.MaxInt64)
	for range 3 { // pools let go at the second run
		runtime.GC()
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindUint64 {
			t.Fatal("the runtime does not tell the live heap")
		}
		least = min(least, int64(sample[0].Value.Uint64()))
	}
	return least
}

// txnOf returns the id of the only transaction that has written.
func txnOf(t tester, db *DB) (id base.TxnID) {
	t.Helper()
	db.reg.Each(func(o *versionchain.Outcome) {
		if st, _ := o.Status(); st == versionchain.Active {
			if id != 0 {
				t.Fatal("several transactions are active")
			}
			id = o.ID
		}
	})
	if id == 0 {
		t.Fatal("no transaction is active")
	}
	return id
}

// memFS returns the file system in memory that the tests open stores on.
func memFS(fs vfs.FS) *vfs.MemFS {
	m, ok := fs.(*vfs.MemFS)
	if !ok {
		panic("saker: test: not a file system in memory")
	}
	return m
}

// describeMap tells how many frames the leaves of a table list.
func describeMap(t tester, db *DB, tb *Table) {
	t.Helper()
	at := []byte{}
	for {
		en, found, _, high, err := db.space.Lookup(tb.ID, at)
		if err != nil {
			t.Fatalf("lookup: %v", err)
		}
		if found {
			owners := map[base.TxnID]int{}
			bytes, merged := 0, 0
			for i := range en.Frames {
				owners[en.Frames[i].Owner]++
				bytes += int(en.Frames[i].Len)
				if en.Frames[i].Merged {
					merged++
				}
			}
			t.Logf("leaf %.20q: %d frames of %d owners, %d merged, %d KiB", en.Low, len(en.Frames), len(owners), merged, bytes>>10)
			high = en.High
			db.space.ReleaseEntry(&en)
		}
		if high == nil {
			return
		}
		at = high
	}
}

// crashed returns options for what a crash would leave of o's file system.
func crashed(o *Options, unsynced int) *Options {
	c := *o
	c.FS = memFS(o.FS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(1, 2))})
	return &c
}

// crashOptions returns options for a store whose file system can crash.
func crashOptions(t tester) *Options {
	o := memOptions()
	o.FS = newCrashFS(t)
	return o
}
