package seriallog

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/internal/base"
)

func TestRoundTrip(t *testing.T) {
	fs := vfs.NewMem()
	l, got := open(t, fs, 1)
	if len(got) != 0 {
		t.Fatalf("a new log replays %d records", len(got))
	}
	var want []entry
	for i := range 400 {
		txn := base.TxnID(i + 1)
		body := rows(i, 1+i%5, i%300)
		start := addGroup(t, l, txn, body)
		end := start + base.LSN(len(body))
		want = append(want, entry{Record{Start: start - 16, End: end, Type: TypeGroup, Txn: txn, BodyStart: start}, string(body)})
		c := &Commit{Txn: txn, TS: base.CommitTS(i + 1), FirstGroup: start - 16, NoSync: i%2 == 0}
		if i%3 == 0 {
			c.Runs = []RunTail{{Run: base.RunID(i), Tail: 77}, {Run: 1 << 40, Tail: 1 << 33}}
			c.Segments = []uint64{l.SegmentOf(start)}
			c.Dead = []base.EpochRange{{From: 1, To: 4}, {From: 9, To: 9}}
		}
		cend := addCommit(t, l, c, body[:0])
		want = append(want, entry{Record{Start: cend - base.LSN(recordHeaderSize+commitSize(c)), End: cend, Type: TypeCommit, Txn: txn, Commit: c, BodyStart: cend}, ""})
		if i%50 == 0 {
			d := &DDL{TS: base.CommitTS(i), Op: OpCreateTable, Table: 3, Name: "accounts"}
			if err := l.Reserve(t.Context(), DDLCost(d)); err != nil {
				t.Fatal(err)
			}
			dend, err := l.AppendDDL(d)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, entry{Record{Start: dend - base.LSN(recordHeaderSize+ddlSize(d)), End: dend, Type: TypeDDL, DDL: d, BodyStart: dend}, ""})
		}
		if i%7 == 0 {
			mustSync(t, l, l.End())
		}
	}
	idle(t, l)
	if st := l.Stats(); st.Segments < 3 {
		t.Errorf("the test does not switch segments: %d", st.Segments)
	}
	closeLog(t, l)
	l, got = open(t, fs, 2)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Fatalf("replay differs (-want +got):\n%s", diff)
	}
	// What comes after goes behind.
	before := l.End()
	if last := want[len(want)-1].End; before <= last {
		t.Errorf("the end %d of a reopened log is not above its last record %d", before, last)
	}
	addGroup(t, l, 9, rows(1, 1, 1))
	closeLog(t, l)
	l, got = open(t, fs, 3)
	if len(got) != len(want)+1 {
		t.Errorf("after another opening %d records, want %d", len(got), len(want)+1)
	}
	// From the middle, as recovery does.
	closeLog(t, l)
	l = openOnly(t, fs, 4)
	mid := len(want) / 2
	got = replay(t, l, want[mid-1].End)
	if diff := cmp.Diff(want[mid:], got[:len(got)-1], cmp.AllowUnexported(entry{})); diff != "" {
		t.Fatalf("replay from the middle differs (-want +got):\n%s", diff)
	}
	closeLog(t, l)
}

func TestOpenRefusesBadOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no fs":         {},
		"small segment": {FS: vfs.NewMem(), SegmentSize: 1},
		"huge segment":  {FS: vfs.NewMem(), SegmentSize: 1 << 40},
		"small buffer":  {FS: vfs.NewMem(), BufferSize: 10},
		"negative keep": {FS: vfs.NewMem(), KeepFree: -1},
	} {
		if l, err := Open(o); err == nil {
			t.Errorf("%s: accepted", name)
			closeLog(t, l)
		}
	}
}

func TestOpenWritesNothing(t *testing.T) {
	fs := vfs.NewMem()
	l := openOnly(t, fs, 1)
	if got := replay(t, l, 0); len(got) != 0 {
		t.Error("records in no log")
	}
	closeLog(t, l)
	if _, err := fs.Stat(testDir); err == nil {
		t.Error("Open made the directory")
	}
}

func TestSegmentSizeIsKept(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	addGroup(t, l, 1, rows(1, 1, 1))
	closeLog(t, l)
	l, got := open(t, fs, 2, func(o *Options) { o.SegmentSize = 1 << 20 })
	if l.SegmentSize() != 64<<10 || len(got) != 1 {
		t.Errorf("size %d, %d records", l.SegmentSize(), len(got))
	}
	closeLog(t, l)
}

func TestMisuse(t *testing.T) {
	fs := vfs.NewMem()
	l := openOnly(t, fs, 1)
	if _, err := l.AppendGroup(1, nil); !errors.Is(err, errNotWriting) {
		t.Errorf("append before StartWriting: %v", err)
	}
	if err := l.StartWriting(); err != nil {
		t.Fatal(err)
	}
	if err := l.Replay(0, nil); !errors.Is(err, errReplayLate) {
		t.Errorf("late replay: %v", err)
	}
	if _, err := l.AppendGroup(1, nil); !errors.Is(err, errNotReserved) {
		t.Errorf("append without reservation: %v", err)
	}
	if err := l.Sync(l.End() + 1); err == nil {
		t.Error("sync beyond the end succeeds")
	}
	bad := &Commit{Txn: 1, Dead: []base.EpochRange{{From: 2, To: 1}}}
	if _, err := l.AppendCommit(bad, nil); err == nil {
		t.Error("inverted dead interval accepted")
	}
	if _, err := l.AppendGroup(1, make([]byte, l.MaxBody()+1)); !errors.Is(err, errTooLarge) {
		t.Errorf("group beyond MaxBody: %v", err)
	}
	addGroup(t, l, 1, make([]byte, l.MaxBody()))
	addGroup(t, l, 1, make([]byte, l.MaxBody()))
	idle(t, l)
	closeLog(t, l)
	if _, err := l.AppendGroup(1, nil); !errors.Is(err, base.ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	if err := l.Reserve(t.Context(), 1); !errors.Is(err, base.ErrClosed) {
		t.Errorf("reserve after Close: %v", err)
	}
	if _, err := l.Read(l.Synced()-8, 8, nil); !errors.Is(err, base.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	l = openOnly(t, fs, 2)
	if err := l.StartWriting(); !errors.Is(err, errReplayFirst) {
		t.Errorf("writing before replay: %v", err)
	}
	closeLog(t, l)
	l = openOnly(t, fs, 1)
	replay(t, l, 0)
	if err := l.StartWriting(); err == nil {
		t.Error("a used incarnation is accepted")
	}
	closeLog(t, l)
}

// Close races with everything: whoever is under way ends, with success or with
// ErrClosed, and what Sync promised is there afterwards.
func TestCloseAgainstWork(t *testing.T) {
	for round := range 30 {
		fs := vfs.NewMem()
		l, _ := open(t, fs, 1)
		var promised atomic.Int64
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := 0; ; i++ {
					body := rows(i, 1, 1+g*4000)
					err := l.Reserve(context.Background(), RecordOverhead()+len(body))
					var start base.LSN
					if err == nil {
						start, err = l.AppendGroup(base.TxnID(g+1), body)
					}
					if err == nil && g%2 == 0 {
						if err = l.Sync(start + base.LSN(len(body))); err == nil {
							promised.Add(1)
						}
					}
					if err == nil && g == 1 {
						_, err = l.Read(start, len(body), nil)
						l.Checkpointed(0)
					}
					if err != nil {
						if !errors.Is(err, base.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		for promised.Load() < int64(round)/3 { // any moment will do
			runtime.Gosched()
		}
		closeLog(t, l)
		wg.Wait()
		l = openOnly(t, fs, 2)
		if got := replay(t, l, 0); int64(len(got)) < promised.Load() {
			t.Errorf("%d records, %d were promised", len(got), promised.Load())
		}
		closeLog(t, l)
	}
}
