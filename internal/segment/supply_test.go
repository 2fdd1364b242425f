package segment

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"github.com/sakerdb/saker/internal/base"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const supplyDir = "/log"

func newMem(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll(supplyDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SyncDir(fs, "/"); err != nil {
		t.Fatal(err)
	}
	return fs
}

func take(t *testing.T, s *Supply, seq uint64) *File {
	t.Helper()
	f, err := s.Take(seq)
	if err != nil {
		t.Fatal(err)
	}
	if f.Seq() != seq {
		t.Fatalf("took %d, want %d", f.Seq(), seq)
	}
	return f
}

func stop(t *testing.T, s *Supply, files ...*File) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	for _, f := range files {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Invariant 3: a file that was taken is there after a crash that keeps nothing
// that was not synced, with its full length.
func TestSupplyTakenFileIsDurable(t *testing.T) {
	fs := newMem(t)
	s := NewSupply(fs, supplyDir, 600<<10, 4, 2)
	f := take(t, s, 4)
	st, err := fs.CrashClone(vfs.CrashCloneCfg{}).Stat(fs.PathJoin(supplyDir, Name(4)))
	if err != nil || st.Size() != 600<<10 {
		t.Fatalf("new file: %v, %v", st, err)
	}
	if _, ok, err := f.ReadHeader(); ok || err != nil {
		t.Errorf("a new file has a header: %v", err)
	}
	var h [HeaderSize]byte
	PutHeader(h[:], &Header{Seq: 4, Size: 600 << 10})
	if err := f.WriteAt(h[:], 0); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.ReadHeader(); !ok || err != nil {
		t.Errorf("header: %v, %v", ok, err)
	}
	s.Give(f)
	f = take(t, s, 5)
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	names, err := clone.List(supplyDir)
	if err != nil || !slices.Equal(names, []string{Name(5)}) {
		t.Fatalf("after recycling: %v, %v", names, err)
	}
	// Invariant 2: it is nobody's until somebody writes to it.
	if _, ok, err := f.ReadHeader(); ok || err != nil {
		t.Errorf("a recycled file has a header: %v, %v", ok, err)
	}
	got := make([]byte, HeaderSize)
	if n, err := f.ReadAt(got, 0); n != HeaderSize || err != nil || !bytes.Equal(got, h[:]) {
		t.Errorf("recycling touched the bytes")
	}
	stop(t, s, f)
}

func TestSupplyRecyclesAFileOpenedForReading(t *testing.T) {
	fs := newMem(t)
	s := NewSupply(fs, supplyDir, 64<<10, 1, 2)
	stop(t, s, take(t, s, 1))
	f, err := OpenFile(fs, supplyDir, 1)
	if err != nil {
		t.Fatal(err)
	}
	s = NewSupply(fs, supplyDir, 128<<10, 2, 2)
	s.Give(f)
	f = take(t, s, 2)
	if st, err := f.f.Stat(); err != nil || st.Size() != 128<<10 {
		t.Errorf("size %v, %v", st, err)
	}
	if err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
	if err := f.SyncTo(10); err != nil {
		t.Error(err)
	}
	stop(t, s, f)
	if _, err := OpenFile(fs, supplyDir, 1); err == nil {
		t.Error("the old name is still there")
	}
}

func TestSupplyRemovesWhatItDoesNotKeep(t *testing.T) {
	fs := newMem(t)
	s := NewSupply(fs, supplyDir, 64<<10, 1, 2)
	var files []*File
	for seq := uint64(1); seq <= 6; seq++ {
		files = append(files, take(t, s, seq))
	}
	for _, f := range files {
		s.Give(f)
	}
	for range 1000 {
		if names, _ := fs.List(supplyDir); len(names) == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if names, _ := fs.List(supplyDir); len(names) != 2 || s.Free() != 2 {
		t.Errorf("%d files, %d free", len(names), s.Free())
	}
	stop(t, s)
}

func TestSupplyOutOfOrder(t *testing.T) {
	s := NewSupply(newMem(t), supplyDir, 64<<10, 1, 2)
	if _, err := s.Take(2); err == nil {
		t.Error("took the second file first")
	}
	f := take(t, s, 1)
	stop(t, s, f)
	if _, err := s.Take(3); !errors.Is(err, base.ErrClosed) {
		t.Errorf("after Stop: %v", err)
	}
}

// A failure is reported to who needs the file, and tried again for the next.
func TestSupplyFailureIsTriedAgain(t *testing.T) {
	for kind := errorfs.OpCreate; kind <= errorfs.OpFileFlush; kind++ {
		var on atomic.Bool
		var hit atomic.Bool
		fs := errorfs.Wrap(newMem(t), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if on.Load() && op.Kind == kind {
				hit.Store(true)
				return errorfs.ErrInjected
			}
			return nil
		}))
		for _, recycle := range []bool{false, true} {
			s := NewSupply(fs, supplyDir, 64<<10, 1, 2)
			f := take(t, s, 1)
			on.Store(true)
			hit.Store(false)
			if recycle {
				s.Give(f)
			}
			g, err := s.Take(2)
			if (err == nil) == (hit.Load() && kind != errorfs.OpFilePreallocate && kind != errorfs.OpFileClose) {
				t.Errorf("kind %d: %v", kind, err)
			}
			on.Store(false)
			if err != nil {
				if g, err = s.Take(2); err != nil {
					t.Errorf("kind %d: second attempt: %v", kind, err)
				}
			}
			if recycle {
				stop(t, s, g)
			} else {
				stop(t, s, f, g)
			}
		}
	}
}

// A file whose zeros could not be synced is made anew: it used to have its full
// length when it was tried again, and was handed out without ever being synced.
func TestSupplySyncsWhatItTriesAgain(t *testing.T) {
	var fail atomic.Bool
	var synced atomic.Int32
	fs := errorfs.Wrap(newMem(t), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileSync || !strings.HasSuffix(op.Path, nameSuffix) {
			return nil
		}
		if fail.Swap(false) {
			return errorfs.ErrInjected
		}
		synced.Add(1)
		return nil
	}))
	fail.Store(true)
	s := NewSupply(fs, supplyDir, 64<<10, 1, 2)
	if _, err := s.Take(1); !errors.Is(err, errorfs.ErrInjected) {
		t.Fatalf("the failed sync is not told: %v", err)
	}
	f := take(t, s, 1)
	if synced.Load() != 1 {
		t.Errorf("the file was synced %d times", synced.Load())
	}
	stop(t, s, f)
}
