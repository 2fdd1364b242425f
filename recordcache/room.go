package recordcache

import (
	"bytes"
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// makeRoom makes place for need bytes in the page of the leaf that covers key:
// it compacts, grows, seals, backlogs or splits. It returns nil when the caller
// should try again, errNoMemory when it must wait first. REQUIRES: no lock.
func (c *Cache) makeRoom(w *Writer, l *Leaf, key []byte, need int) error {
	horizon := c.horizon()
	l.mu.Lock()
	next, err := l.roomInPage(c, w, key, need, horizon)
	listed := l.list != nil
	edge := l.atEdge(key)
	l.mu.Unlock()
	switch next {
	case roomMade:
		return err
	case roomSplit:
	}
	if w.Large && (listed || edge) {
		rq := Request{Action: BacklogAll, Horizon: horizon}
		if edge && !listed {
			if done, err := c.sealUniform(l, w.Self, key); done || err != nil {
				return err
			}
			rq.edge = key
		}
		rep, err := c.Relieve(context.Background(), l, &rq)
		if err != nil {
			return err
		}
		if rep.Rows > 0 {
			return nil
		}
	}
	w.NeedBytes = maxPage/2 + 2<<10
	return c.split(l, key, need, listed)
}

// sealUniform is the bulk path: a full leaf that o filled alone, in key order,
// goes to o's run whole, in one pass, and the leaf moves right with its page
// still warm. done is false when the leaf is not like that.
func (c *Cache) sealUniform(l *Leaf, o *versionchain.Outcome, edge []byte) (done bool, err error) {
	w := c.getWorker()
	defer c.putWorker(w)
	if err := c.reserve(context.Background(), w, maxPage+frameSlack, 1); err != nil {
		return false, err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list != nil || !l.atEdge(edge) {
		return true, nil // changed: look again
	}
	or := w.of(o)
	var ok bool
	if or.rows, ok = l.page.Uniform(o.ID, o.DeadEpoch, or.rows); !ok || !w.hold(o) {
		or.rows = or.rows[:0]
		return false, nil
	}
	defer w.unhold()
	if err := l.sealPieces(c, w, c.space.BeginEdit(), edge); err != nil {
		return false, err
	}
	o.Depart()
	c.Stats.BackloggedChains.Add(uint64(l.page.Len()))
	l.page.Clear()
	l.live, l.dirty = 0, false
	return true, nil
}

type roomStep uint8

const (
	roomMade roomStep = iota
	roomSplit
)

// atEdge reports whether key comes after every record of the leaf.
// REQUIRES: l.mu is held.
func (l *Leaf) atEdge(key []byte) bool {
	n := l.page.Len()
	return l.covers(key) && n > 0 && bytes.Compare(key, l.page.Key(n-1)) > 0
}

// roomInPage compacts or grows the page. REQUIRES: l.mu is held exclusively.
func (l *Leaf) roomInPage(c *Cache, wr *Writer, key []byte, need int, h versionchain.Horizon) (roomStep, error) {
	if !l.covers(key) || l.page.Free() >= need {
		return roomMade, nil
	}
	size := len(l.page.Block())
	used := max(l.page.Used(), versionchain.PageOverhead)
	fresh := l.page.Garbage() == 0 && !l.dirty && l.live == l.page.Len() // all live, once each
	if size > 0 && !fresh && (used+need > maxPage || l.page.Len() < 64) {
		// Before a page grows or splits, what nobody sees goes.
		if err := l.settle(c, h); err != nil {
			return roomMade, err
		}
		used = l.page.CopySize(0, l.page.Len())
	}
	want := used + need
	if want > maxPage {
		return roomSplit, nil
	}
	if size > 0 && want <= size-size/8 {
		w := c.getWorker()
		q := l.page.CopyTo(w.page[:size], 0, l.page.Len(), int(l.prefix))
		l.page = l.page.Truncate(q)
		c.putWorker(w)
		return roomMade, nil
	}
	b := c.arena.Alloc(min(maxPage, want+growth(want)))
	if b == nil {
		b = c.arena.Alloc(want) // better a tight page than a wait
	}
	if b == nil {
		wr.NeedBytes = want
		return roomMade, errNoMemory
	}
	if size == 0 {
		l.page = versionchain.MakePage(b)
		return roomMade, nil
	}
	old := l.page.Block()
	l.page = l.page.MoveTo(b, int(l.prefix))
	c.arena.Free(old)
	return roomMade, nil
}

// growth is the room that a page gets beyond what it needs now.
func growth(want int) int {
	switch {
	case want < 2<<10:
		return want / 2
	case want < 8<<10:
		return want
	default:
		return 4 << 10
	}
}

// settle brings all chains up to date. REQUIRES: l.mu is held exclusively.
func (l *Leaf) settle(c *Cache, h versionchain.Horizon) error {
	live, unclean := 0, 0
	for i := range l.page.Len() {
		var s versionchain.Settled
		if err := l.page.Settle(i, h, c.reg, l.list != nil, &s); err != nil {
			return err
		}
		live += s.Live
		unclean += s.Unclean
		c.Stats.PrunedVersions.Add(uint64(s.Dropped))
	}
	l.live, l.dirty = live, unclean > 0
	return nil
}

// split cuts a full leaf in two. Halves of a leaf with frames share them, each
// clipped to its own fences; the two map entries change in one edit (L10).
func (c *Cache) split(l *Leaf, key []byte, need int, listed bool) error {
	w := c.getWorker()
	defer c.putWorker(w)
	if listed {
		if err := c.reserve(context.Background(), w, 0, 1); err != nil {
			return err
		}
		defer c.unreserve(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.page.Len()
	if !l.covers(key) || l.page.Free() >= need || n < 1 || (l.list != nil && !listed) {
		return nil // the leaf has changed: look again
	}
	mid := n / 2
	if l.atEdge(key) {
		mid = n // filled in key order: the left half stays full
	} else if mid == 0 || bytes.Compare(key, l.page.Key(0)) < 0 {
		mid = 0
	}
	return l.splitAt(c, w, mid, key)
}

// splitAt moves the records from mid on to a new leaf. With mid at an end the
// new boundary is key or the first record.
func (l *Leaf) splitAt(c *Cache, w *worker, mid int, key []byte) error {
	n := l.page.Len()
	bound := key
	if mid < n {
		bound = l.page.Key(mid)
	}
	if bytes.Equal(bound, l.low) {
		// A single record fills the page: nothing to split but the newcomer.
		if mid = 1; n == 1 {
			bound = key
		} else {
			bound = l.page.Key(1)
		}
	}
	bound = bytes.Clone(bound)
	r := &Leaf{table: l.table, live: l.live, dirty: l.dirty}
	r.setFences(bound, l.high)
	if l.list != nil {
		r.list = newList(0, l.list.frames)
	}
	r.charged = r.cost()
	if !c.arena.Charge(r.charged) {
		return errNoMemory
	}
	if mid < n {
		b := c.arena.Alloc(l.page.CopySize(mid, n))
		if b == nil {
			c.arena.Uncharge(r.charged)
			return errNoMemory
		}
		r.page = l.page.CopyTo(b, mid, n, int(r.prefix))
	}
	leftPrefix := commonPrefix(l.low, bound)
	if size := l.page.CopySize(0, mid); size <= versionchain.PageOverhead {
		c.arena.Free(l.page.Block())
		l.page = versionchain.Page{}
	} else {
		size = min((size+1023)/1024*1024, len(l.page.Block()))
		q := l.page.CopyTo(w.page[:size], 0, mid, leftPrefix)
		l.page = versionchain.PageOf(c.arena.Shrink(l.page.Truncate(q).Block(), size))
	}
	c.Stats.Splits.Add(1)
	t := l.table
	t.mu.Lock()
	l.setFences(l.low, bound)
	if l.list != nil {
		l.splitEntry(c, w, r)
	}
	c.ring.addAfter(l, r)
	t.addLocked(r)
	t.mu.Unlock()
	return nil
}

// splitEntry writes the two entries of a split leaf as one edit.
func (l *Leaf) splitEntry(c *Cache, w *worker, r *Leaf) {
	e := c.space.BeginEdit()
	l.list = newList(e.Seq(), l.list.frames)
	r.list.seq = e.Seq()
	l.putEntry(e, l.low, l.high, l.list)
	r.putEntry(e, r.low, r.high, r.list)
	for i := range r.list.frames {
		e.Refs(r.list.frames[i].Run, 1)
	}
	w.end(e)
	l.mapped, r.mapped = true, true
}

// WriteLarge stores a value that is too large for record memory: it goes into a
// frame of its own in the transaction's temp table, and a stand-in in the chain
// tells of it, so that conflicts are found without reading the frame.
// Errors are those of Write.
func (t *Table) WriteLarge(ctx context.Context, w *Writer, m Mode, key, value []byte) (*Leaf, error) {
	c := t.cache
	wk := &worker{}
	if err := c.reserve(ctx, wk, len(value)+len(key)+frameSlack, 1); err != nil {
		return nil, err
	}
	defer c.unreserve(wk)
	w.proof.list = nil
	for {
		l, err := t.lockFor(w, key)
		if err != nil {
			return nil, err
		}
		i, exact, act := l.judge(w, m, key)
		switch act.todo {
		case doFail:
			l.mu.Unlock()
			return nil, act.err
		case doAsk:
			if err := l.ask(w, key, act.value); err != nil {
				return nil, err
			}
			continue
		case doWrite:
		}
		w.Self.Depart() // the frame is newer than what the record had in this epoch
		if l.addLarge(c, w, i, exact, key) {
			err := l.sealLarge(c, w, wk, key, value)
			l.mu.Unlock()
			w.Hint = l
			return l, err
		}
		l.mu.Unlock()
		if err := c.makeRoom(w, l, key, versionchain.VersionSize(len(key), 0, true)); err != nil {
			return nil, err
		}
	}
}

// addLarge links the stand-in, in place of an own version of the same stretch.
func (l *Leaf) addLarge(c *Cache, w *Writer, i int, exact bool, key []byte) bool {
	for exact && l.popGarbage(w, i) {
		i, exact = l.page.Find(key, int(l.prefix))
	}
	v := versionchain.Ver{
		Stamp: versionchain.UndecidedStamp(w.Self.ID), Epoch: w.Epoch, Leave: w.Self.Leave(),
		Flags: versionchain.FlagClean | uint8(versionchain.KindStandIn),
	}
	if !exact {
		if !l.page.Insert(i, key, nil, int(l.prefix), &v) {
			return false
		}
		l.live++
		return true
	}
	head := l.page.Version(l.page.Newest(i))
	if head.Undecided() && head.Txn() == w.Self.ID && head.Epoch >= w.Stretch && !head.Pinned() {
		return l.page.Replace(i, nil, &v)
	}
	if !l.page.Push(i, nil, &v) {
		return false
	}
	l.live++
	return true
}

// sealLarge writes the frame of a large value and lists it.
func (l *Leaf) sealLarge(c *Cache, w *Writer, wk *worker, key, value []byte) error {
	or := wk.of(w.Self)
	or.rows = append(or.rows, versionchain.Row{
		Key: key, Value: value,
		Order: base.Order{Epoch: w.Epoch, Leave: w.Self.Leave()},
	})
	e := c.space.BeginEdit()
	err := l.sealList(c, wk, e)
	if err == nil {
		w.Self.Depart()
	}
	return err
}
