package backlog

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// A commit failed with "run not found". Of its two runs the second had lost all
// list entries to a merge. Seal sealed both and then synced the first; meanwhile
// a checkpoint flushed the map and unlinked the second, which was sealed and not
// listed. Found by bench/crash.
func TestSealBesideFlush(t *testing.T) {
	var onSync atomic.Pointer[func(path string)]
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		fn := onSync.Load()
		if fn != nil && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			(*fn)(op.Path)
		}
		return nil
	}))
	space, err := tablespace.Open(tablespace.Options{FS: fs, Dir: "space", Incarnation: 1, RunSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := space.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := space.ReserveEdits(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	e := space.BeginEdit()
	e.EndRecovery() // before it no run goes
	e.End()
	temp := NewStore(space).Temp(versionchain.NewOutcome(7))
	add := func(low string, listed bool) base.RunID {
		r, err := temp.Run()
		if err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 100)
		binary.LittleEndian.PutUint32(frame, uint32(len(frame)))
		if err := space.ReserveBuffer(context.Background(), len(frame)); err != nil {
			t.Fatal(err)
		}
		if err := space.ReserveEdits(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		e := space.BeginEdit()
		a := e.AddFrame(r, frame, 1, 7)
		if listed {
			ref := tablespace.FrameRef{Addr: a, Owner: 7, Rows: 1}
			e.Put(1, tablespace.Entry{Low: []byte(low), High: []byte(low + "z"), Frames: []tablespace.FrameRef{ref}})
			e.Refs(r.ID(), 1)
		}
		e.End()
		return r.ID()
	}
	first, second := add("a", true), add("b", false)
	if first == second {
		t.Fatal("one run for both frames")
	}
	flushes := 0
	flush := func(path string) {
		if !strings.HasSuffix(path, ".run") || flushes > 0 {
			return
		}
		flushes++
		if _, err := space.Flush(); err != nil {
			t.Error(err)
		}
	}
	onSync.Store(&flush)
	tails, err := temp.Finish()
	onSync.Store(nil)
	if err != nil || len(tails) != 2 || flushes != 1 {
		t.Errorf("seal: %v, %v, with %d flushes beside it", tails, err, flushes)
	}
	runs := func(what string, want int) {
		t.Helper()
		if st := space.Stats(); st.Runs != want {
			t.Errorf("%s: %d runs are left, want %d", what, st.Runs, want)
		}
	}
	// Before the outcome row is in the queue a flush says nothing about it: the run
	// must stay, since a commit record may name it by now.
	if _, err := space.Flush(); err != nil {
		t.Fatal(err)
	}
	runs("between index and outcome row", 2)
	if err := space.ReserveEdits(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	e = space.BeginEdit()
	e.PutOutcome(7, 70, nil, []base.RunID{first, second})
	e.End()
	temp.Seal()
	runs("before the outcome row is durable", 2)
	// Now it may go.
	if _, err := space.Flush(); err != nil {
		t.Fatal(err)
	}
	runs("after that", 1)
}

func openSpace(t *testing.T, fs vfs.FS, incarnation uint32) *tablespace.Space {
	t.Helper()
	s, err := tablespace.Open(tablespace.Options{
		FS: fs, Dir: "space", Incarnation: incarnation, MemTableSize: 64 << 10, CacheSize: 256 << 10, BufferSize: 1 << 20, RunSize: 64 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReserveEdits(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	e := s.BeginEdit()
	e.EndRecovery()
	e.End()
	return s
}

// addFrame puts a frame of one row into the run and returns its address.
func addFrame(t *testing.T, s *tablespace.Space, run *tablespace.Run, owner base.TxnID, n, size int) tablespace.Addr {
	t.Helper()
	ctx := context.Background()
	row := versionchain.Row{Key: fmt.Appendf(nil, "k%05d", n), Value: make([]byte, size)}
	m := versionchain.FrameMeta{Table: 1, Low: row.Key, Owner: owner}
	if owner == 0 {
		row.TS, m.Newest = 1, 1
	}
	frame := versionchain.AppendFrame(nil, &m, []versionchain.Row{row})
	if err := s.ReserveBuffer(ctx, len(frame)); err != nil {
		t.Fatal(err)
	}
	if err := s.ReserveEdits(ctx, 1); err != nil {
		t.Fatal(err)
	}
	e := s.BeginEdit()
	a := e.AddFrame(run, frame, 1, owner)
	e.End()
	return a
}

// A temp table is the runs of one owner: made on demand, rolled over when full,
// indexed and durable after Seal (L1).
func TestTempTable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openSpace(t, fs, 1)
	st := NewStore(s)
	o := versionchain.NewOutcome(77)
	if st.Lookup(o.ID) != nil || st.Len() != 0 {
		t.Fatal("a temp table before the first frame")
	}
	temp := st.Temp(o)
	if st.Temp(o) != temp || st.Lookup(o.ID) != temp || st.Len() != 1 {
		t.Fatal("more than one temp table for a transaction")
	}
	if len(temp.Runs()) != 0 {
		t.Fatal("a run before the first frame")
	}
	var addrs []tablespace.Addr
	for i := range 300 {
		run, err := temp.Run()
		if err != nil {
			t.Fatal(err)
		}
		if run.Owner() != o.ID {
			t.Fatalf("the run belongs to %v", run.Owner())
		}
		addrs = append(addrs, addFrame(t, s, run, o.ID, i, 1000))
	}
	if n := len(temp.Runs()); n < 4 {
		t.Fatalf("%d runs of 64 KiB for 300 KiB", n)
	}
	tails, err := temp.Finish()
	if err != nil || len(tails) != len(temp.Runs()) {
		t.Fatalf("%d tails, %v", len(tails), err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// All frames are on stable storage and the index finds each once.
	s = openSpace(t, crashed, 2)
	found := map[tablespace.Addr]bool{}
	for _, rt := range tails {
		err := s.WalkIndex(rt.Run, rt.Tail, func(e tablespace.IndexEntry) (bool, error) {
			if e.Owner != o.ID || e.Table != 1 || found[e.Addr] {
				t.Errorf("index entry %+v", e)
			}
			found[e.Addr] = true
			_, err := s.ReadFrame(e.Addr, nil)
			return true, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range addrs {
		if !found[a] {
			t.Errorf("frame %+v is not in the index", a)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whoever needs memory backlogs for any transaction: several at a time use one
// temp table, and several tables.
func TestTempTablesSideBySide(t *testing.T) {
	s := openSpace(t, vfs.NewMem(), 1)
	st := NewStore(s)
	var wg sync.WaitGroup
	outs := []*versionchain.Outcome{versionchain.NewOutcome(1), versionchain.NewOutcome(2), versionchain.NewOutcome(3)}
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				o := outs[(g+i)%len(outs)]
				run, err := st.Temp(o).Run()
				if err != nil || run.Owner() != o.ID {
					t.Errorf("run of %v: %v", o.ID, err)
					return
				}
				addFrame(t, s, run, o.ID, i, 500)
				if g == 0 && i%20 == 0 {
					st.Temp(o).Tails() // a sweep may index at any time
				}
			}
		})
	}
	wg.Wait()
	frames := 0
	for _, o := range outs {
		for _, rt := range st.Lookup(o.ID).Tails() {
			err := s.WalkIndex(rt.Run, rt.Tail, func(tablespace.IndexEntry) (bool, error) { frames++; return true, nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		st.Forget(o.ID)
	}
	if frames != 400 || st.Len() != 0 {
		t.Errorf("%d frames in the indexes, %d temp tables", frames, st.Len())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Committed frames share a run until it is full.
func TestPermanent(t *testing.T) {
	s := openSpace(t, vfs.NewMem(), 1)
	st := NewStore(s)
	runs := map[base.RunID]bool{}
	for i := range 200 {
		run, err := st.Permanent()
		if err != nil {
			t.Fatal(err)
		}
		if run.Owner() != 0 {
			t.Fatalf("a shared run of %v", run.Owner())
		}
		runs[run.ID()] = true
		addFrame(t, s, run, 0, i, 1000)
		st.SealFull()
	}
	if len(runs) < 3 || len(runs) > 6 {
		t.Errorf("%d runs of 64 KiB for 200 KiB", len(runs))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
