package seriallog

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// A copy ends at the position it was asked for, though more is in the file by
// then: bytes that are being written must not get into it (L4).
func TestCopyEndsWhereAsked(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fs := vfs.NewMem()
	l, err := Open(Options{FS: fs, Dir: "log", Incarnation: 1})
	must(err)
	must(l.StartWriting())
	var upto base.LSN
	for ts := base.CommitTS(1); ts <= 20; ts++ {
		c := &Commit{Txn: base.TxnID(ts), TS: ts}
		must(l.Reserve(context.Background(), CommitCost(c, 0)))
		end, err := l.AppendCommit(c, nil)
		must(err)
		must(l.Sync(end))
		if ts == 7 {
			upto = l.Synced()
		}
	}
	must(fs.MkdirAll("copy", 0o755))
	l.HoldReuse()
	must(l.CopyTo(context.Background(), fs, "copy", upto))
	l.ReleaseReuse()
	must(l.Check(context.Background(), func(err error) { t.Error(err) }))
	must(l.Close())
	c, err := Open(Options{FS: fs, Dir: "copy", Incarnation: 2})
	must(err)
	n := 0
	must(c.Replay(0, func(Record) error { n++; return nil }))
	must(c.Close())
	if n != 7 {
		t.Errorf("the copy has %d commits, want 7", n)
	}
}
