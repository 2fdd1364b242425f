package tablespace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// Frames of every size come back whole, from the buffer and from the file.
func TestRunReadBack(t *testing.T) {
	s := openFresh(t)
	r, err := s.NewRun(9)
	if err != nil {
		t.Fatal(err)
	}
	if r.Owner() != 9 || r.Size() != 0 {
		t.Errorf("owner %v, size %d", r.Owner(), r.Size())
	}
	var refs []FrameRef
	sizes := []int{80, 81, 5000, 16 << 10, 70 << 10, 256 << 10, 300 << 10, 1 << 20, 80}
	for i, n := range sizes {
		refs = append(refs, addFrame(t, s, r, n, byte(i), fmt.Sprintf("k%d", i), fmt.Sprintf("k%dx", i)))
		if i > 0 && refs[i].Off < refs[i-1].Off+uint64(refs[i-1].Len) {
			t.Fatalf("frame %d overlaps the one before", i)
		}
	}
	check := func(s *Space, where string) {
		t.Helper()
		for i, ref := range refs {
			got, err := s.ReadFrame(ref.Addr, []byte("before"))
			if err != nil || string(got[:6]) != "before" || !sameFrame(got[6:], sizes[i], byte(i)) {
				t.Errorf("%s: frame %d: %d bytes, %v", where, i, len(got), err)
			}
		}
	}
	check(s, "partly in the buffer")
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	check(s, "in the file")
	if !r.Full() {
		t.Errorf("a run of %d bytes is not full", r.Size())
	}
}

func TestFramesOfAllSizes(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(0)
	var addrs []Addr
	sizes := []int{100, 200 << 10, 100, 500 << 10, 200}
	for i, n := range sizes {
		f := testFrame(n, byte(i))
		if err := s.ReserveBuffer(context.Background(), len(f)); err != nil {
			t.Fatal(err)
		}
		edit(t, s, func(e *EditTx) { addrs = append(addrs, e.AddFrame(r, f, 1, 0)) })
	}
	for range 2 {
		for i, a := range addrs {
			if got, err := s.ReadFrame(a, nil); err != nil || !sameFrame(got, sizes[i], byte(i)) {
				t.Errorf("frame %d: %v", i, err)
			}
		}
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// L1: Sync covers everything added before it, and the directory entry.
func TestRunSyncSurvivesCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	defer func() { _ = s.Close() }()
	r, _ := s.NewRun(5)
	a := addFrame(t, s, r, 5000, 'a', "a", "b")
	tail := r.WriteIndex()
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	addFrame(t, s, r, 5000, 'b', "b", "c")
	o := smallOptions(fs.CrashClone(vfs.CrashCloneCfg{}), 2)
	s2 := mustOpen(t, o)
	defer func() { _ = s2.Close() }()
	if got, err := s2.ReadFrame(a.Addr, nil); err != nil || !sameFrame(got, 5000, 'a') {
		t.Errorf("frame after crash: %v", err)
	}
	var entries []IndexEntry
	if err := s2.WalkIndex(r.ID(), tail, func(e IndexEntry) (bool, error) {
		entries = append(entries, e)
		return true, nil
	}); err != nil || len(entries) != 1 || entries[0].Addr != a.Addr || entries[0].Owner != 5 {
		t.Errorf("index after crash: %v, %v", entries, err)
	}
}

// Damage anywhere in a frame, and frames read from a wrong place, are noticed.
func TestReadFrameCorruption(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	defer mustClose(t, s)
	r, _ := s.NewRun(0)
	ref := addFrame(t, s, r, 500, 'a', "a", "b")
	other := addFrame(t, s, r, 500, 'a', "b", "c")
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	data, err := fs.UnsafeGetFileDataBuffer(s.runPath(r.ID()))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, a Addr) {
		t.Helper()
		got, err := s.ReadFrame(a, []byte("x"))
		if ce := (*base.CorruptionError)(nil); !errors.As(err, &ce) || ce.File != s.runPath(r.ID()) {
			t.Errorf("%s: %v", what, err)
		}
		if string(got) != "x" {
			t.Errorf("%s: %d bytes returned", what, len(got))
		}
	}
	for i := uint64(0); i < 500; i += 7 {
		data[ref.Off+i] ^= 1
		expect(fmt.Sprintf("bit at %d", i), ref.Addr)
		data[ref.Off+i] ^= 1
	}
	expect("beyond the end", Addr{Run: r.ID(), Off: other.Off, Len: 1 << 31})
	expect("overflow", Addr{Run: r.ID(), Off: ^uint64(0), Len: 10})
	expect("in the header", Addr{Run: r.ID(), Off: 0, Len: 80})
	copy(data[ref.Off:], data[other.Off:other.Off+500])
	expect("frame of another place", ref.Addr)
}

// M7: a buffer full of partly filled chunks of idle runs still makes progress.
func TestBufferProgress(t *testing.T) {
	s := openFresh(t)
	runs := make([]*Run, 200)
	for i := range runs {
		runs[i], _ = s.NewRun(base.TxnID(i + 1))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range 300 {
				f := testFrame(100+rng.IntN(12000), 'p')
				if err := s.ReserveBuffer(ctx, len(f)+50); err != nil {
					t.Error(err)
					return
				}
				if err := s.ReserveEdits(ctx, 1); err != nil {
					t.Error(err)
					return
				}
				e := s.BeginEdit()
				e.AddFrame(runs[rng.IntN(len(runs))], f, 1, 0)
				e.End()
				s.UnreserveBuffer(50)
			}
		})
	}
	wg.Wait()
	for _, r := range runs {
		if err := r.Sync(); err != nil {
			t.Error(err)
		}
	}
	if st := s.Stats(); st.BufferUsed != 0 {
		t.Errorf("%d bytes of buffer leaked", st.BufferUsed)
	}
}

// One row larger than the whole buffer passes.
func TestBufferLargeFrame(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(0)
	for i := range 3 {
		ref := addFrame(t, s, r, 3<<20, byte(i), fmt.Sprint(i), fmt.Sprint(i)+"x")
		if got, err := s.ReadFrame(ref.Addr, nil); err != nil || !sameFrame(got, 3<<20, byte(i)) {
			t.Errorf("frame %d: %v", i, err)
		}
	}
}

// P4: readers of a run that is written, synced, and in the end dropped, always
// see whole frames (and the race detector nothing).
func TestReadWhileWriting(t *testing.T) {
	s := openFresh(t)
	r, _ := s.NewRun(3)
	var mu sync.Mutex
	var refs []FrameRef
	var wg sync.WaitGroup
	var reads atomic.Int64
	stop := make(chan struct{})
	for g := range 2 {
		if !r.Acquire() {
			t.Fatal("no reference")
		}
		wg.Go(func() {
			defer r.Release()
			rng := rand.New(rand.NewPCG(uint64(g), 9))
			var buf []byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				if len(refs) == 0 {
					mu.Unlock()
					continue
				}
				i := rng.IntN(len(refs))
				ref := refs[i]
				mu.Unlock()
				var err error
				if buf, err = r.ReadFrame(ref.Addr, buf[:0]); err != nil || !sameFrame(buf, int(ref.Len), byte(i)) {
					t.Errorf("frame %d: %v", i, err)
					return
				}
				reads.Add(1)
			}
		})
	}
	for i := range 400 {
		ref := addFrame(t, s, r, 100+i*37, byte(i), "a", "b")
		// the entry of the frame before was replaced
		if i > 0 {
			edit(t, s, func(e *EditTx) { e.Refs(r.ID(), -1) })
		}
		mu.Lock()
		refs = append(refs, ref)
		mu.Unlock()
		if i%100 == 50 {
			if err := r.Sync(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := s.DropRun(r.ID()); err != nil {
		t.Error(err)
	}
	enough := reads.Load() + 100 // of a run that is doomed
	eventually(t, "reads", func() bool { return reads.Load() >= enough || t.Failed() })
	close(stop)
	wg.Wait()
	if r.Acquire() {
		t.Error("a dropped run gave a reference")
	}
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Refs(r.ID(), -1)
	})
}

// FuzzParseRunHeader: what is accepted is what appendRunHeader writes, to the byte.
func FuzzParseRunHeader(f *testing.F) {
	h := appendRunHeader(nil, 7, 9)
	f.Add(h)
	f.Add(h[:runHeaderSize-1])
	f.Add(append(appendRunHeader(nil, 1<<40, 0), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = parseRunHeader(b)
		if len(b) < runHeaderSize {
			return
		}
		fixed := append([]byte(nil), b[:runHeaderSize]...)
		binary.LittleEndian.PutUint32(fixed[12:], runHeaderCRC(fixed))
		id, owner, why := parseRunHeader(fixed)
		if why != "" {
			return
		}
		if again := appendRunHeader(nil, id, owner); string(again) != string(fixed) {
			t.Errorf("encodes differently:\n%x\n%x", fixed, again)
		}
	})
}
