package recordcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// What a step took it gives back when it fails in the middle, and what it has done
// until then nobody finds.

// A scan pins the log segments of chilled rows that it has met before it unlocks the
// leaf. When a later row of the leaf made it fail, they stayed pinned for ever, and
// the log grew (L5).
func TestFailedScanPinsNoLog(t *testing.T) {
	for name, reverse := range map[string]bool{"forward": false, "reverse": true} {
		t.Run(name, func(t *testing.T) {
			c, tb := newTestCache(t)
			o, lost := versionchain.NewOutcome(1<<base.TxnSeqBits|1), versionchain.NewOutcome(1<<base.TxnSeqBits|2)
			c.reg.Add(o)
			c.reg.Add(lost)
			w := &Writer{Reader: versionchain.Reader{Snapshot: 100, Self: o, Reg: c.reg}}
			for _, key := range []string{"a", "c"} {
				if _, err := tb.Write(w, ModePut, []byte(key), make([]byte, 500)); err != nil {
					t.Fatal(err)
				}
			}
			own := func(_ base.TxnID, _ base.LSN, seg uint64) { c.log.Unpin(seg) } // its transaction's is another matter
			leaf := tb.find([]byte("a"))
			if n, err := c.Chill(context.Background(), leaf, own); n <= 0 || err != nil {
				t.Fatal(n, err)
			}
			x := &Writer{Reader: versionchain.Reader{Snapshot: 100, Self: lost, Reg: c.reg}}
			if _, err := tb.Write(x, ModePut, []byte("b"), nil); err != nil {
				t.Fatal(err)
			}
			c.reg.Remove(lost.ID) // as damage of memory would

			var it Iter
			it.Reset(tb, &w.Reader, &Scratch{}, []byte{}, nil, reverse)
			for it.Next() {
				t.Errorf("row %q", it.Key())
			}
			if _, ok := errors.AsType[*base.CorruptionError](it.Err()); !ok {
				t.Errorf("error %v", it.Err())
			}
			it.Close()
			if n := c.log.Stats().PinnedSegments; n != 0 {
				t.Errorf("%d log segments are pinned", n)
			}
			c.reg.Add(lost)
		})
	}
}

// wantRows checks that the table has rows [0, n) of value want and no others, by point
// reads and by scan. It begins with the last one: the first would make a leaf present
// that hides what the map has behind it.
func wantRows(t *testing.T, c *Cache, tb *Table, n int, want []byte) {
	t.Helper()
	r := versionchain.Reader{Snapshot: 100, Reg: c.reg}
	for i := n - 1; i >= 0; i-- {
		got, _, err := tb.Get(&r, &Scratch{}, nil, fmt.Appendf(nil, "k%02d", i))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("row %d is %.20q, %v", i, got, err)
		}
	}
	var it Iter
	defer it.Close()
	it.Reset(tb, &r, &Scratch{}, []byte{}, nil, false)
	seen := 0
	for ; it.Next(); seen++ {
		if string(it.Key()) != fmt.Sprintf("k%02d", seen) || !bytes.Equal(it.Value(), want) {
			t.Errorf("row %d of the scan is %q = %.20q", seen, it.Key(), it.Value())
		}
	}
	if it.Err() != nil || seen != n {
		t.Errorf("%d rows, %v", seen, it.Err())
	}
}

// poisonWithin fails the space for whoever has reserved his room already, with an empty
// run to begin with: the next one, when it is full, cannot be had.
func poisonWithin(t *testing.T, c *Cache) (boom error) {
	t.Helper()
	c.backlog.Roll()
	if _, err := c.backlog.Permanent(); err != nil {
		t.Fatal(err)
	}
	boom = errors.New("boom")
	c.space.Fail(boom)
	return boom
}

// A merge cuts a leaf into many, and the store fails while it does: the next run
// cannot be had. The entries of the leaves before were in the map already, for
// readers, those behind were not; and when the leaf went back to the gap the rows
// between were gone, in a store of which committed rows must stay readable (L8).
func TestMergeThatCannotBePlaced(t *testing.T) {
	c, tb := newTestCacheOn(t, tablespace.Options{RunSize: 1 << 10})
	replayRows(t, c, tb, 60, 1)
	checkpointTest(t, c)
	evictTest(t, c)
	if err := tb.install([]byte("k00")); err != nil {
		t.Fatal(err)
	}
	l := tb.find([]byte("k00"))
	w := c.getWorker()
	m, err := c.readForCollect(w, l, []byte("k00"), map[base.RunID]bool{l.list.frames[0].Run: true})
	if err != nil || len(m.groups) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	g := &m.groups[0]
	g.rows = mergeRows(w, m, g, c.horizon(), mergeRules{complete: true})
	g.pieces = cut(g.rows, 60)
	if err := c.reserve(context.Background(), w, m.total+len(g.pieces)*(24<<10), 1); err != nil {
		t.Fatal(err)
	}
	boom := poisonWithin(t, c)

	l.mu.Lock()
	if err := l.replace(c, w, m); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	placed := c.space.Find(c.backlog.PermanentID()).Frames()
	if placed < 3 || placed >= uint64(len(g.pieces)) {
		t.Fatalf("%d of %d pieces have a place", placed, len(g.pieces))
	}
	if l.charged != l.cost() {
		t.Errorf("M1: %d bytes are charged, it costs %d", l.charged, l.cost())
	}
	l.mu.Unlock()
	c.unreserve(w)
	c.putWorker(w)
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
	c.Collapse(l)
	wantRows(t, c, tb, 60, []byte("v1"))
}

// The same for a leaf that is sealed and moves right: entries without its leaf's
// knowledge were in the map, and Verify told of damage.
func TestSealingThatCannotBePlaced(t *testing.T) {
	c, tb := newTestCacheOn(t, tablespace.Options{RunSize: 12 << 10})
	wr := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	value := bytes.Repeat([]byte("v"), 320)
	const rows = 85
	for i := range rows {
		if err := tb.Replay(&wr, fmt.Appendf(nil, "k%02d", i), value, base.KindValue, base.Order{TS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	l := tb.find([]byte("k00"))
	if c.Leaves() != 1 || l.page.Len() != rows {
		t.Fatalf("%d leaves, %d rows", c.Leaves(), l.page.Len())
	}
	w := c.getWorker()
	if err := c.reserve(context.Background(), w, maxPage+frameSlack, 1); err != nil {
		t.Fatal(err)
	}
	boom := poisonWithin(t, c)

	rq := Request{Action: BacklogAll, Horizon: c.horizon(), edge: []byte("k99")}
	var rep Report
	l.mu.Lock()
	if _, err := l.relieve(c, w, &rq, &rep); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if placed := c.space.Find(c.backlog.PermanentID()).Frames(); placed != 2 {
		t.Fatalf("%d pieces have a place", placed)
	}
	l.mu.Unlock()
	c.unreserve(w)
	c.putWorker(w)
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
	wantRows(t, c, tb, rows, value)
}

// Recovery lists a frame again in the range of an entry whose list is too long for a
// leaf. It made the list short with room for an edit in its hands, and reserved room
// for that: whoever waits for room has none (M7).
func TestReaddReservesNothingTwice(t *testing.T) {
	c, tb := newTestCache(t)
	c.OnStretches(func(base.TxnID) []base.Epoch { return nil })
	var owners []*versionchain.Outcome
	for i := range 500 {
		o := versionchain.NewOutcome(1<<base.TxnSeqBits | base.TxnID(i+1))
		c.reg.Add(o)
		owners = append(owners, o)
		w := &Writer{Reader: versionchain.Reader{Snapshot: 5, Self: o, Reg: c.reg}}
		if _, err := tb.Write(w, ModePut, fmt.Appendf(nil, "k%04d", i), []byte("v1")); err != nil {
			t.Fatal(err)
		}
	}
	evictTest(t, c)
	for _, o := range owners {
		o.SetCommitted(10)
	}
	en, found, _, _, err := c.space.Lookup(tb.ID, []byte("k"))
	if err != nil || !found {
		t.Fatal(found, err)
	}
	defer c.space.ReleaseEntry(&en)
	f := &en.Frames[7]
	b, err := c.space.ReadFrame(f.Addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	fr, err := versionchain.ParseFrame(b)
	if err != nil {
		t.Fatal(err)
	}
	for c.space.Stats().Queued > 0 { // until the edits so far are applied
		time.Sleep(time.Millisecond)
	}
	looks := 0
	c.horizon = func() versionchain.Horizon {
		if looks++; looks == 1 {
			if n := c.space.Stats().Queued; n != 0 {
				t.Errorf("%d edits are reserved by whoever is about to reserve", n)
			}
		}
		return versionchain.Horizon{100}
	}
	if err := tb.Readd(context.Background(), f.Addr, &fr, c.owner(f.Owner)); err != nil {
		t.Fatal(err)
	}
	if looks == 0 {
		t.Fatal("no list was too long")
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
	evictTest(t, c)
	r := versionchain.Reader{Snapshot: 100, Reg: c.reg}
	for i := range owners {
		got, _, err := tb.Get(&r, &Scratch{}, nil, fmt.Appendf(nil, "k%04d", i))
		if err != nil || string(got) != "v1" {
			t.Errorf("row %d is %q, %v", i, got, err)
		}
	}
}
