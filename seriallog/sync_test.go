package seriallog

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
)

// counting counts writes and syncs of files, and fails from the n-th on.
type counting struct {
	writes, syncs atomic.Int64
	ops           atomic.Int64
	failAt        atomic.Int64 // 0: never
	slow          atomic.Int64 // nanoseconds that a sync takes
}

func (c *counting) inject(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileWriteAt:
		c.writes.Add(1)
	case errorfs.OpFileSyncData:
		c.syncs.Add(1)
		time.Sleep(time.Duration(c.slow.Load()))
	default:
	}
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
		if n, at := c.ops.Add(1), c.failAt.Load(); at > 0 && n >= at {
			return errorfs.ErrInjected
		}
	}
	return nil
}

func (c *counting) wrap(fs vfs.FS) vfs.FS { return errorfs.Wrap(fs, errorfs.InjectorFunc(c.inject)) }

func TestOneDurableCommitIsOneWriteAndOneSync(t *testing.T) {
	c := &counting{}
	l, _ := open(t, c.wrap(vfs.NewMem()), 1)
	for l.Stats().Segments == 1 { // reach a fresh segment, so that no file is being prepared
		addGroup(t, l, 1, make([]byte, 8<<10))
	}
	mustSync(t, l, l.End())
	f, err := l.supply.Take(3) // wait for the goroutine to have made it
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(t, f)
	writes, syncs := c.writes.Load(), c.syncs.Load()
	for i := range 20 {
		end := addCommit(t, l, &Commit{Txn: 1, TS: base.CommitTS(i)}, rows(1, 1, 10))
		mustSync(t, l, end)
		if l.Synced() != end {
			t.Errorf("synced %d after a sync of %d", l.Synced(), end)
		}
		mustSync(t, l, end) // costs nothing
	}
	if w, s := c.writes.Load()-writes, c.syncs.Load()-syncs; w != 20 || s != 20 {
		t.Errorf("20 durable commits took %d writes and %d syncs", w, s)
	}
	closeLog(t, l)
}

func TestSyncIsShared(t *testing.T) {
	c := &counting{}
	l, _ := open(t, c.wrap(vfs.NewMem()), 1)
	c.slow.Store(int64(100 * time.Microsecond))
	before := l.Stats().Syncs
	const goroutines, each = 32, 50
	var wg sync.WaitGroup
	var last atomic.Uint64
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				end := addCommit(t, l, &Commit{Txn: base.TxnID(g + 1), TS: base.CommitTS(i)}, rows(g, 1, 10))
				if err := l.Sync(end); err != nil {
					t.Error(err)
				}
				if l.Synced() < end {
					t.Errorf("Sync(%d) returned at %d", end, l.Synced())
				}
				last.Store(uint64(end))
			}
		})
	}
	wg.Wait()
	if n := l.Stats().Syncs - before; n > goroutines*each/4 {
		t.Errorf("%d syncs for %d commits", n, goroutines*each)
	}
	idle(t, l)
	closeLog(t, l)
}

// L8: at every I/O, for every n: nothing succeeds after the failure, what was
// synced stays, all credits and waiters come home, reads of the buffer go on.
func TestPoisonAtEveryWrite(t *testing.T) {
	for n := int64(1); ; n++ {
		mem := vfs.NewCrashableMem()
		c := &counting{}
		var failures atomic.Int64
		fs := c.wrap(mem)
		l := openOnly(t, fs, 1, func(o *Options) { o.OnFailure = func(error) { failures.Add(1) } })
		base0 := c.ops.Load()
		c.failAt.Store(base0 + n)
		if err := l.StartWriting(); err != nil {
			if !errors.Is(err, errorfs.ErrInjected) {
				t.Fatal(err)
			}
			_ = l.Close()
			continue
		}
		var synced int
		var failed error
		for i := 0; i < 36 && failed == nil; i++ {
			body := rows(i, 1, 4<<10)
			if failed = l.Reserve(t.Context(), RecordOverhead()+len(body)); failed != nil {
				break
			}
			var start base.LSN
			if start, failed = l.AppendGroup(1, body); failed != nil {
				l.Unreserve(RecordOverhead() + len(body))
				break
			}
			if failed = l.Sync(start + base.LSN(len(body))); failed == nil {
				synced = i + 1
			} else if got, err := l.Read(start, len(body), nil); c.lastWasWrite(l, start) && (err != nil || string(got) != string(body)) {
				t.Errorf("n=%d: read of unwritten bytes: %v", n, err)
			}
		}
		if failed != nil {
			if !errors.Is(failed, base.ErrPoisoned) || !errors.Is(failed, errorfs.ErrInjected) {
				t.Fatalf("n=%d: %v", n, failed)
			}
			if failures.Load() != 1 {
				t.Errorf("n=%d: OnFailure called %d times", n, failures.Load())
			}
			if err := l.Reserve(t.Context(), 1); !errors.Is(err, base.ErrPoisoned) {
				t.Errorf("n=%d: reserve: %v", n, err)
			}
			if err := l.Sync(l.Synced()); err != nil {
				t.Errorf("n=%d: sync of what is synced: %v", n, err)
			}
		}
		err := l.Close()
		if failed != nil && !errors.Is(err, base.ErrPoisoned) {
			t.Errorf("n=%d: Close: %v", n, err)
		}
		crashed := mem.CrashClone(vfs.CrashCloneCfg{})
		l, got := open(t, crashed, 2)
		if len(got) < synced {
			t.Fatalf("n=%d: %d records survive of %d synced", n, len(got), synced)
		}
		closeLog(t, l)
		if failed == nil && c.ops.Load() < base0+n {
			return
		}
		if n > 2000 {
			t.Fatal("no end")
		}
	}
}

// lastWasWrite reports whether the bytes at start are still in the buffer.
func (c *counting) lastWasWrite(l *Log, start base.LSN) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.find(start, 1) != nil
}
