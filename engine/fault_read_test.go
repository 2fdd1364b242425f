package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFaultAtEveryRead fails the n-th read of a workload that writes. Who reads
// gets that error, nothing is poisoned, and nothing is lost: a transaction whose
// commit failed is not there, all others are, before and after reopening.
func TestFaultAtEveryRead(t *testing.T) {
	for _, once := range []bool{true, false} {
		t.Run(fmt.Sprint("once=", once), func(t *testing.T) {
			faultPlan(t, 1, func(n int64) int64 { return 5 + n/5 }, func(n int64) bool { return readFaultAt(t, n, once) })
		})
	}
}

// toWrite reports whether a file system that knows only reads and writes calls an
// operation a read that is part of a write: a segment of the log is opened to be
// used again, a directory to be synced.
func toWrite(op errorfs.Op) bool {
	return op.Kind == errorfs.OpOpenDir || op.Kind != errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".seg")
}

func readFaultAt(t *testing.T, n int64, once bool) (reached bool) {
	t.Helper()
	mem := newCrashFS(t)
	f := &faults{once: once, kind: errorfs.OpIsRead, skip: toWrite, err: errInjected}
	db := mustOpen(t, faultOptions(errorfs.Wrap(mem, f)))
	f.arm(n)
	orc := newOracle()
	l := newLife(db, orc, 7, func(err error) bool { return errors.Is(err, errInjected) })
	what := func() string { return fmt.Sprintf("read %d, once %v: %s", n, once, f.where()) }
	within(t, what, l.run)
	f.armed.Store(false)
	reached = f.failed.Load() > 0
	if l.strange != nil || db.failed() != nil {
		t.Errorf("%s: %v; %v", what(), l.strange, db.failed())
		_ = db.Close()
		return reached
	}
	acked, _, started := orc.span()
	within(t, what, func() {
		// Who opens a file of the map while another fails to gets the other's error.
		for errors.Is(db.Verify(ctx), errInjected) {
		}
		orc.match(t, what()+", before closing", contents(t, db, 0), acked, started)
		check(t, db.Close())
		checkLife(t, mem, orc, acked, started, what())
	})
	return reached
}

// TestFaultAtEveryOperationOfOpen fails the n-th read, or the n-th write, of the
// opening of a killed store: Open says so or succeeds, and the next Open has
// everything.
func TestFaultAtEveryOperationOfOpen(t *testing.T) {
	mem := newCrashFS(t)
	db := mustOpen(t, faultOptions(mem))
	orc := newOracle()
	l := newLife(db, orc, 7, func(error) bool { return false })
	l.run()
	check(t, l.transaction("a", 300, 120, false, false, nil)) // frames to list again
	check(t, l.transaction("b", 4, 20000, false, false, nil))
	check(t, l.transaction("a", 9, 120, false, false, nil))
	check(t, l.strange)
	killed := mem.CrashClone(vfs.CrashCloneCfg{})
	check(t, db.Close())
	_, durable, started := orc.span()
	for _, kind := range []errorfs.OpReadWrite{errorfs.OpIsRead, errorfs.OpIsWrite} {
		for _, once := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/once=%v", kind, once), func(t *testing.T) {
				faultPlan(t, 1, func(n int64) int64 { return 2 + n/8 }, func(n int64) bool {
					fs := killed.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
					return openFaultAt(t, fs, orc, n, kind, once, durable, started)
				})
			})
		}
	}
}

func openFaultAt(
	t *testing.T, mem *vfs.MemFS, orc *oracle, n int64, kind errorfs.OpReadWrite, once bool, lo, hi int,
) (reached bool) {
	t.Helper()
	f := &faults{once: once, kind: kind, err: errInjected}
	what := func() string { return fmt.Sprintf("operation %d of open, once %v: %s", n, once, f.where()) }
	within(t, what, func() {
		f.arm(n)
		db, err := Open("db", faultOptions(errorfs.Wrap(mem, f)))
		if err != nil {
			if !errors.Is(err, errInjected) {
				t.Errorf("%s: %v", what(), err)
			}
			return
		}
		f.armed.Store(false) // what fails later is another test's
		orc.match(t, what(), contents(t, db, 0), lo, hi)
		if err := db.Close(); err != nil && !errors.Is(err, errInjected) {
			t.Errorf("%s: close: %v", what(), err)
		}
	})
	f.armed.Store(false)
	percent := int(n % 3 * 50)
	fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(n), 6))})
	within(t, what, func() { checkLife(t, fs, orc, lo, hi, what()) })
	return f.failed.Load() > 0
}

// fullDisk has no space from the n-th request for it on, until space is made.
type fullDisk struct {
	left atomic.Int64 // requests that are still met
	hit  atomic.Bool

	mu   sync.Mutex
	size map[string]int64 // of files written at offsets: writing over costs nothing
}

func (d *fullDisk) String() string { return "full disk" }

func (d *fullDisk) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpMkdirAll, errorfs.OpFileWrite:
	case errorfs.OpFileWriteAt:
		d.mu.Lock()
		known := d.size[op.Path]
		d.size[op.Path] = max(known, op.Offset+1)
		d.mu.Unlock()
		if op.Offset < known {
			return nil
		}
	default:
		return nil
	}
	if d.left.Add(-1) >= 0 {
		return nil
	}
	d.hit.Store(true)
	if strings.Contains(op.Path, "space/map") {
		wrecks.Add(1)
	}
	return syscall.ENOSPC
}

// TestDiskFull fills the disk at one moment or another of a workload. The writer
// is told ErrDiskFull, nothing is lost, an opening without space says so too, and
// with space the store works again.
func TestDiskFull(t *testing.T) {
	diskFull := func(err error) bool {
		return errors.Is(err, ErrPoisoned) && errors.Is(err, ErrDiskFull) && errors.Is(err, syscall.ENOSPC)
	}
	faultPlan(t, 0, func(n int64) int64 { return 4 + n/4 }, func(n int64) bool {
		mem := newCrashFS(t)
		d := &fullDisk{size: map[string]int64{}}
		d.left.Store(1 << 40)
		what := func() string { return fmt.Sprintf("disk full after %d requests for space", n) }
		o := faultOptions(errorfs.Wrap(mem, d))
		db := mustOpen(t, o)
		d.left.Store(n)
		orc := newOracle()
		l := newLife(db, orc, 7, diskFull)
		within(t, what, l.run)
		if l.strange != nil {
			t.Errorf("%s: %v", what(), l.strange)
		}
		acked, durable, started := orc.span()
		within(t, what, func() {
			orc.match(t, what(), contents(t, db, 0), acked, acked)
			if err := db.Close(); err == nil {
				durable = acked
			} else if !diskFull(err) {
				t.Errorf("%s: close: %v", what(), err)
			}
			if !d.hit.Load() {
				return
			}
			// Still full.
			if db, err := Open("db", o); err == nil {
				_ = db.Close()
			} else if !errors.Is(err, ErrDiskFull) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: opening on a full disk: %v", what(), err)
			}
		})
		d.left.Store(1 << 40)
		within(t, what, func() { checkLife(t, mem, orc, durable, started, what()) })
		return d.hit.Load()
	})
}

// unreadableLog is a store with 200 committed rows in the log, which cannot be read back
// while f is armed: no checkpoint succeeds then.
func unreadableLog(t *testing.T, before func(db *DB)) (db *DB, tb *Table, f *faults) {
	t.Helper()
	f = &faults{kind: errorfs.OpIsRead, err: errInjected, skip: func(op errorfs.Op) bool {
		return op.Kind != errorfs.OpFileReadAt || !strings.HasSuffix(op.Path, ".seg")
	}}
	o := faultOptions(errorfs.Wrap(newCrashFS(t), f))
	o.ChillThreshold = 1 << 30 // all are small: chilled, they stay in the log
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	before(db)
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 200, 1000)
	chillAll(t, db)
	if db.Metrics().ChilledRecords == 0 {
		t.Fatal("nothing was chilled")
	}
	check(t, db.Sync())
	f.arm(0)
	commit(t, tx)
	return db, tb, f
}

// Rows that a transaction had committed in the log could not be read back: no checkpoint
// succeeded, and when the log was full new writers waited for one, for ever. They are
// told why, until the disk reads again.
func TestWaitForCheckpointThatFails(t *testing.T) {
	db, tb, f := unreadableLog(t, func(*DB) {})
	var err error
	within(t, func() string { return f.where() }, func() {
		for i := 0; err == nil; i++ {
			err = db.Update(ctx, func(tx *Tx) error { return tx.Put(tb, []byte("k"), value(i, 4000)) })
		}
	})
	wantErr(t, "a write when the log is full", err, errInjected)
	check(t, db.failed())
	f.armed.Store(false)
	eventually(t, "a write", func() bool {
		err := db.Update(ctx, func(tx *Tx) error { return tx.Put(tb, []byte("k"), []byte("last")) })
		if err != nil {
			wantErr(t, "until a checkpoint succeeds", err, errInjected)
		}
		return err == nil
	})
	inView(t, db, func(tx *Tx) {
		gets(t, tx, tb, "k", "last")
		if n := len(all(t, tx, tb)); n != 201 {
			t.Errorf("%d rows", n)
		}
	})
	mustClose(t, db)
}

// Checkpoints failed for a while, when the log had room. Who comes when it is full, and
// the disk reads again, waits for the next one, as ever.
func TestFailedCheckpointsOfOld(t *testing.T) {
	db, tb, f := unreadableLog(t, func(*DB) {})
	for range 2 * maxFailures {
		wantErr(t, "checkpoint", db.Checkpoint(ctx), errInjected)
	}
	check(t, db.ckpt.mu.lock(ctx)) // the next one is under way
	f.armed.Store(false)
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 1000, 2000, 1500) })
	if owed := db.m.Owed(); owed <= db.o.LogLimit {
		t.Fatalf("the log owes %d bytes", owed)
	}
	done := make(chan error)
	go func() { done <- db.Update(ctx, func(tx *Tx) error { return tx.Put(tb, []byte("k"), []byte("1")) }) }()
	for range 100 { // it looks again and again
		db.m.Relaxed()
		time.Sleep(time.Millisecond)
	}
	db.ckpt.mu.unlock()
	check(t, <-done)
	mustClose(t, db)
}

// A checkpoint that a pass of the collector wanted failed, and each pass ended for it:
// the space of others was not collected either.
func TestCollectDespiteFailedCheckpoint(t *testing.T) {
	db, _, f := unreadableLog(t, func(db *DB) {
		db.collect.least = 1
		check(t, db.collect.mu.lock(ctx)) // no pass but the test's
		fillGarbage(t, db, mustTable(t, db, "u"), 6)
		mustTable(t, db, "gone")
	})
	check(t, db.DropTable(ctx, "gone"))
	before := db.space.RunBytes()
	db.collect.mu.unlock()
	wantErr(t, "CollectSpace", db.CollectSpace(ctx), errInjected)
	if n := db.space.RunBytes(); n > before/2 {
		t.Errorf("%d bytes in runs that were %d, most of it dead", n, before)
	}
	f.armed.Store(false)
	mustClose(t, db)
}

// A checkpoint has let the log go, and then cannot remove what a dropped table had: it
// counts for who waits for the log. What others had is removed.
func TestDroppedTableThatCannotBeRemoved(t *testing.T) {
	var fails atomic.Int64
	f := &faults{kind: errorfs.OpIsRead, err: errInjected, skip: func(op errorfs.Op) bool {
		return !ofMapTable(op) || fails.Add(-1) < 0
	}}
	db := largeMap(t, faultOptions(errorfs.Wrap(newCrashFS(t), f)), 1500)
	release := db.space.HoldCompactions()
	f.arm(0)
	fails.Store(1 << 30)
	check(t, db.DropTable(ctx, "t"))
	for range maxFailures {
		wantErr(t, "checkpoint", db.Checkpoint(ctx), errInjected)
	}
	if _, err := db.ckpt.stuck(); err != nil {
		t.Error(err)
	}
	mustTable(t, db, "other")
	check(t, db.DropTable(ctx, "other"))
	check(t, db.ckpt.mu.lock(ctx))
	fails.Store(1)
	removed, err := db.removeDropped(ctx, db.log.End())
	db.ckpt.mu.unlock()
	if n := db.drops.len(); !removed || n != 1 || !errors.Is(err, errInjected) {
		t.Errorf("removed %v, %d tables are left: %v", removed, n, err)
	}
	release()
	check(t, db.Checkpoint(ctx))
	if n := db.drops.len(); n != 0 {
		t.Errorf("%d tables to remove when the disk reads", n)
	}
	mustClose(t, db)
}
