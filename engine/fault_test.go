package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/recordcache"
)

var errInjected = errors.New("injected fault")

// faults fails operations of the disk from the n-th on, while it is armed.
type faults struct {
	armed  atomic.Bool
	n      atomic.Int64 // operations until the first failure
	failed atomic.Int64 // operations that failed
	once   bool         // only the n-th fails
	kind   errorfs.OpReadWrite
	skip   func(errorfs.Op) bool // spares operations, if not nil
	err    error
	last   atomic.Pointer[string]
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if !f.armed.Load() || op.Kind.ReadOrWrite() != f.kind || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpLock ||
		f.skip != nil && f.skip(op) {
		return nil
	}
	if n := f.n.Add(-1); n > 0 || n < 0 && f.once {
		return nil
	}
	f.failed.Add(1)
	if f.kind == errorfs.OpIsWrite && strings.Contains(op.Path, "space/map") {
		wrecks.Add(1)
	}
	what := fmt.Sprintf("operation %d on %s", op.Kind, op.Path)
	f.last.Store(&what)
	return f.err
}

func (f *faults) arm(n int64) {
	f.n.Store(n)
	f.armed.Store(true)
}

// where says what failed last.
func (f *faults) where() string {
	if s := f.last.Load(); s != nil {
		return *s
	}
	return "nothing failed"
}

// faultPlan calls fn with n = first, and on in steps, until fn reports that the
// n-th operation was never reached. With -long the step is one.
func faultPlan(t *testing.T, first int64, step func(n int64) int64, fn func(n int64) bool) {
	t.Helper()
	n, last := first, int64(0)
	for fn(n) {
		if t.Failed() {
			t.Fatalf("failed with the fault at operation %d", n)
		}
		last = n
		if *long {
			n++
		} else {
			n += step(n)
		}
	}
	t.Logf("%d operations, of which the last that was made to fail is %d", n-1, last)
}

// within runs fn, and ends the process with all stacks if it does not end.
func within(t *testing.T, what func() string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(4 * time.Minute): // a machine may be busy
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		panic("the store hangs: " + what())
	}
}

// life is a workload in one goroutine that goes on until the store fails. It
// tells its oracle what was acknowledged, and keeps the first error that is not
// of the disk's making.
type life struct {
	db      *DB
	rng     *rand.Rand
	o       *oracle
	tables  map[string]*Table
	n       int
	strange error
	errs    []error            // of the disk
	may     func(error) bool   // says which errors are of the disk's making
	index   func(*Table) error // makes an index of each new table, if not nil
}

func newLife(db *DB, o *oracle, seed uint64, may func(error) bool) *life {
	return &life{db: db, o: o, rng: rand.New(rand.NewPCG(seed, 4)), tables: map[string]*Table{}, may: may}
}

// step notes an error of one step of the workload; it reports whether to go on.
func (l *life) step(what string, err error) bool {
	switch {
	case err == nil:
	case l.may(err):
		l.errs = append(l.errs, err)
	case l.strange == nil:
		l.strange = fmt.Errorf("%s: %w", what, err)
	}
	return l.strange == nil && l.db.failed() == nil
}

// forget takes back the start of a commit that certainly did not happen.
func (o *oracle) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deltas, o.sums = o.deltas[:len(o.deltas)-1], o.sums[:len(o.sums)-1]
	o.cur = map[string][]byte{}
	for _, d := range o.deltas {
		for k, v := range d {
			if delete(o.cur, k); v != nil {
				o.cur[k] = v
			}
		}
	}
}

// decided tells the oracle what became of a commit that was started. After an
// error only a store that has failed may keep what it was told.
func (l *life) decided(err error, durable bool) {
	switch {
	case err == nil:
		l.o.ack(durable)
	case !errors.Is(err, ErrPoisoned):
		l.o.forget()
	}
}

func (l *life) create(name string) error {
	l.o.start(delta{"w0/" + name: []byte("table")})
	t, err := l.db.CreateTable(ctx, "w0/"+name)
	l.decided(err, true)
	if err == nil {
		l.tables[name] = t
	}
	if err == nil && l.index != nil {
		err = l.index(t)
	}
	return err
}

func (l *life) drop(name string) error {
	t := l.tables[name]
	if t == nil {
		return nil
	}
	d := delta{t.Name: nil}
	for k := range l.o.cur {
		if strings.HasPrefix(k, t.Name+"\x00") {
			d[k] = nil
		}
	}
	l.o.start(d)
	err := l.db.DropTable(ctx, t.Name)
	l.decided(err, true)
	if err == nil {
		delete(l.tables, name)
	}
	return err
}

// put writes a row and notes it.
func (l *life) put(tx *Tx, tb *Table, d delta, key string, size int) error {
	at := tb.Name + "\x00" + key
	if l.rng.IntN(9) == 0 {
		err := tx.Delete(tb, []byte(key))
		if err == nil {
			d[at] = nil
		} else if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	}
	l.n++
	v := value(l.n, size)
	err := tx.Put(tb, []byte(key), v)
	if err == nil {
		d[at] = v
	}
	return err
}

func (l *life) puts(tx *Tx, tb *Table, d delta, n, size int) error {
	for range n {
		if err := l.put(tx, tb, d, fmt.Sprintf("k%04d", l.rng.IntN(1500)), l.rng.IntN(size)+1); err != nil {
			return err
		}
	}
	return nil
}

// transaction writes rows, with a savepoint that is rolled back in the middle,
// calls pause, if not nil, and ends.
func (l *life) transaction(table string, rows, size int, noSync, undo bool, pause func() error) error {
	tb := l.tables[table]
	if tb == nil {
		return nil
	}
	tx, err := l.db.Begin(ctx, TxOptions{NoSync: noSync})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	d := delta{}
	if err := l.puts(tx, tb, d, rows/2+1, size); err != nil {
		return err
	}
	sp, err := tx.Savepoint()
	if err != nil {
		return err
	}
	kept := maps.Clone(d)
	if err := l.puts(tx, tb, d, rows/4, size); err != nil {
		return err
	}
	if pause != nil {
		if err := pause(); err != nil {
			return err
		}
	}
	if err := tx.RollbackTo(sp); err != nil {
		return err
	}
	if err := l.puts(tx, tb, kept, rows/4, size); err != nil {
		return err
	}
	if undo {
		return tx.Rollback()
	}
	l.o.start(kept)
	err = tx.Commit()
	l.decided(err, !noSync)
	return err
}

// relieve does one of the scavenger's actions to every leaf.
func (l *life) relieve(a recordcache.Action) error {
	var first error
	l.db.cache.Walk(func(leaf *recordcache.Leaf) bool {
		_, first = l.db.cache.Relieve(ctx, leaf, &recordcache.Request{Action: a, Horizon: l.db.snaps.Horizon()})
		return first == nil
	})
	return first
}

func (l *life) chill() error {
	var first error
	l.db.cache.Walk(func(leaf *recordcache.Leaf) bool {
		_, first = l.db.cache.Chill(ctx, leaf, l.db.m.Track)
		return first == nil
	})
	return first
}

func (l *life) evict() error {
	err := errors.Join(l.relieve(recordcache.BacklogAll), l.relieve(recordcache.Prune))
	collapseAll(l.db)
	return err
}

func (l *life) merge(table string) error {
	tb := l.tables[table]
	if tb == nil {
		return nil
	}
	for i := range 15 {
		key := fmt.Appendf(nil, "k%04d", i*100)
		err := l.db.View(ctx, func(tx *Tx) error { // Merge works on present leaves
			_, err := tx.Get(tb, key)
			return err
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		err = l.db.cache.Merge(ctx, tb, key, l.db.m.Stretches)
		if err != nil && !recordcache.IsNoMemory(err) {
			return err
		}
	}
	return nil
}

func (l *life) sync() error {
	acked, _, _ := l.o.span()
	err := l.db.Sync()
	if err == nil {
		l.o.synced(acked)
	}
	return err
}

// run does the work: everything that writes, several times over.
func (l *life) run() {
	type step struct {
		what string
		do   func() error
	}
	small := func() error { return l.transaction("a", 4, 200, false, false, nil) }
	steps := []step{
		{"create", func() error { return l.create("a") }},
		{"create", func() error { return l.create("b") }},
	}
	for round := range 3 {
		extra := fmt.Sprint("c", round)
		steps = append(steps,
			step{"small commits", small},
			step{"commit without sync", func() error { return l.transaction("b", 6, 300, true, false, nil) }},
			step{"commit of chilled rows", func() error { return l.transaction("a", 12, 300, false, false, l.chill) }},
			step{"bulk commit", func() error { return l.transaction("a", 500, 120, false, false, nil) }},
			step{"create", func() error { return l.create(extra) }},
			step{"commit of backlogged rows", func() error {
				return l.transaction("b", 60, 100, false, false, func() error { return l.relieve(recordcache.BacklogAll) })
			}},
			step{"bulk rollback", func() error { return l.transaction("b", 400, 120, false, true, nil) }},
			step{"commit", func() error { return l.transaction(extra, 20, 200, false, false, nil) }},
			step{"large values", func() error { return l.transaction("b", 4, 20000, false, false, nil) }},
			step{"checkpoint", func() error { return l.db.Checkpoint(ctx) }},
			step{"evict", l.evict},
			step{"log", func() error { // several segments
				for range 12 {
					if err := l.transaction("a", 12, 900, true, false, nil); err != nil {
						return err
					}
				}
				return nil
			}},
			step{"sync", l.sync},
			step{"drop", func() error { return l.drop(extra) }},
			step{"evict", l.evict},
			step{"merge", func() error { return errors.Join(l.merge("a"), l.merge("b")) }},
			step{"small commits", small},
			step{"checkpoint", func() error { return l.db.Checkpoint(ctx) }},
		)
	}
	for i := range steps {
		if !l.step(steps[i].what, steps[i].do()) {
			return
		}
	}
}

// faultOptions make everything small, so that all kinds of files are written,
// rolled over and used again.
func faultOptions(fs vfs.FS) *Options {
	o := tinyOptions()
	o.FS = fs
	o.LogSegmentSize = logSegment
	o.LogLimit = 1 << 20
	o.ChillThreshold = 8 << 10
	o.RunSize = 64 << 10
	return o
}

// poisonedOnly accepts errors of a store that has failed by an injected fault.
func poisonedOnly(err error) bool { return errors.Is(err, ErrPoisoned) && errors.Is(err, errInjected) }

// TestFaultAtEveryWrite fails the n-th operation that changes the disk: write,
// sync, create, rename, remove, sync of a directory. Whoever meets the failure
// and everybody after learns that the store is poisoned (L8); what was committed
// stays readable; nothing hangs; and reopened without faults the store has what
// was acknowledged, whatever of the unsynced data survives.
//
// The first commit to fail used to say only "create run: injected fault": the
// tablespace told the engine on a goroutine of its own.
func TestFaultAtEveryWrite(t *testing.T) {
	for _, once := range []bool{false, true} {
		t.Run(fmt.Sprint("once=", once), func(t *testing.T) {
			faultPlan(t, 1, func(n int64) int64 { return 3 + n/8 }, func(n int64) bool { return faultAt(t, n, once) })
		})
	}
}

func faultAt(t *testing.T, n int64, once bool) (reached bool) {
	t.Helper()
	mem := newCrashFS(t)
	f := &faults{once: once, kind: errorfs.OpIsWrite, err: errInjected}
	o := faultOptions(errorfs.Wrap(mem, f))
	failed := make(chan error, 1)
	o.Events = &EventListener{Failed: func(err error) { failed <- err }}
	db := mustOpen(t, o)
	f.arm(n)
	orc := newOracle()
	l := newLife(db, orc, 7, poisonedOnly)
	what := func() string { return fmt.Sprintf("write %d, once %v: %s", n, once, f.where()) }
	within(t, what, l.run)
	if l.strange != nil {
		t.Errorf("%s: %v", what(), l.strange)
	}
	acked, durable, started := orc.span()
	reached = f.failed.Load() > 0
	within(t, what, func() {
		if db.failed() != nil {
			afterFailure(t, db, failed, orc)
		} else if started != acked {
			t.Errorf("%s: %d commits were started, %d acknowledged, and the store goes on", what(), started, acked)
		}
		f.armed.Store(false)
		err := db.Close()
		switch {
		case db.failed() == nil && err != nil:
			t.Errorf("close: %v", err)
		case db.failed() == nil:
			durable = acked
		case !errors.Is(err, ErrPoisoned):
			t.Errorf("close of a poisoned store: %v", err)
		}
	})
	// A crash of the machine loses some of what was not synced, one of the
	// process nothing.
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	for _, percent := range []int{0, 50, 100} {
		if !*long && percent != int(n)%3*50 {
			continue
		}
		fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		within(t, what, func() { checkLife(t, fs, orc, durable, started, what()) })
	}
	return reached
}

// checkLife opens what is left of a life and compares it with the oracle.
func checkLife(t *testing.T, fs vfs.FS, o *oracle, lo, hi int, what string) {
	t.Helper()
	db, err := Open("db", faultOptions(fs))
	if err != nil {
		t.Errorf("%s: reopen: %v", what, err)
		return
	}
	checkStore(t, db)
	o.match(t, what, contents(t, db, 0), lo, hi)
	tb := mustTable(t, db, "after")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	mustClose(t, db)
}

// afterFailure checks that a poisoned store refuses writes and serves reads.
func afterFailure(t *testing.T, db *DB, failed <-chan error, o *oracle) {
	t.Helper()
	select {
	case err := <-failed:
		if !errors.Is(err, ErrPoisoned) {
			t.Errorf("Failed was told %v", err)
		}
	case <-time.After(patience):
		t.Error("Failed was not called")
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if tb, err := db.Table("w0/a"); err == nil {
		tx, err := db.Begin(limit, TxOptions{})
		if err == nil {
			if err = tx.Put(tb, []byte("after"), []byte("x")); err == nil {
				err = tx.Commit()
			} else {
				_ = tx.Rollback()
			}
		}
		wantErr(t, "write to a poisoned store", err, ErrPoisoned)
	}
	_, err := db.CreateTable(limit, "u")
	wantErr(t, "create in a poisoned store", err, ErrPoisoned)
	wantErr(t, "sync of a poisoned store", db.Sync(), ErrPoisoned)
	wantErr(t, "checkpoint of a poisoned store", db.Checkpoint(limit), ErrPoisoned)
	acked, _, _ := o.span()
	o.match(t, "reads of a poisoned store", contents(t, db, 0), acked, acked)
}

// TestWaitersAreReleasedByFailure: a waiter is released when the transaction that
// it waits for cannot commit because the store has failed.
func TestWaitersAreReleasedByFailure(t *testing.T) {
	for n := int64(1); n <= 5; n++ {
		f := &faults{kind: errorfs.OpIsWrite, err: errInjected}
		o := memOptions()
		o.FS = errorfs.Wrap(o.FS, f)
		o.ChillThreshold = 1
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, "k", "x")
		waiter := mustBegin(t, db, TxOptions{})
		done := waiting(t, db, func() error { return waiter.Put(tb, []byte("k"), nil) })
		f.arm(n)
		wantErr(t, "commit", tx.Commit(), ErrPoisoned)
		within(t, f.where, func() {
			err := <-done
			if err == nil {
				err = waiter.Commit()
			}
			if !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrConflict) {
				t.Errorf("the waiter got %v", err)
			}
		})
		f.armed.Store(false)
		wantErr(t, "close", db.Close(), ErrPoisoned)
	}
}
