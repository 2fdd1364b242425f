package seriallog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDir = "/db/log"

// open opens a log with small segments, replays all of it and begins writing.
func open(tb testing.TB, fs vfs.FS, inc uint32, edit ...func(*Options)) (*Log, []entry) {
	tb.Helper()
	l := openOnly(tb, fs, inc, edit...)
	got := replay(tb, l, 0)
	if err := l.StartWriting(); err != nil {
		tb.Fatal(err)
	}
	return l, got
}

func openOnly(tb testing.TB, fs vfs.FS, inc uint32, edit ...func(*Options)) *Log {
	tb.Helper()
	o := Options{FS: fs, Dir: testDir, SegmentSize: 64 << 10, BufferSize: 256 << 10, Incarnation: inc}
	for _, f := range edit {
		f(&o)
	}
	if err := fs.MkdirAll("/db", 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := segment.SyncDir(fs, "/"); err != nil {
		tb.Fatal(err)
	}
	l, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// entry is a replayed record, with its body copied.
type entry struct {
	Record
	body string
}

func replay(tb testing.TB, l *Log, from base.LSN) []entry {
	tb.Helper()
	got, err := tryReplay(l, from)
	if err != nil {
		tb.Fatal(err)
	}
	return got
}

func tryReplay(l *Log, from base.LSN) (got []entry, err error) {
	err = l.Replay(from, func(rec Record) error {
		e := entry{Record: rec, body: string(rec.Body)}
		e.Body = nil
		got = append(got, e)
		return nil
	})
	return got, err
}

func closeLog(tb testing.TB, l *Log) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

func closeFile(tb testing.TB, f io.Closer) {
	tb.Helper()
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// AppendGroup appends a group whose segment may be reused.
func (l *Log) AppendGroup(txn base.TxnID, body []byte) (start base.LSN, err error) {
	if start, err = l.AppendGroupPinned(txn, body); err == nil {
		l.Unpin(l.SegmentOf(start))
	}
	return start, err
}

// addGroup reserves and appends a group.
func addGroup(tb testing.TB, l *Log, txn base.TxnID, body []byte) base.LSN {
	tb.Helper()
	if err := l.Reserve(context.Background(), RecordOverhead()+len(body)); err != nil {
		tb.Fatal(err)
	}
	start, err := l.AppendGroup(txn, body)
	if err != nil {
		tb.Fatal(err)
	}
	return start
}

// addCommit reserves and appends a commit.
func addCommit(tb testing.TB, l *Log, c *Commit, body []byte) base.LSN {
	tb.Helper()
	if err := l.Reserve(context.Background(), CommitCost(c, len(body))); err != nil {
		tb.Fatal(err)
	}
	end, err := l.AppendCommit(c, body)
	if err != nil {
		tb.Fatal(err)
	}
	return end
}

func mustSync(tb testing.TB, l *Log, upto base.LSN) {
	tb.Helper()
	if err := l.Sync(upto); err != nil {
		tb.Fatal(err)
	}
}

// rows makes a body of n rows with values of size bytes.
func rows(seed, n, size int) []byte {
	var b []byte
	for i := range n {
		b = AppendRow(b, &Row{
			Table: 7, Epoch: base.Epoch(seed), Leave: base.Leave(i),
			Key:   fmt.Appendf(nil, "key-%06d-%03d", seed, i),
			Value: bytes.Repeat([]byte{byte('a' + (seed+i)%26)}, size),
		})
	}
	return b
}

// idle fails the test if credits were lost or made.
func idle(tb testing.TB, l *Log) {
	tb.Helper()
	mustSync(tb, l, l.End())
	if n := l.Stats().BufferedBytes; n != 0 {
		tb.Errorf("%d bytes of credits are out when nothing is buffered", n)
	}
	if n := l.reserved.Load(); n != 0 {
		tb.Errorf("%d bytes reserved when nobody holds a reservation", n)
	}
}
