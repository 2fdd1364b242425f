package tablespace

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
)

// L10: an edit that lists committed frames is applied only after its runs and
// the log are synced; one that lists owned frames does not wait.
func TestNeedSyncOrder(t *testing.T) {
	s := openFresh(t)
	var synced atomic.Int32
	var r *Run
	s.o.SyncLog = func() error {
		if r.synced.Load() < r.size.Load() {
			t.Error("the log was synced before the run")
		}
		if got := s.appliedSeq(); got >= s.LastSeq() {
			t.Error("applied before the log was synced")
		}
		synced.Add(1)
		return nil
	}
	r, _ = s.NewRun(3)
	addFrame(t, s, r, 100, 1, "a", "b")
	if err := s.WaitApplied(s.LastSeq()); err != nil || synced.Load() != 0 || r.synced.Load() != 0 {
		t.Errorf("owned frame: %v, log synced %d times", err, synced.Load())
	}
	frame := testFrame(100, 2)
	if err := s.ReserveBuffer(context.Background(), len(frame)); err != nil {
		t.Fatal(err)
	}
	seq := edit(t, s, func(e *EditTx) {
		e.NeedSync()
		a := e.AddFrame(r, frame, 1, 0)
		e.Put(1, Entry{Low: []byte("c"), Frames: []FrameRef{{Addr: a}}})
		e.Refs(r.ID(), 1)
	})
	if err := s.WaitApplied(seq); err != nil || synced.Load() != 1 {
		t.Errorf("committed frame: %v, log synced %d times", err, synced.Load())
	}
}

func (s *Space) appliedSeq() base.EditSeq {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.q.applied
}

// The queue is bounded: who wants room waits until edits are applied.
func TestQueueRoom(t *testing.T) {
	s := openFresh(t)
	release := s.holdApplier(t)
	n := 0
	for ; s.Stats().Queued < int64(s.o.MaxQueuedEdits); n++ {
		if err := s.ReserveEdits(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		e := s.BeginEdit()
		e.Put(1, Entry{Low: fmt.Appendf(nil, "%05d", n), High: fmt.Appendf(nil, "%05dx", n)})
		e.End()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.ReserveEdits(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("room in a full queue: %v", err)
	}
	if n > s.o.MaxQueuedEdits || n < s.o.MaxQueuedEdits-2 { // one or two are held in SyncLog
		t.Errorf("%d edits in a queue for %d", n, s.o.MaxQueuedEdits)
	}
	release()
	if err := s.ReserveEdits(context.Background(), s.o.MaxQueuedEdits); err != nil {
		t.Fatal(err)
	}
	s.UnreserveEdits(s.o.MaxQueuedEdits)
	eventually(t, "overlay is empty", func() bool { st := s.Stats(); return st.Overlay == 0 && st.Queued == 0 })
}

// An entry is queued with all that its leaf lists. Places were counted by edits: while
// the disk was slow, those of leaves with long lists held many times the memory that
// the queue was meant to have (M1).
func TestQueueRoomCountsFrames(t *testing.T) {
	s := openFresh(t)
	release := s.holdApplier(t)
	frames := make([]FrameRef, 40*placeFrames)
	if err := s.ReserveEdits(context.Background(), 2); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		before := s.Stats().Queued
		e := s.BeginEdit()
		e.Put(1, Entry{Low: []byte{byte(i)}, High: []byte{byte(i + 1)}, Frames: frames})
		e.End()
		if got := s.Stats().Queued - before; got != 40 {
			t.Errorf("an entry of %d frames takes %d places more than one", len(frames), got)
		}
	}
	for i := range 2 { // they are made up
		if err := s.ReserveEdits(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		e := s.BeginEdit()
		e.Delete(1, []byte{byte(i)})
		e.End()
	}
	release()
	eventually(t, "overlay is empty", func() bool { st := s.Stats(); return st.Overlay == 0 && st.Queued == 0 })
}

// L10: a run is unlinked only when it is sealed, unused, and a flush covers the
// edit that removed the last entry.
func TestUnlink(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	endRecovery(t, s)
	r, _ := s.NewRun(0)
	addFrame(t, s, r, 200, 1, "a", "b")
	flush := func() {
		t.Helper()
		if _, err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(want bool) {
		t.Helper()
		if err := r.Sync(); want && err != nil {
			t.Fatal(err)
		}
		_, err := fs.Stat(s.runPath(r.ID()))
		if (err == nil) != want {
			t.Fatalf("run file: %v, want it to exist: %t", err, want)
		}
	}
	flush()
	r.Seal()
	flush()
	exists(true)
	en, _, _, _, err := s.Lookup(1, []byte("a"))
	if err != nil || en.Held(0) != r {
		t.Fatal(err)
	}
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Refs(r.ID(), -1)
	})
	if err := s.WaitApplied(s.LastSeq()); err != nil {
		t.Fatal(err)
	}
	exists(true) // not flushed
	flush()
	exists(true) // a reader has it
	if b, err := s.ReadFrame(en.Frames[0].Addr, nil); err != nil || !sameFrame(b, 200, 1) {
		t.Errorf("frame: %v", err)
	}
	s.ReleaseEntry(&en)
	hold := s.holdUnlink()
	flush()
	exists(true) // for backup
	if err := hold(); err != nil {
		t.Fatal(err)
	}
	exists(false)
	if s.Acquire(r.ID()) {
		t.Error("an unlinked run gave a reference")
	}
	if s.known(r.ID()) != nil {
		t.Error("an unlinked run is remembered")
	}
}

// A run still being written survives that nothing lists it for a while.
func TestUnlinkSparesOpenRuns(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(0)
	for i := range 3 {
		addFrame(t, s, r, 200, byte(i), "a", "b")
		edit(t, s, func(e *EditTx) {
			e.Delete(1, []byte("a"))
			e.Refs(r.ID(), -1)
		})
		if _, err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if s.Find(r.ID()) == nil {
			t.Fatal("an open run was unlinked")
		}
	}
	r.Seal()
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if s.Find(r.ID()) != nil {
		t.Error("a sealed run that nothing lists was kept")
	}
}

// A run may go only when all edits before Seal are durable: the flush that ends now
// may have begun before them.
func TestUnlinkWaitsForEditsBeforeSeal(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(9)
	addFrame(t, s, r, 200, 1, "a", "b")
	seq := edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Refs(r.ID(), -1)
	})
	if err := s.WaitApplied(seq); err != nil {
		t.Fatal(err)
	}
	last := edit(t, s, func(e *EditTx) { e.PutOutcome(9, 90, nil, []base.RunID{r.ID()}) })
	r.Seal()
	s.unlinkIdle(seq)
	if s.Find(r.ID()) == nil {
		t.Error("a run went before its outcome row was durable")
	}
	s.unlinkIdle(last)
	if s.Find(r.ID()) != nil {
		t.Error("a sealed run that nothing lists was kept")
	}
}

// Dropping a run gives its buffer back, at once or when the last reader leaves.
func TestDropRun(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(5)
	ref := addFrame(t, s, r, 5000, 1, "a", "b")
	if !s.Acquire(r.ID()) {
		t.Fatal("no reference")
	}
	if err := s.DropRun(r.ID()); err != nil {
		t.Fatal(err)
	}
	if b, err := s.ReadFrame(ref.Addr, nil); err != nil || !sameFrame(b, 5000, 1) {
		t.Errorf("frame of a dropped run that is still held: %v", err)
	}
	s.Release(r.ID())
	if st := s.Stats(); st.BufferUsed != 0 || st.Runs != 0 {
		t.Errorf("after the last reader: %+v", st)
	}
	// Its owner may not have noticed yet.
	late := addFrame(t, s, r, 5000, 1, "c", "d")
	if _, err := s.ReadFrame(late.Addr, nil); err == nil {
		t.Error("a frame was added to a dropped run")
	}
	if st := s.Stats(); st.BufferUsed != 0 {
		t.Errorf("buffer leaked: %+v", st)
	}
	en, ok, _, _, err := s.Lookup(1, []byte("a"))
	if !ok || err != nil || en.Held(0) != nil {
		t.Errorf("entry of a dropped run: %t %v", ok, err)
	}
	s.ReleaseEntry(&en)
	if err := r.Sync(); !errors.Is(err, ErrRunNotFound) && err != nil {
		t.Errorf("Sync: %v", err)
	}
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Delete(1, []byte("c"))
		e.Refs(r.ID(), -2)
	})
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if s.known(r.ID()) != nil {
		t.Error("the run is remembered")
	}
	if err := s.DropRun(r.ID()); err != nil {
		t.Errorf("second drop: %v", err)
	}
}

// L8: an error at the n-th write or sync, for every n: the failure is reported
// once, nothing hangs, what was acknowledged is there after reopening, and
// reads go on.
func TestFailureAtEveryWrite(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; n < 400; n += step {
		if !failAt(t, int32(n)) {
			if n == 0 {
				t.Error("nothing failed")
			}
			return
		}
	}
}

// failAt runs a short life in which write n fails; it reports whether one did.
func failAt(t *testing.T, n int32) bool {
	t.Helper()
	mem := vfs.NewCrashableMem()
	var left atomic.Int32
	left.Store(1 << 30)
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpRename:
			if left.Add(-1) < 0 {
				return errorfs.ErrInjected
			}
		default: // only writing and syncing fail
		}
		return nil
	})
	var failures atomic.Int32
	o := smallOptions(errorfs.Wrap(mem, inject), 1)
	o.MemTableSize = 64 << 10
	o.OnFailure = func(error) { failures.Add(1) }
	s := mustOpen(t, o)
	endRecovery(t, s)
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	left.Store(n)
	durable, err := failLife(s)
	if err == nil {
		err = s.Close()
	} else {
		if !errors.Is(err, base.ErrPoisoned) || s.Err() == nil {
			t.Errorf("write %d: %v is not sticky", n, err)
		}
		if _, _, _, _, err := s.Lookup(1, []byte("k0000")); err != nil {
			t.Errorf("write %d: read after the failure: %v", n, err)
		}
		if err := s.ReserveEdits(context.Background(), 1); !errors.Is(err, base.ErrPoisoned) {
			t.Errorf("write %d: ReserveEdits: %v", n, err)
		}
		if cerr := s.Close(); !errors.Is(cerr, base.ErrPoisoned) {
			t.Errorf("write %d: Close: %v", n, cerr)
		}
	}
	failed := left.Load() < 0
	if failed && failures.Load() != 1 {
		t.Errorf("write %d: failure reported %d times (%v)", n, failures.Load(), err)
	}
	s2 := mustOpen(t, smallOptions(mem.CrashClone(vfs.CrashCloneCfg{}), 2))
	defer mustClose(t, s2)
	if err := s2.Verify(context.Background()); err != nil {
		t.Errorf("write %d: %v", n, err)
	}
	if s2.Loaded().LastSeq < durable {
		t.Errorf("write %d: edit %d survived, %d was promised", n, s2.Loaded().LastSeq, durable)
	}
	return failed
}

// failLife edits and flushes until something fails; it returns the last edit
// that Flush promised.
func failLife(s *Space) (durable base.EditSeq, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := s.NewRun(0)
	if err != nil {
		return 0, err
	}
	for i := range 60 {
		f := testFrame(3000, byte(i))
		if err := s.ReserveBuffer(ctx, len(f)); err != nil {
			return durable, err
		}
		if err := s.ReserveEdits(ctx, 1); err != nil {
			return durable, err
		}
		e := s.BeginEdit()
		a := e.AddFrame(r, f, 1, 0)
		e.Put(1, Entry{
			Low: fmt.Appendf(nil, "k%04d", i), High: fmt.Appendf(nil, "k%04d", i+1),
			Frames: []FrameRef{{Addr: a, Filter: []byte(strings.Repeat("f", 1000))}},
		})
		e.Refs(r.ID(), 1)
		e.NeedSync()
		e.End()
		if i%10 == 9 {
			seq, err := s.Flush()
			if err != nil {
				return durable, err
			}
			durable = seq
		}
	}
	return durable, nil
}

// A failure of the log poisons the space like one of its own.
func TestSyncLogFailure(t *testing.T) {
	o := smallOptions(vfs.NewMem(), 1)
	boom := errors.New("boom")
	o.SyncLog = func() error { return boom }
	told := make(chan error, 2)
	o.OnFailure = func(err error) { told <- err }
	s := mustOpen(t, o)
	seq := edit(t, s, func(e *EditTx) { e.NeedSync() })
	if err := s.WaitApplied(seq); !errors.Is(err, boom) || !errors.Is(err, base.ErrPoisoned) {
		t.Errorf("WaitApplied: %v", err)
	}
	if err := <-told; !errors.Is(err, boom) {
		t.Error(err)
	}
	// Edits whose room was reserved before stay visible.
	e := s.BeginEdit()
	e.Put(1, Entry{Low: []byte("a")})
	e.End()
	if got := lookup(t, s, 1, "b", false); got != "entry a ∞" {
		t.Error(got)
	}
	if err := s.Close(); !errors.Is(err, boom) {
		t.Errorf("Close: %v", err)
	}
}

// failing returns a disk on which the operations that match fail while bad is set.
func failing(bad *atomic.Bool, match func(errorfs.Op) bool) vfs.FS {
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad.Load() && match(op) {
			return errorfs.ErrInjected
		}
		return nil
	}))
}

// A map whose manifest could not be written is abandoned, and nobody waits for
// it: figures are asked for, and the space is closed. Both used to wait for ever
// for the goroutine that is parked in the write.
func TestWreckedMap(t *testing.T) {
	var bad atomic.Bool
	o := smallOptions(failing(&bad, func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, "MANIFEST")
	}), 1)
	s := mustOpen(t, o)
	endRecovery(t, s)
	bad.Store(true)
	if _, err := s.Flush(); !errors.Is(err, base.ErrPoisoned) || !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("flush: %v", err)
	}
	<-s.mapFS.wrecked
	s.Stats()
	if err := s.Close(); !errors.Is(err, base.ErrPoisoned) {
		t.Errorf("close: %v", err)
	}
	// Neither does an opening wait.
	o.Incarnation++
	if s, err := Open(o); err == nil {
		t.Errorf("opened: %v", s.Close())
	} else if !errors.Is(err, base.ErrPoisoned) {
		t.Errorf("open: %v", err)
	}
	bad.Store(false)
	o.Incarnation++
	mustClose(t, mustOpen(t, o))
}

// An abandoned map tried to flush every 10 ms for as long as the process ran, on a
// new goroutine each time: TestFailedOpenLeavesNoCompactions found such goroutines
// of maps that other tests had wrecked. It comes to rest.
func TestAbandonedMapRests(t *testing.T) {
	var bad atomic.Bool
	failed := make(chan struct{})
	var once sync.Once
	o := smallOptions(failing(&bad, func(op errorfs.Op) bool {
		if op.Kind != errorfs.OpCreate || !strings.HasSuffix(op.Path, ".sst") {
			return false
		}
		once.Do(func() { close(failed) })
		return true
	}), 1)
	s := mustOpen(t, o)
	endRecovery(t, s)
	bad.Store(true)
	if _, err := s.Flush(); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("flush: %v", err)
	}
	<-failed
	s.mapFS.once.Do(func() { close(s.mapFS.wrecked) }) // as a write of the manifest would
	if err := s.Close(); !errors.Is(err, base.ErrPoisoned) {
		t.Errorf("close: %v", err)
	}
	// It tries once more at most, which parks: then nothing is tried any more.
	create := fmt.Sprintf("(*mapFS).Create(%p", s.mapFS)
	eventually(t, "the flush is parked", func() bool {
		for g := range strings.SplitSeq(allStacks(), "\n\n") {
			if strings.Contains(g, "tablespace.park") && strings.Contains(g, create) {
				return true
			}
		}
		return false
	})
}

// allStacks returns the stacks of all goroutines.
func allStacks() string {
	for n := 1 << 20; ; n *= 2 {
		buf := make([]byte, n)
		if got := runtime.Stack(buf, true); got < n {
			return string(buf[:got])
		}
	}
}

// A failure that came while the space closed, from an abandoned map's goroutine,
// was told after Close had returned (found by the race detector: the wait group
// was entered while it was waited for). It is told before, or nobody.
func TestNobodyIsToldAfterRest(t *testing.T) {
	told := 0
	p := poison{ch: make(chan struct{}), onFailure: func(error) { told++ }}
	p.rest()
	p.fail(errorfs.ErrInjected)
	p.wg.Wait()
	if told != 0 {
		t.Error("told after rest")
	}
	if err := p.get(); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("sticky error: %v", err)
	}
}
