package recordcache

import (
	"bytes"
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Action says what Relieve does to a leaf.
type Action uint8

const (
	// Prune drops versions that nobody sees and retires clean ones.
	Prune Action = iota
	// Backlog also moves whole unreferenced chains to frames, each owner's
	// versions into a frame of its own, unless a small transaction has so few of
	// them there that Chill serves better.
	Backlog
	// BacklogAll is Backlog for small transactions too.
	BacklogAll
	// Checkpoint writes committed versions to frames and keeps them, clean.
	Checkpoint
	// Tidy drops versions that nobody sees and makes the page tight; what is read
	// stays.
	Tidy
)

// writes reports whether the action makes frames.
func (a Action) writes() bool { return a != Prune && a != Tidy }

// Request describes one step of Relieve.
type Request struct {
	Action  Action
	Horizon versionchain.Horizon
	// Only restricts backlogging to chains whose live version is this owner's.
	Only *versionchain.Outcome
	// edge, if not nil, is the key that comes next in a leaf filled in key
	// order: the leaf is sealed and moves right.
	edge []byte
	// Patient: chilled data is read back however much there is, so that the leaf
	// can be evacuated whole.
	Patient bool
}

// Report says what one step did.
type Report struct {
	Freed    int64 // bytes of record memory given back
	Rows     int   // rows written to frames
	Few      int   // live rows left because chilling serves them better
	Pinned   int   // versions left because somebody holds them
	Busy     int   // versions left because their commit is under way
	collapse bool  // the leaf is to go back to the gap
	whole    bool  // the leaf's committed rows are written whole

	Missed int // chains left because they were chilled a moment ago: try again
	Unpaid int // rows left because there is no room for what their frames cost
}

// Relieve is the scavenger's step on one leaf (FetchForBacklog of the seed). It
// reserves what it may need, takes the leaf's exclusive lock, brings every chain
// up to date, checks use counts, encodes what may go and frees it, all in one
// critical section (P3). REQUIRES: no lock is held.
func (c *Cache) Relieve(ctx context.Context, l *Leaf, rq *Request) (rep Report, err error) {
	w := c.getWorker()
	defer c.putWorker(w)
	if rq.Action.writes() {
		l.mu.RLock()
		idle := l.dead || (l.page.Block() == nil && l.mem == nil)
		l.mu.RUnlock()
		if idle {
			return rep, nil
		}
		thawed, err := c.thawLeaf(l, w, rq)
		if err != nil {
			return rep, err
		}
		defer c.unpinThawed(w)
		if err := c.reserve(ctx, w, maxPage+frameSlack+thawed, 1); err != nil {
			return rep, err
		}
		defer c.unreserve(w)
	}
	before := c.arena.Reserved()
	l.mu.Lock()
	merge := false
	if !l.dead {
		merge, err = l.relieve(c, w, rq, &rep)
	}
	t, low := l.table, l.low
	if rep.collapse {
		l.collapse(c)
	}
	if err == nil {
		l.assert(c)
	}
	l.mu.Unlock()
	rep.Freed = before - c.arena.Reserved()
	if merge && c.mergeReq != nil {
		c.mergeReq(t, low)
	}
	return rep, err
}

// relieve is the critical section of Relieve. REQUIRES: l.mu is held.
func (l *Leaf) relieve(c *Cache, w *worker, rq *Request, rep *Report) (merge bool, err error) {
	live, unclean := 0, 0
	n := l.page.Len()
	if rq.Action == Tidy && l.live*8 > n {
		return false, nil // being filled: it will want its slack
	}
	kept := 0
	for i := range n {
		var s versionchain.Settled
		if err := l.page.Settle(i, rq.Horizon, c.reg, l.covered(c), &s); err != nil {
			return false, err
		}
		live += s.Live
		unclean += s.Unclean
		kept += s.Kept
		rep.Pinned += s.Pinned
		c.Stats.PrunedVersions.Add(uint64(s.Dropped))
	}
	l.live, l.dirty = live, unclean > 0
	switch rq.Action {
	case Checkpoint:
		if unclean > 0 {
			rep.whole = l.worthWhole(kept-live, unclean)
			l.collect(c, w, rq, rep)
		}
	case Backlog, BacklogAll:
		if live+unclean > 0 {
			if rq.Action == Backlog {
				l.countOwners(c, w)
			}
			l.collect(c, w, rq, rep)
		}
	default:
	}
	if len(w.owners) > 0 {
		merge, err = l.pay(c, w, rq, rep)
		w.unhold()
		if err != nil {
			return false, err
		}
	}
	switch rq.Action {
	case Checkpoint:
		if !l.retireChilled(c) && l.settleCharge(c) {
			return merge, nil // the page keeps its room: the leaf is being written
		}
	case Tidy:
	default:
		l.retire(c)
	}
	if rq.edge != nil {
		l.settleCharge(c) // so that the page need not pay and can stay
	}
	l.compact(c, w, rq.edge != nil)
	// What was not charged beforehand, the page has paid. If it went whole and was
	// not worth that much, the leaf goes back to the gap, where the map has it.
	rep.collapse = !l.settleCharge(c)
	return merge, nil
}

// pay writes what was collected, if the frames' place in the list can be paid
// for (M1). REQUIRES: l.mu is held; room was reserved.
func (l *Leaf) pay(c *Cache, w *worker, rq *Request, rep *Report) (merge bool, err error) {
	price := w.price()
	if rep.whole {
		price = max(0, price-listCost(l.list.frames)) // which go
	}
	charged := c.arena.Charge(price)
	if !charged && !l.pays(price) {
		for i := range w.owners {
			rep.Unpaid += len(w.owners[i].rows)
		}
		l.page.Confirm(false)
		return false, nil
	}
	merge, err = l.write(c, w, rq, rep)
	l.page.Confirm(err == nil)
	switch {
	case charged && err != nil:
		c.arena.Uncharge(price)
	case charged:
		l.charged += price
	}
	return merge, err
}

// countOwners counts the rows of each small live owner in the leaf.
func (l *Leaf) countOwners(c *Cache, w *worker) {
	for i := range l.page.Len() {
		for off := l.page.Newest(i); off != 0; {
			v := l.page.Version(off)
			if v.Undecided() && v.Flags&versionchain.FlagClean == 0 && !v.Dropped() {
				if o := c.reg.Get(v.Txn()); o != nil && !o.Large.Load() {
					w.of(o).n++
				}
			}
			off = v.Prior
		}
	}
}

// few reports whether the owner has so few rows here that they are better
// chilled than framed.
func (w *worker) few(o *versionchain.Outcome) bool {
	for i := range w.owners {
		if w.owners[i].out == o {
			return w.owners[i].n > 0 && w.owners[i].n < minFrameRows
		}
	}
	return false
}

// collect gathers by owner the rows that leave, or for a checkpoint the
// committed rows that no frame holds. Chains go whole or not at all.
func (l *Leaf) collect(c *Cache, w *worker, rq *Request, rep *Report) {
	for i := range l.page.Len() {
		if rq.Action == Checkpoint {
			if !l.collectChain(c, w, i, true, rep.whole) {
				rep.Missed++
			}
			continue
		}
		if l.mayGo(c, w, rq, rep, i) && l.collectChain(c, w, i, false, false) {
			l.partial = l.list != nil // clean versions go with the others, or by themselves
			c.Stats.BackloggedChains.Add(1)
		}
	}
}

// mayGo decides on the chain of record i: every use count accounted for, no
// commit under way, worth a frame, and the owner's turn.
func (l *Leaf) mayGo(c *Cache, w *worker, rq *Request, rep *Report, i int) bool {
	turn := rq.Only == nil
	for off := l.page.Newest(i); off != 0; {
		v := l.page.Version(off)
		off = v.Prior
		if v.Pinned() {
			return false
		}
		if v.Dropped() || !v.Undecided() {
			continue
		}
		o := c.reg.Get(v.Txn())
		if o == nil {
			return false
		}
		if rq.Action == Backlog && w.few(o) {
			rep.Few++
			return false
		}
		if !w.hold(o) {
			rep.Busy++
			return false
		}
		turn = turn || o == rq.Only
	}
	return turn
}

// collectChain adds the rows of record i that no frame holds; with committed,
// only the decided ones, with clean also those that a frame holds. It reports false
// when data of a chilled version is not at hand, and then has added nothing.
func (l *Leaf) collectChain(c *Cache, w *worker, i int, committed, clean bool) bool {
	key := l.page.Key(i)
	for off := l.page.Newest(i); off != 0; {
		v := l.page.Version(off)
		if v.Flags&versionchain.FlagChilled != 0 && v.Flags&versionchain.FlagClean == 0 && !v.Dropped() &&
			(!committed || !v.Undecided()) {
			lsn, _ := l.page.Chilled(off)
			if _, ok := w.thawedValue(lsn); !ok {
				return false
			}
		}
		off = v.Prior
	}
	for off := l.page.Newest(i); off != 0; {
		v := l.page.Version(off)
		at := off
		off = v.Prior
		if v.Dropped() || (v.Flags&versionchain.FlagClean != 0 && !clean) || (committed && v.Undecided()) {
			continue
		}
		row := versionchain.Row{Key: key, Kind: v.Kind(), Order: base.Order{Epoch: v.Epoch, Leave: v.Leave}}
		var o *versionchain.Outcome
		if v.Undecided() {
			o = c.reg.Get(v.Txn())
		} else {
			row.TS = v.TS()
		}
		switch {
		case v.Kind() != base.KindValue:
		case v.Flags&versionchain.FlagChilled != 0:
			lsn, _ := l.page.Chilled(at)
			row.Value, _ = w.thawedValue(lsn)
		default:
			row.Value = l.page.Value(at, &v)
		}
		or := w.of(o)
		or.rows = append(or.rows, row)
	}
	l.page.Mark(i, committed)
	return true
}

// write seals what was collected and changes the list, or cuts and moves a leaf
// that is filled in key order. REQUIRES: l.mu is held; room was reserved.
func (l *Leaf) write(c *Cache, w *worker, rq *Request, rep *Report) (merge bool, err error) {
	rows := 0
	for i := range w.owners {
		rows += len(w.owners[i].rows)
	}
	if rows == 0 {
		return false, nil
	}
	rep.Rows += rows
	if rq.edge != nil && l.listLen() == 0 && l.page.Kept() == 0 && l.atEdge(rq.edge) { // it may have been split
		err = l.sealPieces(c, w, rq.edge)
	} else {
		err = l.sealList(c, w, rq.Action == Checkpoint, rep.whole)
		merge = err == nil && l.list.overlapping() > maxList
	}
	for i := range w.owners {
		if o := w.owners[i].out; o != nil && len(w.owners[i].rows) > 0 {
			o.Depart()
		}
	}
	return merge, err
}

// worthWhole reports whether a checkpoint that has unclean rows to write should write
// all of the leaf's committed rows, which the page has, and list nothing else. To
// write a row once more costs less than to read and merge it later, if more than a
// fifth of what the leaf would list is superseded: space is then never collected
// behind the checkpoint, the old runs go one after the other as it walks.
func (l *Leaf) worthWhole(committed, unclean int) bool {
	if l.partial || l.chilled || l.listLen() == 0 {
		return false
	}
	listed := unclean
	for i := range l.list.frames {
		f := &l.list.frames[i]
		if f.out != nil {
			return false
		}
		rows := int(f.Rows)
		if !inside(&f.FrameRef, l.low, l.high) {
			rows /= 2 // shared by the halves of a split
		}
		listed += rows
	}
	return listed*4 > committed*5 || l.table.cache.AlwaysWhole.Load()
}

// sealList writes one frame per owner and lists them before the older ones or, with
// whole, instead of them. With kept what is written stays in the page.
func (l *Leaf) sealList(c *Cache, w *worker, kept, whole bool) error {
	committed := false
	for i := range w.owners {
		or := &w.owners[i]
		if len(or.rows) == 0 {
			continue
		}
		committed = committed || or.out == nil
		if err := w.encode(l.table, or.out, or.rows, l.low, l.high, false); err != nil {
			return err
		}
	}
	e := c.space.BeginEdit()
	if committed {
		e.NeedSync()
	}
	frames, err := c.placeAll(make([]frame, 0, len(w.coded)+l.listLen()), w, e, l.table)
	if err != nil {
		w.end(e)
		return err
	}
	for i := range l.listLen() {
		if whole {
			e.Refs(l.list.frames[i].Run, -1)
		} else {
			frames = append(frames, l.list.frames[i])
		}
	}
	nl := newList(e.Seq(), frames)
	l.list.dropGone(e)
	l.putEntry(e, l.low, l.high, nl)
	w.end(e)
	l.setList(nl, c, l.partial || !kept)
	l.mapped = true
	if whole {
		c.Stats.WholeLeaves.Add(1)
	}
	return nil
}

func (l *Leaf) listLen() int {
	if l.list == nil {
		return 0
	}
	return len(l.list.frames)
}

// putEntry writes an entry of the leaf map.
func (l *Leaf) putEntry(e *tablespace.EditTx, low, high []byte, fl *frameList) {
	e.Put(l.table.ID, tablespace.Entry{Low: low, High: high, Seq: e.Seq(), Frames: fl.refs()})
}

// piece is a part of a leaf that becomes an entry of its own: the frames from on in
// the worker, up to those of the next piece.
type piece struct {
	low, high []byte
	from      int
}

// sealPieces cuts the whole content of a leaf that was filled in key order into
// entries of about targetFrame bytes, straight into the gap, and moves the leaf
// to the right of them: its page stays, warm and empty.
func (l *Leaf) sealPieces(c *Cache, w *worker, edge []byte) error {
	edge = append([]byte(nil), edge...)
	pieces, committed, err := l.encodePieces(w, edge)
	if err != nil {
		return err
	}
	e := c.space.BeginEdit()
	if committed {
		e.NeedSync()
	}
	frames, err := c.placeAll(make([]frame, 0, len(w.coded)), w, e, l.table)
	if err != nil {
		w.end(e)
		return err
	}
	for p := range pieces {
		to := len(frames)
		if p+1 < len(pieces) {
			to = pieces[p+1].from
		}
		l.putEntry(e, pieces[p].low, pieces[p].high, &frameList{seq: e.Seq(), frames: frames[pieces[p].from:to]})
	}
	l.list.dropGone(e)
	w.end(e)
	l.setList(nil, c, false)
	t := l.table
	t.mu.Lock()
	t.sealed.Add(1)
	l.setFences(edge, l.high)
	t.mu.Unlock()
	l.mapped = false
	c.Stats.SealedLeaves.Add(1)
	return nil
}

// encodePieces encodes the frames of sealPieces, one piece if several owners have
// rows in the leaf.
func (l *Leaf) encodePieces(w *worker, edge []byte) (pieces []piece, committed bool, err error) {
	total := 0
	for i := range w.owners {
		committed = committed || w.owners[i].out == nil
		for j := range w.owners[i].rows {
			total += len(w.owners[i].rows[j].Key) + len(w.owners[i].rows[j].Value) + 4
		}
	}
	if len(w.owners) > 1 {
		for i := range w.owners {
			if or := &w.owners[i]; len(or.rows) > 0 && err == nil {
				err = w.encode(l.table, or.out, or.rows, l.low, edge, false)
			}
		}
		return []piece{{low: l.low, high: edge}}, committed, err
	}
	or := &w.owners[0]
	n := max(1, total/targetFrame)
	low := l.low
	for p := range n {
		from, to := keyStart(or.rows, len(or.rows)*p/n), keyStart(or.rows, len(or.rows)*(p+1)/n)
		if from == to {
			continue
		}
		high := edge
		if to < len(or.rows) {
			high = append([]byte(nil), or.rows[to].Key...)
		}
		pieces = append(pieces, piece{low: low, high: high, from: len(w.coded)})
		if err := w.encode(l.table, or.out, or.rows[from:to], low, high, false); err != nil {
			return nil, committed, err
		}
		low = high
	}
	return pieces, committed, nil
}

// keyStart moves i back to the first version of its record.
func keyStart(rows []versionchain.Row, i int) int {
	for i > 0 && i < len(rows) && bytes.Equal(rows[i].Key, rows[i-1].Key) {
		i--
	}
	return i
}

// retire drops clean versions and resident copies of frames.
func (l *Leaf) retire(c *Cache) {
	for i := range l.page.Len() {
		l.retireRecord(c, i)
	}
	for i, b := range l.mem {
		if b != nil {
			c.arena.Free(b)
			l.mem[i] = nil
		}
	}
	l.mem = nil
}

// retireRecord drops the clean versions of record i that may go.
func (l *Leaf) retireRecord(c *Cache, i int) {
	n := l.page.Retire(i)
	l.partial = l.partial || n > 0 && l.list != nil
	c.Stats.RetiredVersions.Add(uint64(n))
}

// retireChilled drops chilled versions that a frame holds by now: the log will
// not keep their data. It reports whether there were any.
func (l *Leaf) retireChilled(c *Cache) (any bool) {
	if !l.chilled {
		return false
	}
	l.chilled = false
	for i := range l.page.Len() {
		for off := l.page.Newest(i); off != 0; {
			v := l.page.Version(off)
			if v.Flags&versionchain.FlagChilled != 0 && v.Flags&versionchain.FlagClean != 0 {
				l.retireRecord(c, i)
				any, l.chilled = true, true // some may have stayed: the next time tells
				break
			}
			l.chilled = l.chilled || v.Flags&versionchain.FlagChilled != 0
			off = v.Prior
		}
	}
	return any
}

// compact rebuilds the page without dropped versions, in as small a block as
// holds it. What the leaf costs more than is charged is paid with what that gives
// back, as far as it goes. It needs no record memory (M2). REQUIRES: l.mu is held.
func (l *Leaf) compact(c *Cache, w *worker, keep bool) {
	n := l.page.Len()
	if l.page.Block() == nil {
		return
	}
	owed := max(0, l.cost()-l.charged)
	size := l.page.CopySize(0, n)
	if size == 0 && keep && owed == 0 {
		l.page.Clear()
		l.live, l.dirty = 0, false
		return
	}
	if size == 0 {
		if _, ok := c.arena.Trade(l.page.Block(), 0, owed); ok {
			l.charged += owed
		} else {
			c.arena.Free(l.page.Block())
		}
		l.page = versionchain.Page{}
		l.live, l.dirty = 0, false
		return
	}
	size = wholeUnits(size)
	if old := len(l.page.Block()); size >= old {
		if l.page.Used() == l.page.CopySize(0, n) && l.page.Free() > old/8 {
			return // nothing to gain
		}
		size = old
	}
	q := l.page.CopyTo(w.page[:size], 0, n, int(l.prefix))
	q = l.page.Truncate(q)
	b, ok := c.arena.Trade(q.Block(), size, owed)
	if ok {
		l.charged += owed
	} else {
		b = c.arena.Shrink(q.Block(), size)
	}
	l.page = q.InBlock(b)
}
