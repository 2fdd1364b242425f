package recordcache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// newTestCache returns a cache with one table, in which nobody is at work.
func newTestCache(t *testing.T) (*Cache, *Table) {
	t.Helper()
	return newTestCacheOn(t, tablespace.Options{})
}

// newTestCacheOn is newTestCache on a space with these options, on a disk of its own.
func newTestCacheOn(t *testing.T, o tablespace.Options) (*Cache, *Table) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fs := vfs.NewMem()
	a, err := arena.New(1 << 20)
	must(err)
	log, err := seriallog.Open(seriallog.Options{FS: fs, Dir: "log", Incarnation: 1})
	must(err)
	must(log.StartWriting())
	o.FS, o.Dir, o.Incarnation = fs, "space", 1
	space, err := tablespace.Open(o)
	must(err)
	c, err := New(Options{
		Arena: a, Space: space, Log: log, Backlog: backlog.NewStore(space), Reg: &versionchain.Registry{}, Incarnation: 1,
		Horizon: func() versionchain.Horizon { return versionchain.Horizon{100} },
	})
	must(err)
	t.Cleanup(func() {
		c.Close()
		c.ReleaseMemory()
		if err := space.Close(); space.Err() == nil { // else a test has failed it
			must(err)
		}
		must(log.Close())
		must(a.Close())
	})
	return c, c.AddTable(1, "t")
}

// fillTest gives the table two generations of rows: one in a frame, and a newer
// version of some in memory. It returns the only leaf.
func fillTest(t *testing.T, c *Cache, tb *Table) (leaf *Leaf) {
	t.Helper()
	w := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	for ts := range base.CommitTS(2) {
		for i := range 20 {
			key := fmt.Appendf(nil, "k%02d", i*int(ts+1))
			if err := tb.Replay(&w, key, []byte("value"), base.KindValue, base.Order{TS: ts + 1}); err != nil {
				t.Fatal(err)
			}
		}
		if ts == 0 {
			if err := c.CheckpointLeaves(context.Background(), c.horizon, func() {}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Walk(func(l *Leaf) bool { leaf = l; return true })
	if leaf == nil || leaf.listLen() != 1 || leaf.page.Len() < 20 || !leaf.dirty {
		t.Fatalf("not the leaf that the test needs: %+v", leaf)
	}
	return leaf
}

func checkCache(t *testing.T, c *Cache) (found []string) {
	t.Helper()
	if err := c.Check(context.Background(), func(err error) { found = append(found, err.Error()) }); err != nil {
		t.Fatal(err)
	}
	return found
}

// What is wrong with a leaf is told, each fault for itself and all together.
func TestCheckFindsFaultsOfLeaves(t *testing.T) {
	c, tb := newTestCache(t)
	l := fillTest(t, c, tb)
	if found := checkCache(t, c); len(found) > 0 {
		t.Fatalf("a healthy leaf: %q", found)
	}
	healthy := *l.list
	cases := []struct {
		name     string
		do, undo func()
		want     string
	}{
		{"dirty mark", func() { l.dirty = false }, func() { l.dirty = true }, "L6: table 1"},
		{"charge", func() { l.charged += 8 }, func() { l.charged -= 8 }, "M1: table 1"},
		{"epoch", func() { l.list = &frameList{seq: 999, frames: healthy.frames} }, func() { l.list = &healthy }, "(P7)"},
		{"owner", func() {
			fl := newList(healthy.seq, slices.Clone(healthy.frames))
			fl.frames[0].out = versionchain.NewOutcome(9)
			l.list = fl
		}, func() { l.list = &healthy }, "L7: table 1"},
		{"copies", func() { l.mem = make([][]byte, 3) }, func() { l.mem = nil }, "P1: table 1"},
	}
	has := func(found []string, want string) bool {
		return slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) })
	}
	for _, tc := range cases {
		tc.do()
		if found := checkCache(t, c); !has(found, tc.want) {
			t.Errorf("%s: nothing says %q; found %q", tc.name, tc.want, found)
		}
		tc.undo()
		if found := checkCache(t, c); len(found) > 0 {
			t.Errorf("%s: healthy again: %q", tc.name, found)
		}
	}
	l.dirty = false
	l.charged += 8
	l.list = &frameList{seq: 999, frames: healthy.frames}
	found := checkCache(t, c)
	for _, want := range []string{"L6", "M1", "(P7)"} {
		if !has(found, want) {
			t.Errorf("all at once: nothing says %q; found %q", want, found)
		}
	}
	l.dirty, l.list = true, &healthy
	l.charged -= 8
}

// A leaf and its entry in the map must agree; a leaf that no entry has must lie
// in a hole.
func TestCheckComparesLeavesWithMap(t *testing.T) {
	c, tb := newTestCache(t)
	l := fillTest(t, c, tb)
	edit := func(fn func(e *tablespace.EditTx)) {
		t.Helper()
		if err := c.space.ReserveEdits(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		e := c.space.BeginEdit()
		fn(e)
		e.End()
	}
	entry := func(low, high string, frames []tablespace.FrameRef) func(e *tablespace.EditTx) {
		return func(e *tablespace.EditTx) {
			en := tablespace.Entry{Low: []byte(low), Frames: frames}
			if high != "" {
				en.High = []byte(high)
			}
			e.Put(1, en)
		}
	}
	want := func(why string) {
		t.Helper()
		found := checkCache(t, c)
		if len(found) != 1 || !strings.Contains(found[0], why) {
			t.Errorf("want one finding that says %q, found %q", why, found)
		}
	}
	refs := l.list.refs()
	edit(entry("", "k50", refs))
	want("fences")
	edit(entry("", "", nil))
	want("(P7)")
	edit(func(e *tablespace.EditTx) { e.Delete(1, []byte{}) })
	want("which has no entry there")
	l.mapped = false
	list, charged := l.list, l.charged
	l.list = nil
	l.charged = l.cost()
	if found := checkCache(t, c); len(found) > 0 {
		t.Errorf("a leaf in a hole: %q", found)
	}
	edit(entry("k20", "k30", nil))
	want("an entry within its fences")
	edit(func(e *tablespace.EditTx) { e.Delete(1, []byte("k20")) })
	edit(entry("", "", nil))
	want("which has an entry there")
	l.list, l.charged, l.mapped = list, charged, true
}
