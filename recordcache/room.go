package recordcache

import (
	"bytes"
	"context"
	"errors"
	"slices"

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
	above := l.aboveFrames(key)
	l.mu.Unlock()
	switch next {
	case roomMade:
		return err
	case roomSplit:
	}
	if w.Large && edge && above {
		// What is filled here in key order lies above all that the leaf lists: it
		// gets a leaf of its own, which can be sealed whole.
		w.NeedBytes = 4 << 10
		if err := c.split(l, key, need, true); !errors.Is(err, errOneRecord) {
			return err
		}
		return nil // it is not like that any more: look again
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
	err = c.split(l, key, need, listed)
	if !errors.Is(err, errOneRecord) {
		return err
	}
	// Versions of one record that somebody reads fill the leaf: they go to frames.
	rep, err := c.Relieve(context.Background(), l, &Request{Action: BacklogAll, Horizon: horizon})
	if err == nil && rep.Rows == 0 && rep.Freed <= 0 {
		w.NeedBytes = maxPage
		return errNoMemory
	}
	return err
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
	if err := l.sealPieces(c, w, edge); err != nil {
		return false, err
	}
	o.Depart()
	c.Stats.BackloggedChains.Add(uint64(l.page.Len()))
	l.page.Clear()
	l.live, l.dirty = 0, false
	if !l.settleCharge(c) {
		l.collapse(c) // its new fence is longer, and there is no room even for that
	}
	l.assert(c)
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

// aboveFrames reports whether the leaf lists frames and key lies above them all.
func (l *Leaf) aboveFrames(key []byte) bool {
	for i := range l.listLen() {
		if f := &l.list.frames[i]; f.Last == nil || bytes.Compare(key, f.Last) <= 0 {
			return false
		}
	}
	return l.listLen() > 0
}

// roomInPage compacts or grows the page. REQUIRES: l.mu is held exclusively.
func (l *Leaf) roomInPage(c *Cache, wr *Writer, key []byte, need int, h versionchain.Horizon) (roomStep, error) {
	if !l.covers(key) || l.page.Free() >= need {
		return roomMade, nil
	}
	size := len(l.page.Block())
	used := l.page.Used()
	settled := false
	fresh := l.page.Garbage() == 0 && !l.dirty && l.live == l.page.Len() // all live, once each
	if size > 0 && !fresh && (used+need > maxPage || l.page.Len() < 64) {
		// Before a page grows or splits, what nobody sees goes.
		if err := l.settle(c, h); err != nil {
			return roomMade, err
		}
		settled = true
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
	if b == nil && l.page.Len() >= 32 && c.roomy() {
		return roomSplit, nil // there is memory, in pieces: halves fit better
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
	if settled {
		l.page = l.page.CopyTo(b, 0, l.page.Len(), int(l.prefix))
	} else {
		l.page = l.page.MoveTo(b, int(l.prefix))
	}
	c.arena.Free(old)
	return roomMade, nil
}

// growth is the room that a page gets beyond what it needs now.
func growth(want int) int {
	return min(want/2, 4<<10)
}

// covered reports whether tombstones of the leaf may hide something: a row in its
// frames or, during recovery, one that comes later in the log.
func (l *Leaf) covered(c *Cache) bool { return l.list != nil || c.replaying.Load() }

// settle brings all chains up to date. REQUIRES: l.mu is held exclusively.
func (l *Leaf) settle(c *Cache, h versionchain.Horizon) error {
	live, unclean := 0, 0
	for i := range l.page.Len() {
		var s versionchain.Settled
		if err := l.page.Settle(i, h, c.reg, l.covered(c), &s); err != nil {
			return err
		}
		live += s.Live
		unclean += s.Unclean
		c.Stats.PrunedVersions.Add(uint64(s.Dropped))
	}
	l.live, l.dirty = live, unclean > 0
	return nil
}

// split cuts a full leaf in two. A frame that may hold keys of both halves is
// shared, clipped to the fences of each; the two map entries change in one edit
// (L10).
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
	bound := l.page.Key(n / 2)
	switch {
	case l.atEdge(key):
		bound = key // filled in key order: the left half stays full
	case bytes.Equal(bound, l.low) && n > 1:
		bound = l.page.Key(1)
	}
	if bytes.Equal(bound, l.low) {
		return errOneRecord
	}
	return l.splitAt(c, w, bytes.Clone(bound))
}

// errOneRecord says that a leaf is full of the versions of one record.
var errOneRecord = errors.New("saker: leaf is full of one record")

// splitAt moves the records from bound on to a new leaf. REQUIRES: l.mu is held
// exclusively, bound lies within the fences, above low; an edit is reserved if
// the leaf has a list.
func (l *Leaf) splitAt(c *Cache, w *worker, bound []byte) error {
	l.page.Fetch()
	n := l.page.Len()
	mid, _ := l.page.Find(bound, int(l.prefix))
	r := &Leaf{table: l.table, dirty: l.dirty, chilled: l.chilled}
	r.setFences(bound, l.high)
	// Everything that the halves will cost is had first, in one step (M1).
	left, right := l.divide(bound)
	r.charged = leafCost(bound, l.high) + listCost(right)
	more := max(0, leafCost(l.low, bound)+listCost(left)-l.charged)
	if size := l.page.CopySize(mid, n); size > 0 {
		b := c.arena.AllocCharge(size, r.charged+more)
		if b == nil {
			return &needError{int64(size) + r.charged + more}
		}
		r.page = l.page.CopyTo(b, mid, n, int(r.prefix))
	} else if !c.arena.Charge(r.charged + more) {
		return &needError{r.charged + more}
	}
	l.charged += more
	l.keepLeft(c, w, mid, commonPrefix(l.low, bound))
	l.live, r.live = l.page.Live(), r.page.Live()
	c.Stats.Splits.Add(1)
	t := l.table
	t.mu.Lock()
	l.setFences(l.low, bound)
	if l.list != nil {
		l.splitList(c, w, r, left, right)
	} else {
		l.settleCharge(c) // for its new fence
	}
	c.ring.addAfter(l, r)
	t.addLocked(r)
	t.mu.Unlock()
	l.settleCharge(c)
	l.assert(c)
	return nil
}

// divide returns the frames of the halves below and from bound on. One that may
// hold keys of both goes to both, one that holds keys of neither to the left.
func (l *Leaf) divide(bound []byte) (left, right []frame) {
	for i := range l.listLen() {
		f := &l.list.frames[i]
		inRight := f.within(bound, l.high)
		if f.within(l.low, bound) || !inRight {
			left = append(left, *f)
		}
		if inRight {
			right = append(right, *f)
		}
	}
	return left, right
}

// keepLeft compacts the page to the records before mid.
func (l *Leaf) keepLeft(c *Cache, w *worker, mid, prefix int) {
	if l.page.Block() == nil {
		return
	}
	size := l.page.CopySize(0, mid)
	if size == 0 {
		c.arena.Free(l.page.Block())
		l.page = versionchain.Page{}
		return
	}
	size = min((size+1023)/1024*1024, len(l.page.Block()))
	q := l.page.CopyTo(w.page[:size], 0, mid, prefix)
	q = l.page.Truncate(q)
	l.page = q.InBlock(c.arena.Shrink(q.Block(), size))
}

// splitList gives each half its frames and writes both entries.
func (l *Leaf) splitList(c *Cache, w *worker, r *Leaf, left, right []frame) {
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	for i := range right {
		if f := &right[i]; f.within(l.low, l.high) {
			e.Refs(f.Run, 1) // listed by both
		}
	}
	partial := l.partial
	put := func(x *Leaf, frames []frame) {
		nl := newList(e.Seq(), frames)
		if len(frames) > 0 {
			x.putEntry(e, x.low, x.high, nl)
		} else {
			nl = nil
			if x == l {
				e.Delete(x.table.ID, x.low)
			}
		}
		x.mapped = nl != nil
		x.setList(nl, c, partial)
	}
	put(l, left)
	put(r, right)
	w.end(e)
}

// WriteLarge stores a value that is too large for record memory: it goes into a
// frame of its own in the transaction's temp table, and a stand-in in the chain
// tells of it, so that conflicts are found without reading the frame.
// Errors are those of Write.
func (t *Table) WriteLarge(ctx context.Context, w *Writer, m Mode, key, value []byte) (*Leaf, error) {
	w.proof.list = nil
	for looked := false; ; {
		l, full, err := t.tryLarge(ctx, w, m, key, value, looked)
		switch {
		case errors.Is(err, errLongList):
			if l != nil { // only the list of a leaf that is not present is made shorter
				if err := t.cache.evacuate(ctx, l); err != nil {
					return nil, err
				}
				t.cache.Collapse(l)
				if !looked {
					t.short.Store(0) // it says nothing of what was rolled back since
					looked = true
				}
			}
			if err := t.shorten(ctx, key); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case l != nil && !full:
			if l.longOfLarge() {
				_ = t.cache.dropSuperseded(ctx, l, minRead) // the value is written; a merge tries again
			}
			return l, nil
		case full:
			if err := t.cache.makeRoom(w, l, key, versionchain.VersionSize(len(key), 0, true)); err != nil {
				return nil, err
			}
		}
	}
}

// tryLarge is one attempt of WriteLarge. It returns the leaf; full says that it
// has no room for the stand-in, errLongList that its list leaves no room for one
// more frame and may become shorter: it may, unless it was looked at. No leaf and no
// error: try again. What it reserves it gives back: making room reserves too, and
// would wait for itself.
func (t *Table) tryLarge(ctx context.Context, w *Writer, m Mode, key, value []byte, looked bool) (l *Leaf, full bool, err error) {
	c := t.cache
	wk := c.getWorker()
	defer c.putWorker(wk)
	if err := c.reserve(ctx, wk, len(value)+len(key)+frameSlack, 1); err != nil {
		return nil, false, err
	}
	defer c.unreserve(wk)
	if l, err = t.lockOrBring(w, key, versionchain.VersionSize(len(key), 0, true)); err != nil {
		return nil, false, err
	}
	return t.putLarge(w, wk, l, m, key, value, looked)
}

// putLarge is the part of tryLarge with the leaf locked. REQUIRES: l.mu is held
// exclusively; it is released. Buffer room and an edit are reserved.
func (t *Table) putLarge(w *Writer, wk *worker, l *Leaf, m Mode, key, value []byte, looked bool) (_ *Leaf, full bool, err error) {
	c := t.cache
	i, exact, act := l.judge(w, m, key)
	switch act.todo {
	case doFail:
		l.mu.Unlock()
		return nil, false, act.err
	case doAsk:
		return nil, false, l.ask(w, key, act.value) // unlocks
	case doWrite:
	}
	w.Self.Depart() // the frame is newer than what the record had in this epoch
	if l.crowded(c) && l.boundForLarge(key) != nil {
		return nil, false, l.splitForLarge(c, wk, key) // unlocks
	}
	price := priceOf([]versionchain.Row{{Key: key, Value: value}})
	// With a list that grows beyond this the leaf could not become present again.
	most := l.cost() + price + maxPage
	if most > c.arena.Cap() || !c.arena.Charge(price) {
		defer l.mu.Unlock()
		switch {
		case l.list == nil || l.charged <= c.maxListCost():
			return nil, false, &needError{price}
		case !looked || !t.asShortAsCanBe(l.list.seq):
			return l, false, errLongList // before anybody waits for so much
		}
		// What is taken from others may be this very leaf: to wait for the price
		// alone would bring it back and take it away again, for ever.
		return nil, false, &needError{most}
	}
	for exact && l.popGarbage(w, i) {
		i, exact = l.page.Find(key, int(l.prefix))
	}
	if l.page.Free() < l.roomForLarge(w, i, exact, key) {
		c.arena.Uncharge(price)
		l.mu.Unlock()
		return l, true, nil
	}
	if err = l.sealLarge(c, w, wk, key, value); err == nil {
		l.addLarge(w, i, exact, key)
		w.Self.Depart()
		l.charged += price
	} else {
		c.arena.Uncharge(price)
	}
	l.settleCharge(c)
	merge, low := l.listLen() > maxList && l.listLen()%maxList == 0, l.low
	l.mu.Unlock()
	if merge && c.mergeReq != nil {
		c.mergeReq(t, low)
	}
	w.Hint = l
	return l, false, err
}

// maxLargeList is how many frames a leaf may list before the next large value
// splits it.
const maxLargeList = 32

// crowded reports whether the next large value splits the leaf: it lists many, or,
// since keys may be long, a few that cost much. REQUIRES: l.mu is held.
func (l *Leaf) crowded(c *Cache) bool {
	n := l.listLen()
	return n >= maxLargeList || (n > 1 && listCost(l.list.frames) > c.maxListCost()/2)
}

// longOfLarge reports whether it is time to look for frames of large values that
// nobody needs, merges having been too slow for it.
func (l *Leaf) longOfLarge() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := l.listLen()
	return n >= 4*maxLargeList && n%maxLargeList == 0
}

// splitForLarge splits a leaf that lists many large values, between them.
// REQUIRES: l.mu is held exclusively; it is released. The leaf may be one that
// cannot be split, all frames being of one key; then a merge is asked for.
func (l *Leaf) splitForLarge(c *Cache, wk *worker, key []byte) error {
	bound := l.boundForLarge(key)
	var err error
	if bound != nil {
		err = l.splitAt(c, wk, bound)
	}
	l.mu.Unlock()
	return err
}

// boundForLarge returns where to split: at key if it comes after everything,
// else at the middle one of the frames' first keys.
func (l *Leaf) boundForLarge(key []byte) []byte {
	firsts := make([][]byte, 0, len(l.list.frames))
	after := l.page.Len() == 0 || l.atEdge(key)
	for i := range l.list.frames {
		f := &l.list.frames[i]
		if f.First == nil {
			after = false
			continue
		}
		after = after && bytes.Compare(key, f.Last) > 0
		if bytes.Compare(f.First, l.low) > 0 && (l.high == nil || bytes.Compare(f.First, l.high) < 0) {
			firsts = append(firsts, f.First)
		}
	}
	if after && bytes.Compare(key, l.low) > 0 {
		return bytes.Clone(key)
	}
	if len(firsts) == 0 {
		return nil
	}
	slices.SortFunc(firsts, bytes.Compare)
	return bytes.Clone(firsts[len(firsts)/2])
}

// roomForLarge returns the bytes that addLarge needs in the page.
func (l *Leaf) roomForLarge(w *Writer, i int, exact bool, key []byte) int {
	switch {
	case !exact:
		return versionchain.VersionSize(len(key), 0, true)
	case l.replaces(w, i):
		return 0
	default:
		return versionchain.VersionSize(len(key), 0, false)
	}
}

// replaces reports whether a write of record i takes the place of its newest
// version: one of w's own, of the same stretch.
func (l *Leaf) replaces(w *Writer, i int) bool {
	head := l.page.Version(l.page.Newest(i))
	return head.Undecided() && head.Txn() == w.Self.ID && head.Epoch >= w.Stretch && !head.Pinned()
}

// addLarge links the stand-in of a value that was sealed, in place of an own version
// of the same stretch. REQUIRES: the newest version is no garbage, and the page has
// roomForLarge.
func (l *Leaf) addLarge(w *Writer, i int, exact bool, key []byte) {
	v := versionchain.Ver{
		Stamp: versionchain.UndecidedStamp(w.Self.ID), Epoch: w.Epoch, Leave: w.Self.Leave(),
		Flags: versionchain.FlagClean | uint8(versionchain.KindStandIn),
	}
	if !exact {
		l.page.Insert(i, key, nil, int(l.prefix), &v)
		l.live++
		return
	}
	if head := l.page.Version(l.page.Newest(i)); head.Undecided() && head.Txn() == w.Self.ID {
		l.dropMerged(w, i, &head)
	}
	if l.replaces(w, i) {
		l.page.Replace(i, nil, &v)
		return
	}
	l.page.Push(i, nil, &v)
	l.live++
}

// sealLarge writes the frame of a large value and lists it. It comes before the
// stand-in: a stand-in without frame would hide what its transaction had before.
func (l *Leaf) sealLarge(c *Cache, w *Writer, wk *worker, key, value []byte) error {
	or := wk.of(w.Self)
	or.rows = append(or.rows, versionchain.Row{
		Key: key, Value: value,
		Order: base.Order{Epoch: w.Epoch, Leave: w.Self.Leave()},
	})
	return l.sealList(c, wk, false, false)
}
