package tablespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// crashLife writes to a space and remembers what each prefix of its edits means.
type crashLife struct {
	t      *testing.T
	s      *Space
	shared *Run
	owned  *Run
	rng    *rand.Rand
	// states[i] is the map after the i-th edit: low → frames of one entry.
	states  []map[string]crashEntry
	seqs    []base.EditSeq
	durable base.EditSeq // promised by Flush
	rolled  []*Run
}

type crashEntry struct {
	high   string
	frames []FrameRef
	fill   byte
}

func (l *crashLife) step() {
	t, s := l.t, l.s
	now := map[string]crashEntry{}
	if n := len(l.states); n > 0 {
		maps.Copy(now, l.states[n-1])
	}
	r, owner := l.shared, base.TxnID(0)
	if l.rng.IntN(3) == 0 {
		r, owner = l.owned, l.owned.Owner()
	}
	i := l.rng.IntN(40)
	low, high := fmt.Sprintf("k%02d", i), fmt.Sprintf("k%02d", i+1)
	fill := byte(l.rng.IntN(256))
	frame := testFrame(100+l.rng.IntN(3000), fill)
	if err := s.ReserveBuffer(context.Background(), len(frame)); err != nil {
		t.Fatal(err)
	}
	old := now[low]
	seq := edit(t, s, func(e *EditTx) {
		for _, f := range old.frames {
			e.Refs(f.Run, -1)
		}
		if l.rng.IntN(8) == 0 {
			e.Delete(1, []byte(low))
			delete(now, low)
			s.UnreserveBuffer(len(frame))
			return
		}
		ref := FrameRef{Addr: e.AddFrame(r, frame, 1, owner), Owner: owner, Rows: 1}
		e.Refs(r.ID(), 1)
		en := crashEntry{high: high, frames: []FrameRef{ref}, fill: fill}
		e.Put(1, Entry{Low: []byte(low), High: []byte(high), Frames: en.frames})
		if owner == 0 {
			e.NeedSync()
		}
		now[low] = en
	})
	l.states = append(l.states, now)
	l.seqs = append(l.seqs, seq)
	if l.shared.Size() > 60<<10 { // roll over
		l.shared.Seal()
		l.rolled = append(l.rolled, l.shared)
		l.shared, _ = s.NewRun(0)
	}
	if l.rng.IntN(40) == 0 {
		seq, err := s.Flush()
		if err != nil {
			t.Fatal(err)
		}
		l.durable = seq
	}
}

// check compares what a crash left with the states.
func (l *crashLife) check(fs *vfs.MemFS) {
	t := l.t
	s, err := Open(smallOptions(fs, 2))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	last := s.Loaded().LastSeq
	if last < l.durable {
		t.Fatalf("edit %d survived, %d was promised", last, l.durable)
	}
	state := map[string]crashEntry{}
	for i, seq := range l.seqs {
		if seq <= last {
			state = l.states[i]
		}
	}
	w := s.NewWalk(1)
	defer w.Close()
	entries := 0
	for key := []byte("a"); key != nil; {
		en, ok, _, hi, err := w.Lookup(key)
		if err != nil {
			t.Fatal(err)
		}
		if key = hi; !ok {
			continue
		}
		key = en.High
		entries++
		want, exists := state[string(en.Low)]
		if !exists || want.high != string(en.High) || want.frames[0].Addr != en.Frames[0].Addr {
			t.Fatalf("entry %s of edit %d is not of the prefix up to %d", en.Low, en.Seq, last)
		}
		f := en.Frames[0]
		if f.Owner == 0 { // L10: what a surviving edit lists is there
			got, err := s.ReadFrame(f.Addr, nil)
			if err != nil || !sameFrame(got, int(f.Len), want.fill) {
				t.Fatalf("frame of %s: %v", en.Low, err)
			}
		}
		s.ReleaseEntry(&en)
	}
	if entries != len(state) {
		t.Fatalf("%d entries, want %d", entries, len(state))
	}
	listed := map[base.RunID]int64{}
	for _, e := range state {
		listed[e.frames[0].Run]++
	}
	for _, r := range s.Loaded().Runs {
		if r.Count != listed[r.Run] {
			t.Fatalf("run %x counts %d, %d entries list it", uint64(r.Run), r.Count, listed[r.Run])
		}
	}
	endRecovery(t, s)
	if _, err := s.CollectFiles(nil); err != nil {
		t.Fatal(err)
	}
	for run := range listed {
		if r := s.Find(run); r == nil && run != l.owned.ID() {
			t.Fatalf("listed run %x was collected", uint64(run))
		}
	}
	if st := s.Stats(); st.Runs > len(listed) {
		t.Fatalf("%d run files for %d listed runs", st.Runs, len(listed))
	}
}

// TestCrash crashes at random moments with 0, 50 and 100 % of what was not
// synced: what is left is a prefix of the edits (L10), at least as long as Flush
// promised, whose frames and counts are there.
func TestCrash(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			l := &crashLife{t: t, s: mustOpen(t, smallOptions(fs, 1)), rng: rand.New(rand.NewPCG(seed, 42))}
			endRecovery(t, l.s)
			l.shared, _ = l.s.NewRun(0)
			l.owned, _ = l.s.NewRun(77)
			for i := range 400 {
				l.step()
				if i%67 == 66 {
					for _, percent := range []int{0, 50, 100} {
						rng := rand.New(rand.NewPCG(seed, uint64(i)))
						cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}
						l.check(fs.CrashClone(cfg))
					}
				}
			}
			if err := l.s.Close(); err != nil {
				t.Fatal(err)
			}
			l.durable = l.seqs[len(l.seqs)-1]
			l.check(fs.CrashClone(vfs.CrashCloneCfg{}))
		})
	}
}

// L10: recovery, short of memory, merged frames away, so that nothing listed
// their run any more, and CollectFiles removed the file at once. Killed before
// the map was flushed, the store came back with a map that listed the run, and
// could not be opened: "address outside of the run". The same happened to a run
// that only recovery had listed, from a commit record. Found by bench/crash.
func TestCollectFilesWaitsForFlush(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	endRecovery(t, s)
	old, _ := s.NewRun(0)
	addFrame(t, s, old, 300, 1, "a", "b")
	readded, _ := s.NewRun(7)
	ref := addFrame(t, s, readded, 300, 2, "b", "c")
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("b"))
		e.Refs(readded.ID(), -1)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 2))
	edit(t, s, func(e *EditTx) {
		e.Put(1, Entry{Low: []byte("b"), High: []byte("c"), Frames: []FrameRef{ref}})
		e.Refs(readded.ID(), 1)
	})
	seq := edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Refs(old.ID(), -1)
		e.Delete(1, []byte("b"))
		e.Refs(readded.ID(), -1)
		e.EndRecovery()
	})
	if err := s.WaitApplied(seq); err != nil {
		t.Fatal(err)
	}
	if n, err := s.CollectFiles(nil); n != 0 || err != nil {
		t.Errorf("%d files collected, %v; the map on disk lists them", n, err)
	}
	killed := mustOpen(t, smallOptions(fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}), 3))
	if got, err := killed.ReadFrame(Addr{Run: old.ID(), Off: runHeaderSize, Len: 300}, nil); err != nil || !sameFrame(got, 300, 1) {
		t.Errorf("a frame that the map lists: %v", err)
	}
	endRecovery(t, killed)
	mustClose(t, killed)
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Runs != 0 {
		t.Errorf("%d runs are left after the flush", st.Runs)
	}
	mustClose(t, s)
}

// L11: a recovery lists one of two frames of a run again, a merge replaces it, and
// recovery fails at the second. Close flushed the map and took the run for unused:
// the next recovery found no file, thought that all of it was replaced, and lost
// what was in the second frame.
func TestFailedRecoveryKeepsRuns(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	endRecovery(t, s)
	run, _ := s.NewRun(7)
	ref := addFrame(t, s, run, 300, 1, "a", "b")
	addFrame(t, s, run, 300, 2, "b", "c")
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Delete(1, []byte("b"))
		e.Refs(run.ID(), -2)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 2))
	edit(t, s, func(e *EditTx) {
		e.Put(1, Entry{Low: []byte("a"), High: []byte("b"), Frames: []FrameRef{ref}})
		e.Refs(run.ID(), 1)
	})
	edit(t, s, func(e *EditTx) {
		e.Delete(1, []byte("a"))
		e.Refs(run.ID(), -1)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 3))
	if s.Find(run.ID()) == nil {
		t.Error("the run is gone, though recovery was not done with it")
	}
	endRecovery(t, s)
	mustClose(t, s)
}

// The prefix that Loaded reports stays that of the last life until recovery
// says that it is done: re-added frames must not count as survived before.
func TestEndRecovery(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	edit(t, s, func(e *EditTx) { e.SetMeta("a", []byte("1")) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 2))
	if l := s.Loaded(); l.LastSeq != 0 || string(l.Meta["a"]) != "1" {
		t.Errorf("before the first EndRecovery: %+v", l)
	}
	edit(t, s, func(e *EditTx) { e.EndRecovery(); e.SetMeta("a", nil) })
	last := edit(t, s, func(e *EditTx) { e.SetCheckpoint(5, 6) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for inc := range uint32(2) {
		s = mustOpen(t, smallOptions(fs, 3+inc))
		l := s.Loaded()
		if l.LastSeq != last || l.Checkpoint != 5 || l.CheckpointTS != 6 || len(l.Meta) != 0 {
			t.Errorf("after it: %+v", l)
		}
		edit(t, s, func(e *EditTx) { e.SetMeta("b", nil) }) // recovery without an end
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Catalog and outcomes come back as they were set last.
func TestLoaded(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	edit(t, s, func(e *EditTx) {
		e.EndRecovery()
		e.PutTable(1, "one", []byte("x"))
		e.PutTable(2, "two", nil)
		e.PutOutcome(5, 50, []base.EpochRange{{From: 1, To: 3}}, []base.RunID{1 << 32})
		e.PutOutcome(6, 0, nil, nil)
	})
	edit(t, s, func(e *EditTx) {
		e.DeleteTable(1)
		e.DeleteOutcome(6)
		e.PutOutcome(7, 70, nil, nil)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 2))
	defer mustClose(t, s)
	got := fmt.Sprintf("%v %v", s.Loaded().Tables, s.Loaded().Outcomes)
	if want := "[{2 two []}] [{t0.5 50 [[1,3]] [4294967296]} {t0.7 70 [] []}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A frame that the crash cut off, whose owner never committed, is an error and
// nothing worse; so is the run that never reached the disk.
func TestCrashLosesOwnedFrames(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	defer mustClose(t, s)
	endRecovery(t, s)
	lost, _ := s.NewRun(8)
	cut, _ := s.NewRun(9)
	addFrame(t, s, lost, 200, 1, "a", "b")
	addFrame(t, s, cut, 200, 2, "b", "c")
	if err := cut.Sync(); err != nil {
		t.Fatal(err)
	}
	addFrame(t, s, cut, 200, 3, "c", "d")
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s2 := mustOpen(t, smallOptions(fs.CrashClone(vfs.CrashCloneCfg{}), 2))
	defer mustClose(t, s2)
	endRecovery(t, s2)
	for key, want := range map[string]string{"a": "gone", "b": "read", "c": "corrupt"} {
		en, ok, _, _, err := s2.Lookup(1, []byte(key))
		if !ok || err != nil {
			t.Fatal(key, ok, err)
		}
		got := "gone"
		if r := en.Held(0); r != nil {
			_, err := r.ReadFrame(en.Frames[0].Addr, nil)
			var ce *base.CorruptionError
			switch {
			case err == nil:
				got = "read"
			case errors.As(err, &ce):
				got = "corrupt"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
		s2.ReleaseEntry(&en)
	}
	// The sweep: entries go, then the runs are forgotten.
	edit(t, s2, func(e *EditTx) {
		for _, low := range []string{"a", "b", "c"} {
			e.Delete(1, []byte(low))
		}
		e.Refs(lost.ID(), -1)
		e.Refs(cut.ID(), -2)
	})
	if _, err := s2.Flush(); err != nil {
		t.Fatal(err)
	}
	if s2.known(lost.ID()) != nil || s2.known(cut.ID()) != nil {
		t.Error("a run without file and entries is remembered")
	}
}

// L1: what a dead process had written but not synced is synced when recovery
// asks for it, though it reads well without.
func TestSyncRunOfEarlierLife(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, smallOptions(fs, 1))
	r, _ := s.NewRun(5)
	ref := addFrame(t, s, r, 300, 1, "a", "b")
	r.ioMu.Lock()
	if err := r.drain(true); err != nil {
		t.Fatal(err)
	}
	r.ioMu.Unlock()
	killed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	_ = s.Close()
	for _, sync := range []bool{false, true} {
		s := mustOpen(t, smallOptions(killed, 2))
		if b, err := s.ReadFrame(ref.Addr, nil); err != nil || !sameFrame(b, 300, 1) {
			t.Fatal(err)
		}
		if sync {
			if err := s.Find(r.ID()).Sync(); err != nil {
				t.Fatal(err)
			}
		}
		after := killed.CrashClone(vfs.CrashCloneCfg{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, smallOptions(after, 3))
		if b, err := s.ReadFrame(ref.Addr, nil); sync && (err != nil || !sameFrame(b, 300, 1)) {
			t.Errorf("synced frame after the power failed: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
