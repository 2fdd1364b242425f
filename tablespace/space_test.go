package tablespace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/sakerdb/saker/internal/base"
)

func TestMain(m *testing.M) {
	const pebble = "github.com/cockroachdb/pebble/v2"
	goleak.VerifyTestMain(m,
		// What a wrecked map leaves behind, see mapFS. A map that is closed waits
		// for these itself.
		goleak.IgnoreAnyFunction("github.com/sakerdb/saker/tablespace.park"),
		goleak.IgnoreAnyFunction("github.com/sakerdb/saker/tablespace.(*Space).closeMap.func1"),
		goleak.IgnoreAnyFunction("github.com/sakerdb/saker/tablespace.(*Space).mapMetrics.func1"),
		goleak.IgnoreAnyFunction("github.com/sakerdb/saker/tablespace.(*Space).openPebble.func1"),
		goleak.IgnoreAnyFunction(pebble+".(*versionSet).logLock"),
		goleak.IgnoreAnyFunction(pebble+".(*DB).flush"),
		goleak.IgnoreAnyFunction(pebble+".(*DB).compact"),
		goleak.IgnoreAnyFunction(pebble+".(*cleanupManager).mainLoop"),
		goleak.IgnoreAnyFunction(pebble+".openCleanupManager.func1"),
		goleak.IgnoreAnyFunction(pebble+"/record.NewLogWriter.func2"),
		goleak.IgnoreAnyFunction(pebble+"/internal/genericcache.(*shard[...]).releaseLoop"),
	)
}

// smallOptions make everything happen early: memtables flush by themselves,
// queue and buffer are short.
func smallOptions(fs vfs.FS, incarnation uint32) Options {
	return Options{
		FS: fs, Dir: "space", Incarnation: incarnation,
		MemTableSize: 64 << 10, CacheSize: 256 << 10, BufferSize: 1 << 20, MaxQueuedEdits: 256, RunSize: 1 << 20,
	}
}

func mustOpen(tb testing.TB, o Options) *Space {
	tb.Helper()
	s, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func mustClose(tb testing.TB, s *Space) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

// openFresh opens an empty space in memory that is closed and checked at the end.
func openFresh(tb testing.TB) *Space {
	tb.Helper()
	s := mustOpen(tb, smallOptions(vfs.NewMem(), 1))
	endRecovery(tb, s)
	tb.Cleanup(func() {
		if err := s.Verify(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// edit makes one edit.
func edit(tb testing.TB, s *Space, fn func(e *EditTx)) base.EditSeq {
	tb.Helper()
	if err := s.ReserveEdits(context.Background(), 1); err != nil {
		tb.Fatal(err)
	}
	e := s.BeginEdit()
	fn(e)
	return e.End()
}

func endRecovery(tb testing.TB, s *Space) {
	tb.Helper()
	edit(tb, s, (*EditTx).EndRecovery)
}

// testFrame returns bytes that pass for a frame of n bytes.
func testFrame(n int, fill byte) []byte {
	n = max(n, 80)
	b := bytes.Repeat([]byte{fill}, n)
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint32(b[4:], 0)
	return b
}

func sameFrame(got []byte, n int, fill byte) bool {
	want := testFrame(n, fill)
	return len(got) == len(want) && bytes.Equal(got[8:], want[8:])
}

// addFrame adds one frame as an edit of its own, listed at low up to high.
func addFrame(tb testing.TB, s *Space, r *Run, n int, fill byte, low, high string) FrameRef {
	tb.Helper()
	f := testFrame(n, fill)
	if err := s.ReserveBuffer(context.Background(), len(f)); err != nil {
		tb.Fatal(err)
	}
	var ref FrameRef
	edit(tb, s, func(e *EditTx) {
		ref = FrameRef{Addr: e.AddFrame(r, f, 1, r.Owner()), Owner: r.Owner(), Rows: 1}
		e.Put(1, Entry{Low: []byte(low), High: highOf(high), Frames: []FrameRef{ref}})
		e.Refs(r.ID(), 1)
	})
	return ref
}

// highOf turns the empty string into an open end.
func highOf(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func show(b []byte) string {
	if b == nil {
		return "∞"
	}
	return string(b)
}

// lookup formats what Lookup or LookupBefore finds.
func lookup(tb testing.TB, s *Space, table base.TableID, key string, before bool) string {
	tb.Helper()
	fn := s.Lookup
	if before {
		fn = s.LookupBefore
	}
	k := []byte(key)
	if before && key == "" {
		k = nil
	}
	return describe(tb, s)(fn(table, k))
}

func describe(tb testing.TB, s *Space) func(Entry, bool, []byte, []byte, error) string {
	tb.Helper()
	return func(en Entry, ok bool, lo, hi []byte, err error) string {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		if !ok {
			return fmt.Sprintf("hole %s %s", show(lo), show(hi))
		}
		defer s.ReleaseEntry(&en)
		return fmt.Sprintf("entry %s %s", en.Low, show(en.High))
	}
}

func TestOpenDefaults(t *testing.T) {
	s := mustOpen(t, Options{FS: vfs.NewMem(), Dir: "d", Incarnation: 1})
	if s.o.BufferSize == 0 || s.o.RunSize == 0 || s.o.MemTableSize == 0 || s.o.MaxQueuedEdits == 0 {
		t.Errorf("options without defaults: %+v", s.o)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, base.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := s.NewRun(0); !errors.Is(err, base.ErrClosed) {
		t.Errorf("NewRun after Close: %v", err)
	}
	if err := s.ReserveEdits(context.Background(), 1); !errors.Is(err, base.ErrClosed) {
		t.Errorf("ReserveEdits after Close: %v", err)
	}
}

func TestOpenOnDisk(t *testing.T) {
	dir := t.TempDir()
	for inc := uint32(1); inc <= 3; inc++ {
		s := mustOpen(t, Options{Dir: dir, Incarnation: inc})
		endRecovery(t, s)
		r, err := s.NewRun(0)
		if err != nil {
			t.Fatal(err)
		}
		low := fmt.Sprintf("k%d", inc)
		ref := addFrame(t, s, r, 9000, byte(inc), low, low+"x")
		if got := lookup(t, s, 1, "k1", false); got != "entry k1 k1x" {
			t.Errorf("k1: %s", got)
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		b, err := s.ReadFrame(ref.Addr, nil)
		if err != nil || !sameFrame(b, 9000, byte(inc)) {
			t.Errorf("frame: %d bytes, %v", len(b), err)
		}
		if err := s.Verify(context.Background()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// L7: sequence numbers and run ids of a lost life never come back.
func TestNumbersDoNotRepeat(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	r, _ := s.NewRun(0)
	last := edit(t, s, func(*EditTx) {})
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustClose(t, s)
	s = mustOpen(t, smallOptions(crashed, 2))
	defer mustClose(t, s)
	r2, _ := s.NewRun(0)
	if next := edit(t, s, func(*EditTx) {}); next <= last {
		t.Errorf("edit %d after %d", next, last)
	}
	if r2.ID() <= r.ID() {
		t.Errorf("run %x after %x", r2.ID(), r.ID())
	}
}

func TestReadOnly(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	endRecovery(t, s)
	r, _ := s.NewRun(0)
	ref := addFrame(t, s, r, 100, 7, "a", "m")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o := smallOptions(fs, 2)
	o.ReadOnly = true
	s = mustOpen(t, o)
	if _, err := s.NewRun(0); !errors.Is(err, base.ErrReadOnly) {
		t.Errorf("NewRun: %v", err)
	}
	if _, err := s.Flush(); !errors.Is(err, base.ErrReadOnly) {
		t.Errorf("Flush: %v", err)
	}
	// Recovery in memory: seen, and gone with the space.
	seq := edit(t, s, func(e *EditTx) { e.Put(1, Entry{Low: []byte("m"), High: []byte("z")}) })
	if err := s.WaitApplied(seq); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]string{"b": "entry a m", "n": "entry m z", "zz": "hole z ∞"} {
		if got := lookup(t, s, 1, key, false); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	if b, err := s.ReadFrame(ref.Addr, nil); err != nil || !sameFrame(b, 100, 7) {
		t.Errorf("frame: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 3))
	defer mustClose(t, s)
	if got := lookup(t, s, 1, "n", false); got != "hole m ∞" {
		t.Errorf("after read-only: %s", got)
	}
}

// eventually waits for cond.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			tb.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// A crash left the name of a run and none of its bytes. The file was taken for
// one that had not been made yet when it was collected, stayed, and so did every
// one like it; Verify found them.
func TestEmptyRunFileIsCollected(t *testing.T) {
	fs := vfs.NewMem()
	mustClose(t, mustOpen(t, smallOptions(fs, 1)))
	o := smallOptions(fs, 2)
	path := fs.PathJoin(o.Dir, runDirName, "0000000000000007.run")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if n, err := s.CollectFiles(nil); n != 1 || err != nil {
		t.Errorf("%d files collected, %v", n, err)
	}
	if _, err := fs.Stat(path); err == nil {
		t.Error("the empty file is still there")
	}
}
