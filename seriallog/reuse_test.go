package seriallog

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// L5: below the checkpoint position segments are reused, one that is pinned is
// not and does not keep those behind it.
func TestReuse(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1, func(o *Options) { o.KeepFree = 3 })
	long := addGroup(t, l, 99, rows(99, 1, 100))
	pinned := l.SegmentOf(long)
	if !l.Pin(pinned) || l.Pin(pinned+1000) {
		t.Fatal("Pin does not know what the log holds")
	}
	for i := range 40 {
		for range 20 {
			addGroup(t, l, 1, rows(i, 1, 5<<10))
		}
		mustSync(t, l, l.End())
		l.Checkpointed(l.End())
		if n := l.SinceCheckpoint(); n != 0 {
			t.Fatalf("%d bytes since a checkpoint at the end", n)
		}
		if st := l.Stats(); st.Segments != 2 || st.PinnedSegments != 1 {
			t.Fatalf("%d segments, %d pinned", st.Segments, st.PinnedSegments)
		}
	}
	// 40 rounds filled many segments; the directory holds few files.
	for range 1000 {
		if l.supply.Free() <= 3 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	names, err := fs.List(testDir)
	if err != nil || len(names) > 8 {
		t.Errorf("%d files, %v", len(names), err)
	}
	body := rows(99, 1, 100)
	if got, err := l.Read(long, len(body), nil); err != nil || string(got) != string(body) {
		t.Errorf("thaw from the pinned segment: %v", err)
	}
	l.Unpin(pinned)
	if _, err := l.Read(long, len(body), nil); err == nil {
		t.Error("read of a segment that was given away")
	}
	l.Unpin(pinned) // harmless
	tail := addGroup(t, l, 1, rows(7, 1, 10))
	if l.SinceCheckpoint() == 0 {
		t.Error("nothing since the checkpoint after an append")
	}
	ckpt := l.ckpt
	closeLog(t, l)
	l = openOnly(t, fs, 2)
	if got := replay(t, l, ckpt); len(got) != 1 || got[0].BodyStart != tail {
		t.Errorf("%d records after the checkpoint", len(got))
	}
	closeLog(t, l)
}

func TestHoldReuse(t *testing.T) {
	l, _ := open(t, vfs.NewMem(), 1)
	l.HoldReuse()
	for i := range 60 {
		addGroup(t, l, 1, rows(i, 1, 5<<10))
	}
	mustSync(t, l, l.End())
	l.Checkpointed(l.End())
	files := l.Files()
	if len(files) < 4 || !slices.IsSorted(files) || files[0] != segment.Name(1) {
		t.Errorf("files %v while reuse is held", files)
	}
	l.ReleaseReuse()
	if files = l.Files(); len(files) != 1 {
		t.Errorf("files %v after", files)
	}
	closeLog(t, l)
}

func TestCheckpointBytesSurviveReopen(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	var ends []base.LSN
	for i := range 50 {
		ends = append(ends, addCommit(t, l, &Commit{Txn: 1, TS: base.CommitTS(i + 1)}, rows(i, 1, 4<<10)))
	}
	mustSync(t, l, l.End())
	l.Checkpointed(ends[20])
	want := l.SinceCheckpoint()
	closeLog(t, l)
	l = openOnly(t, fs, 2)
	replay(t, l, ends[20])
	if err := l.StartWriting(); err != nil {
		t.Fatal(err)
	}
	if got := l.SinceCheckpoint(); got < want || got > want+100 {
		t.Errorf("%d bytes since the checkpoint, %d before the reopen", got, want)
	}
	closeLog(t, l)
}

// A checkpoint position beyond what is synced gives nothing away early.
func TestCheckpointAheadOfSync(t *testing.T) {
	l, _ := open(t, vfs.NewMem(), 1)
	for i := range 40 {
		addGroup(t, l, 1, rows(i, 1, 5<<10))
	}
	l.Checkpointed(l.End())
	if st := l.Stats(); st.Segments < 4 {
		t.Errorf("%d segments left before the sync", st.Segments)
	}
	mustSync(t, l, l.End())
	l.Checkpointed(l.End() + 1)
	if st := l.Stats(); st.Segments != 1 {
		t.Errorf("%d segments left after it", st.Segments)
	}
	closeLog(t, l)
}

// A read in progress keeps its file, and the end of it gives the file away.
func TestReadKeepsItsSegment(t *testing.T) {
	var block atomic.Bool
	reading, release := make(chan struct{}), make(chan struct{})
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && block.Load() {
			close(reading)
			<-release
		}
		return nil
	}))
	l, _ := open(t, fs, 1)
	body := rows(1, 1, 100)
	start := addGroup(t, l, 1, body)
	for i := range 40 {
		addGroup(t, l, 1, rows(i, 1, 5<<10))
	}
	mustSync(t, l, l.End())
	block.Store(true)
	done := make(chan error)
	go func() {
		got, err := l.Read(start, len(body), nil)
		if err == nil && string(got) != string(body) {
			err = errors.New("other bytes")
		}
		done <- err
	}()
	<-reading
	block.Store(false)
	l.Checkpointed(l.End())
	if files := l.Files(); files[0] != segment.Name(l.SegmentOf(start)) {
		t.Error("the file was given away under a reader")
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if files := l.Files(); len(files) != 1 {
		t.Errorf("after the read the log has %v", files)
	}
	closeLog(t, l)
}
