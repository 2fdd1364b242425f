package recordcache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// evictTest leaves nothing of the table in memory.
func evictTest(t *testing.T, c *Cache) {
	t.Helper()
	c.Walk(func(l *Leaf) bool {
		if _, err := c.Relieve(context.Background(), l, &Request{Action: BacklogAll, Horizon: c.horizon()}); err != nil {
			t.Fatal(err)
		}
		c.Collapse(l)
		return true
	})
	if c.Leaves() != 0 {
		t.Fatalf("%d leaves are left", c.Leaves())
	}
}

// A merge, a sweep or a space collection that was asked for before a table was
// dropped comes while its data is removed. It made a leaf present again, which
// nobody removed any more, and rewrote the leaf's entry: bytes charged and a run
// listed for ever (M1, L10).
func TestNoLeafOfDroppedTable(t *testing.T) {
	c, tb := newTestCache(t)
	fillTest(t, c, tb)
	const edits = 4096
	if err := c.space.ReserveEdits(context.Background(), edits-1); err != nil { // dropping must wait
		t.Fatal(err)
	}
	w := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	if err := tb.Replay(&w, []byte("k00"), []byte("v"), base.KindValue, base.Order{TS: 9}); err != nil {
		t.Fatal(err)
	}
	if err := c.space.ReserveEdits(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	c.ForgetTable(tb.ID)
	done := make(chan error)
	go func() { done <- c.DropData(context.Background(), tb) }()
	for c.Leaves() > 0 { // then it is at the entries, and waits for room
		time.Sleep(time.Millisecond)
	}
	if err := tb.installShort([]byte("k00")); err != nil && !errors.Is(err, base.ErrTableNotFound) {
		t.Error(err)
	}
	c.space.UnreserveEdits(edits)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := c.Collect(context.Background(), tb, Span{Low: []byte{}}, map[base.RunID]bool{}); err != nil {
		t.Error(err)
	}
	if err := c.DropFrames(context.Background(), tb, []byte{}, []byte("z")); err != nil {
		t.Error(err)
	}
	if _, err := c.DropReplaced(context.Background(), tb, &Suspect{low: []byte("k00")}); err != nil {
		t.Error(err) // it ended a pass of the collector
	}
	if err := c.Merge(context.Background(), tb, []byte("k00"), nil); err != nil && !errors.Is(err, base.ErrTableNotFound) {
		t.Error(err)
	}
	if n, charged := c.Leaves(), c.arena.Reserved(); n != 0 || charged != 0 {
		t.Errorf("%d leaves, %d bytes of a table that is gone", n, charged)
	}
}

// Who writes a large value reserves buffers. In the range of an entry that is being
// made shorter it waited with them for whoever did that, who may wait for buffers
// (M7).
func TestNothingReservedBeforeClaim(t *testing.T) {
	c, tb := newTestCache(t)
	fillTest(t, c, tb)
	evictTest(t, c)
	en, found, _, _, err := c.space.Lookup(tb.ID, []byte("k00"))
	if err != nil || !found {
		t.Fatal(found, err)
	}
	c.space.ReleaseEntry(&en)
	c.shortMu.Lock()
	if !tb.lay(&claim{en.Low, en.High}, []byte("k00")) {
		t.Fatal("the leaf is present")
	}
	looked := make(chan struct{}, 16)
	c.AfterLookup = func() { looked <- struct{}{} }
	self := versionchain.NewOutcome(7)
	c.reg.Add(self)
	w := Writer{Reader: versionchain.Reader{Reg: c.reg, Self: self, Snapshot: 50}, Large: true}
	done := make(chan error)
	go func() {
		_, err := tb.WriteLarge(context.Background(), &w, ModePut, []byte("k00"), make([]byte, 64<<10))
		done <- err
	}()
	<-looked // it has reserved
	limit, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const all = 8 << 20
	err = c.space.ReserveBuffer(limit, all)
	if err == nil {
		c.space.UnreserveBuffer(all)
	}
	tb.lift()
	c.shortMu.Unlock()
	if err != nil {
		t.Errorf("buffers for who makes the entry shorter: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// What garbage a page holds is garbage whatever becomes of an attempt to seal it:
// its transaction may be forgotten already (L7).
func TestUnpaidSealingLeavesGarbageAlone(t *testing.T) {
	c, tb := newTestCache(t)
	leaf := fillTest(t, c, tb)
	dead := versionchain.NewOutcome(7)
	c.reg.Add(dead)
	w := Writer{Reader: versionchain.Reader{Reg: c.reg, Self: dead, Snapshot: 50}, Large: true}
	for i := range 3 {
		if _, err := tb.Write(&w, ModePut, fmt.Appendf(nil, "dead%d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	busy := versionchain.NewOutcome(9) // its commit is under way: the page cannot go whole
	c.reg.Add(busy)
	w = Writer{Reader: versionchain.Reader{Reg: c.reg, Self: busy, Snapshot: 50}}
	if _, err := tb.Write(&w, ModePut, []byte("busy"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	busy.Prepare(false)
	for i := range base.TxnID(40) { // more frames than the page can pay for
		o := versionchain.NewOutcome(100 + i)
		c.reg.Add(o)
		w = Writer{Reader: versionchain.Reader{Reg: c.reg, Self: o, Snapshot: 50}}
		if _, err := tb.Write(&w, ModePut, fmt.Appendf(nil, "o%d", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	dead.Prepare(true)
	leaf.mu.Lock()
	err := leaf.settle(c, c.horizon()) // as before a page grows
	leaf.mu.Unlock()
	if err != nil || leaf.live != 41 {
		t.Fatal(leaf.live, err)
	}
	c.reg.Remove(dead.ID)
	free := c.arena.Cap() - c.arena.Reserved()
	if !c.arena.Charge(free) {
		t.Fatal("what is free cannot be charged")
	}
	rep, err := c.Relieve(context.Background(), leaf, &Request{Action: BacklogAll, Horizon: c.horizon()})
	c.arena.Uncharge(free)
	if err != nil || rep.Unpaid == 0 || rep.Busy == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	busy.Prepare(true)
}
