package backlog

import (
	"context"
	"encoding/binary"
	"strings"
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
	tails, err := temp.Seal()
	onSync.Store(nil)
	if err != nil || len(tails) != 2 || flushes != 1 {
		t.Errorf("seal: %v, %v, with %d flushes beside it", tails, err, flushes)
	}
	// Now it may go.
	if _, err := space.Flush(); err != nil {
		t.Fatal(err)
	}
	if st := space.Stats(); st.Runs != 1 {
		t.Errorf("%d runs are left, want 1", st.Runs)
	}
}
