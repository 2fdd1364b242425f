package recordcache

import (
	"context"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// replayRows gives the rows [0, n) of the table a version of timestamp ts.
func replayRows(t *testing.T, c *Cache, tb *Table, n int, ts base.CommitTS) {
	t.Helper()
	w := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	for i := range n {
		if err := tb.Replay(&w, fmt.Appendf(nil, "k%02d", i), fmt.Appendf(nil, "v%d", ts), base.KindValue, base.Order{TS: ts}); err != nil {
			t.Fatal(err)
		}
	}
}

func checkpointTest(t *testing.T, c *Cache) {
	t.Helper()
	h := func() versionchain.Horizon { return versionchain.Horizon{100} }
	if err := c.CheckpointLeaves(context.Background(), h, func() {}); err != nil {
		t.Fatal(err)
	}
}

// wantWhole checks that the only leaf lists one frame and has n rows in memory, of
// which the first k have the value of ts.
func wantWhole(t *testing.T, c *Cache, tb *Table, n, k int, ts base.CommitTS) {
	t.Helper()
	leaf := tb.find([]byte("k00"))
	if leaf == nil || c.Leaves() != 1 || leaf.partial || leaf.listLen() != 1 || leaf.page.Len() != n || c.Stats.WholeLeaves.Load() != 1 {
		t.Fatalf("%d leaves, %d written whole: %+v", c.Leaves(), c.Stats.WholeLeaves.Load(), leaf)
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Fatal(found)
	}
	evictTest(t, c)
	r := versionchain.Reader{Snapshot: 100, Reg: c.reg}
	for i := range n {
		want := "v1"
		if i < k {
			want = fmt.Sprintf("v%d", ts)
		}
		got, _, err := tb.Get(&r, &Scratch{}, nil, fmt.Appendf(nil, "k%02d", i))
		if err != nil || string(got) != want {
			t.Fatalf("row %d is %q, %v, want %q", i, got, err, want)
		}
	}
}

// A checkpoint that writes a leaf whole lists one frame instead of others, and needs
// what it costs more than these. With memory full it asked for the price of the frame
// as if it came on top, did not get it, and moved the leaf out of memory instead.
func TestWholeLeafNeedsNoMemory(t *testing.T) {
	c, tb := newTestCache(t)
	replayRows(t, c, tb, 20, 1)
	checkpointTest(t, c)
	replayRows(t, c, tb, 20, 2)
	tidy := Request{Action: Tidy, Horizon: versionchain.Horizon{100}}
	if _, err := c.Relieve(context.Background(), tb.find([]byte("k00")), &tidy); err != nil { // the page cannot pay
		t.Fatal(err)
	}
	free := c.arena.Cap() - c.arena.Reserved()
	if !c.arena.Charge(free) {
		t.Fatal("what is free cannot be charged")
	}
	checkpointTest(t, c)
	c.arena.Uncharge(free)
	wantWhole(t, c, tb, 20, 20, 2)
}

// A merge, and a space collection, read frames with no lock held; meanwhile a
// checkpoint lists one frame instead of all of them. What was read is listed no more,
// so nothing is replaced, and no reference is counted down twice (P8, L10).
func TestWholeLeafUnderMerge(t *testing.T) {
	for name, work := range map[string]func(c *Cache, tb *Table, victims map[base.RunID]bool) error{
		"merge": func(c *Cache, tb *Table, _ map[base.RunID]bool) error {
			return c.Merge(context.Background(), tb, []byte("k00"), nil)
		},
		"collection": func(c *Cache, tb *Table, victims map[base.RunID]bool) error {
			return c.Collect(context.Background(), tb, Span{Low: []byte{}}, victims)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, tb := newTestCache(t)
			replayRows(t, c, tb, 20, 1)
			checkpointTest(t, c)
			c.backlog.Roll()
			replayRows(t, c, tb, 4, 2)
			checkpointTest(t, c)
			old := tb.find([]byte("k00")).list
			if len(old.frames) != 2 {
				t.Fatalf("%d frames", len(old.frames))
			}
			victims := map[base.RunID]bool{old.frames[0].Run: true, old.frames[1].Run: true}
			c.backlog.Roll()
			calls := 0
			c.horizon = func() versionchain.Horizon {
				if calls++; calls == 2 { // the frames are read
					replayRows(t, c, tb, 10, 3)
					checkpointTest(t, c)
				}
				return versionchain.Horizon{100}
			}
			if err := work(c, tb, victims); err != nil {
				t.Fatal(err)
			}
			if calls < 2 {
				t.Fatal("nothing was read")
			}
			for run := range victims {
				if n := c.space.Find(run).Listed(); n != 0 {
					t.Errorf("run %x is listed %d times", uint64(run), n)
				}
			}
			if f := tb.find([]byte("k00")).list.frames[0]; c.space.Find(f.Run).Listed() != 1 {
				t.Errorf("the run of the leaf is listed %d times", c.space.Find(f.Run).Listed())
			}
			wantWhole(t, c, tb, 20, 10, 3)
		})
	}
}
