package seriallog

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/segment"
)

// A segment from before the checkpoint position had been given away, renamed and
// written anew when the crash came. The crash took the new name and the new header
// back, and left a block of the new bytes. Recovery keeps the segment until the next
// checkpoint, as it cannot know whether its groups are needed; Verify, run between
// the two, called it corruption. Found by TestModel. What somebody pins is needed,
// and is checked.
func TestCheckLeavesOutWhatNobodyNeeds(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	first := l.SegmentOf(l.End())
	for i := 0; l.SegmentOf(l.End()) < first+2; i++ {
		addGroup(t, l, 1, rows(i, 1, 8<<10))
	}
	mustSync(t, l, l.End())
	ckpt := l.End()
	crashed := cloneFS(t, fs)
	closeLog(t, l)
	damage(t, crashed, first, segment.HeaderSize, 4)
	l = openOnly(t, crashed, 2)
	replay(t, l, ckpt)
	if err := l.StartWriting(); err != nil {
		t.Fatal(err)
	}
	defer closeLog(t, l)
	l.HoldReuse() // as between recovery and its first checkpoint
	defer l.ReleaseReuse()
	findings := func() (n int) {
		t.Helper()
		if err := l.Check(context.Background(), func(error) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := findings(); n != 0 {
		t.Errorf("%d findings in a segment that nobody needs", n)
	}
	if !l.Pin(first) {
		t.Fatal("the segment is gone")
	}
	if n := findings(); n == 0 {
		t.Error("the damage of a pinned segment was not found")
	}
	l.Unpin(first)
}
