package tablespace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

const (
	liveTxn      = base.TxnID(1<<base.TxnSeqBits | 1)
	committedTxn = base.TxnID(1<<base.TxnSeqBits | 2)
	abortedTxn   = base.TxnID(1<<base.TxnSeqBits | 3)
	unknownTxn   = base.TxnID(1<<base.TxnSeqBits | 4)
	committedAt  = base.CommitTS(50)
)

func testFate(id base.TxnID) (Fate, base.CommitTS) {
	switch id {
	case liveTxn:
		return FateLive, 0
	case committedTxn:
		return FateCommitted, committedAt
	case abortedTxn:
		return FateAborted, 0
	default:
		return FateUnknown, 0
	}
}

// checkAll returns what Check finds, one finding a line.
func checkAll(tb testing.TB, s *Space) []string {
	tb.Helper()
	var found []string
	err := s.Check(context.Background(), CheckOptions{
		Report: func(err error) { found = append(found, err.Error()) },
		Frames: true, Fate: testFate,
		Dropped: func(_ base.TableID, meta map[string][]byte) bool { return meta["drop"] != nil },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// realFrame adds a frame of three rows of the owner between the fences, and
// returns how the map must list it.
func realFrame(e *EditTx, r *Run, owner base.TxnID, low, high string) FrameRef {
	m := versionchain.FrameMeta{Table: 1, Low: []byte(low), High: []byte(high), Owner: owner}
	var rows []versionchain.Row
	for i := range 3 {
		row := versionchain.Row{Key: fmt.Appendf(nil, "%s%d", low, i), Value: []byte("value")}
		if owner == 0 {
			row.TS = base.CommitTS(10 + i)
		}
		rows = append(rows, row)
	}
	b := versionchain.AppendFrame(nil, &m, rows)
	f, _ := versionchain.ParseFrame(b)
	return FrameRef{
		Addr: e.AddFrame(r, b, 1, owner), Owner: owner, Newest: f.Newest(), Rows: 3,
		Filter: slices.Clone(f.Filter()), First: rows[0].Key, Last: rows[2].Key,
	}
}

// checkSubject is a space whose map lists a frame of each kind of owner.
type checkSubject struct {
	s    *Space
	runs map[base.TxnID]*Run
	ens  map[base.TxnID]Entry
}

func newCheckSubject(t *testing.T) *checkSubject {
	t.Helper()
	s := openFresh(t)
	c := &checkSubject{s: s, runs: map[base.TxnID]*Run{}, ens: map[base.TxnID]Entry{}}
	edit(t, s, func(e *EditTx) { e.PutTable(1, "one", nil) })
	for i, owner := range []base.TxnID{0, liveTxn, committedTxn, abortedTxn} {
		r, err := s.NewRun(owner)
		if err != nil {
			t.Fatal(err)
		}
		low, high := fmt.Sprintf("%c", 'b'+2*i), fmt.Sprintf("%c", 'c'+2*i)
		if err := s.ReserveBuffer(context.Background(), 1000); err != nil {
			t.Fatal(err)
		}
		edit(t, s, func(e *EditTx) {
			ref := realFrame(e, r, owner, low, high)
			s.UnreserveBuffer(1000 - int(ref.Len))
			en := Entry{Low: []byte(low), High: []byte(high), Frames: []FrameRef{ref}}
			e.Put(1, en)
			e.Refs(r.ID(), 1)
			en.Seq = e.Seq()
			c.ens[owner] = en
			if owner == committedTxn {
				e.PutOutcome(owner, committedAt, nil, []base.RunID{r.ID()})
			}
			e.NeedSync()
		})
		r.WriteIndex()
		r.Seal()
		if err := r.Sync(); err != nil {
			t.Fatal(err)
		}
		c.runs[owner] = r
	}
	edit(t, s, func(e *EditTx) { e.SetCheckpoint(1000, 60) })
	if found := checkAll(t, s); len(found) > 0 {
		t.Fatalf("a healthy space: %q", found)
	}
	return c
}

// put replaces a row of the map behind the space's back; nil removes it.
func (c *checkSubject) put(t *testing.T, key, value []byte) {
	t.Helper()
	var err error
	if value == nil {
		err = c.s.db.Delete(key, pebble.NoSync)
	} else {
		err = c.s.db.Set(key, value, pebble.NoSync)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// entry changes the entry of an owner.
func (c *checkSubject) entry(t *testing.T, owner base.TxnID, fn func(en *Entry, f *FrameRef)) {
	t.Helper()
	en := c.ens[owner]
	en.Frames = slices.Clone(en.Frames)
	fn(&en, &en.Frames[0])
	key := entryKey(nil, 1, en.Low)
	c.put(t, key, appendEntry(nil, key, &en))
}

// TestCheckFinds puts one fault at a time into the map, past its checksums.
func TestCheckFinds(t *testing.T) {
	ref := func(owner base.TxnID, fn func(f *FrameRef)) func(*testing.T, *checkSubject) {
		return func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.entry(t, owner, func(_ *Entry, f *FrameRef) { fn(f) })
		}
	}
	cases := []struct {
		name string
		do   func(t *testing.T, c *checkSubject)
		want string
	}{
		{"another timestamp", ref(0, func(f *FrameRef) { f.Newest++ }), "another timestamp"},
		{"another leave number", ref(liveTxn, func(f *FrameRef) { f.Leave++ }), "another leave number"},
		{"another number of rows", ref(0, func(f *FrameRef) { f.Rows++ }), "another number of rows"},
		{"another filter", ref(0, func(f *FrameRef) { f.Filter = []byte("\x01\x00filter") }), "another filter"},
		{"other bounds", ref(0, func(f *FrameRef) { f.First = []byte("b1") }), "other bounds"},
		{"image", ref(0, func(f *FrameRef) { f.Image = true }), "mark of an image"},
		{"another owner", ref(0, func(f *FrameRef) { f.Owner = liveTxn }), "another owner"},
		{"another place", ref(0, func(f *FrameRef) { f.Off++ }), "offset 33"},
		{"outside of the run", ref(0, func(f *FrameRef) { f.Off = 1 << 30 }), "address outside of the run"},
		{"unknown owner", ref(0, func(f *FrameRef) { f.Owner = unknownTxn }), "L7: lists a frame of an unknown"},
		{"another commit timestamp", ref(committedTxn, func(f *FrameRef) { f.Newest = 51 }), "P1: timestamp 51"},
		{"unknown run", ref(0, func(f *FrameRef) { f.Run = 77 }), "there is no such file"},
		{"fences beyond the frame", func(t *testing.T, c *checkSubject) {
			t.Helper()
			en := c.ens[0]
			c.put(t, entryKey(nil, 1, en.Low), nil)
			en.Low, en.High = []byte("x"), []byte("y")
			key := entryKey(nil, 1, en.Low)
			c.put(t, key, appendEntry(nil, key, &en))
		}, "P4"},
		{"overlap", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.entry(t, 0, func(en *Entry, _ *FrameRef) { en.High = []byte("d1") })
		}, "P4: overlaps"},
		{"fences out of order", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.entry(t, 0, func(en *Entry, _ *FrameRef) { en.High = []byte("a") })
		}, "P4: fences"},
		{"from the future", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.entry(t, 0, func(en *Entry, _ *FrameRef) { en.Seq += 1000 })
		}, "L11: of edit"},
		{"listed twice", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.entry(t, 0, func(en *Entry, f *FrameRef) { en.Frames = append(en.Frames, *f) })
		}, "L10: lists the frame at 32"},
		{"not counted", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, key8(keyRun, uint64(c.runs[0].ID())), nil)
		}, "is listed 1 times and counts 0"},
		{"counted and not listed", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, entryKey(nil, 1, c.ens[0].Low), nil)
		}, "is not listed and counts 1"},
		{"no outcome row", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, key8(keyOutcome, uint64(committedTxn)), nil)
		}, "L7: lists a frame of t1.2, committed at 50, which has no outcome row"},
		{"no table", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, tableKey(1), nil)
		}, "entries of table 1, which does not exist"},
		{"two tables of one name", func(t *testing.T, c *checkSubject) {
			t.Helper()
			key := tableKey(2)
			c.put(t, key, appendTable(nil, key, &TableRow{ID: 2, Name: "one"}))
		}, "have the name"},
		{"unknown row", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, []byte("zzz"), []byte("?"))
		}, "unknown row"},
		{"row cut short", func(t *testing.T, c *checkSubject) {
			t.Helper()
			c.put(t, key8(keyOutcome, uint64(committedTxn)), []byte{1, 2})
		}, "row"},
		{"orphan", func(t *testing.T, c *checkSubject) {
			t.Helper()
			r := c.runs[0]
			c.put(t, entryKey(nil, 1, c.ens[0].Low), nil)
			c.put(t, key8(keyRun, uint64(r.ID())), nil)
			r.listed.Store(0)
			r.applied.Store(0)
		}, "L11: run file that nothing lists and nobody is going to remove"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := newCheckSubject(t)
			rows := c.dump(t)
			counts := map[*Run][2]int64{}
			for _, r := range c.runs {
				counts[r] = [2]int64{r.listed.Load(), r.applied.Load()}
			}
			tc.do(t, c)
			found := checkAll(t, c.s)
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, tc.want) }) {
				t.Errorf("nothing says %q; found %q", tc.want, found)
			}
			c.restore(t, rows)
			for r, n := range counts {
				r.listed.Store(n[0])
				r.applied.Store(n[1])
			}
			if found := checkAll(t, c.s); len(found) > 0 {
				t.Errorf("healthy again: %q", found)
			}
		})
	}
}

// All faults at once are told, and what is only odd is not: the garbage of an
// aborted owner, whose run may be gone.
func TestCheckFindsAll(t *testing.T) {
	c := newCheckSubject(t)
	rows := c.dump(t)
	if err := c.s.DropRun(c.runs[abortedTxn].ID()); err != nil {
		t.Fatal(err)
	}
	if found := checkAll(t, c.s); len(found) > 0 {
		t.Errorf("garbage without its run: %q", found)
	}
	c.entry(t, 0, func(_ *Entry, f *FrameRef) { f.Rows++ })
	c.entry(t, liveTxn, func(_ *Entry, f *FrameRef) { f.Leave++ })
	c.entry(t, committedTxn, func(en *Entry, _ *FrameRef) { en.High = []byte("a") })
	c.put(t, []byte("zzz"), []byte("?"))
	found := checkAll(t, c.s)
	for _, want := range []string{"another number of rows", "another leave number", "P4: fences", "unknown row"} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("nothing says %q; found %q", want, found)
		}
	}
	c.restore(t, rows)
}

func (c *checkSubject) dump(t *testing.T) map[string][]byte {
	t.Helper()
	if err := c.s.WaitApplied(c.s.LastSeq()); err != nil {
		t.Fatal(err)
	}
	rows := map[string][]byte{}
	it, err := c.s.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		rows[string(it.Key())] = slices.Clone(it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}

func (c *checkSubject) restore(t *testing.T, rows map[string][]byte) {
	t.Helper()
	for key := range c.dump(t) {
		if rows[key] == nil {
			c.put(t, []byte(key), nil)
		}
	}
	for key, value := range rows {
		c.put(t, []byte(key), value)
	}
}
