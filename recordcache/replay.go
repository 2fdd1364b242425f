package recordcache

import (
	"bytes"
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Replay applies one committed row of the log, idempotently (L6): the newest by
// Order stands. No snapshot is active during recovery, so one version per record
// is enough. Memory must be newer than frames, so a row that some frame of the
// leaf may hold in a newer version is compared with it first. That may be one of
// the same timestamp: a frame of the row's transaction, or one that recovery
// itself wrote between two rows of it. errNoMemory asks the caller to wait.
func (t *Table) Replay(w *Writer, key, value []byte, kind base.Kind, ord base.Order) error {
	for {
		newer, err := t.framedNewer(w, key, ord, versionchain.VersionSize(len(key), len(value), true))
		if err != nil || newer {
			return err
		}
		done, err := t.replay(w, key, value, kind, ord)
		if err != nil || done {
			return err
		}
	}
}

// replay links the row; done is false when the leaf has changed since its frames
// were asked.
func (t *Table) replay(w *Writer, key, value []byte, kind base.Kind, ord base.Order) (done bool, err error) {
	v := versionchain.Ver{Stamp: uint64(ord.TS), Epoch: ord.Epoch, Leave: ord.Leave, Flags: uint8(kind)}
	need := versionchain.VersionSize(len(key), len(value), true)
	for {
		l, err := t.lockFor(w, key, need)
		if err != nil {
			return false, err
		}
		if !l.list.same(w.proof.list) {
			l.mu.Unlock()
			return false, nil
		}
		i, exact := l.page.Find(key, int(l.prefix))
		var ok bool
		if exact {
			head := l.page.Version(l.page.Newest(i))
			if head.Order(head.TS()).Newer(ord) {
				l.mu.Unlock()
				return true, nil
			}
			ok = l.page.Replace(i, value, &v)
		} else {
			ok = l.page.Insert(i, key, value, int(l.prefix), &v)
		}
		if ok {
			l.dirty = true
			l.mu.Unlock()
			w.Hint = l
			return true, nil
		}
		l.mu.Unlock()
		if err := t.cache.makeRoom(w, l, key, need); err != nil {
			return false, err
		}
	}
}

// framedNewer reports whether a frame holds a version of key newer than ord. It
// leaves the list that it looked at in w.proof.
func (t *Table) framedNewer(w *Writer, key []byte, ord base.Order, need int) (bool, error) {
	l, err := t.lockFor(w, key, need)
	if err != nil {
		return false, err
	}
	w.proof = proof{list: l.list, value: w.proof.value[:0]}
	ask := false
	hash := base.Hash(key)
	for i := range l.listLen() {
		f := &l.list.frames[i]
		newest := f.Newest
		if f.out != nil {
			_, newest = f.out.Status()
		}
		if newest >= ord.TS {
			ask = ask || f.holds(key, hash)
		}
	}
	if !ask {
		l.mu.Unlock()
		return false, nil
	}
	w.Reader = versionchain.Reader{Snapshot: base.MaxTS - 1, Reg: t.cache.reg}
	if err := l.ask(w, key, true); err != nil {
		return false, err
	}
	return w.proof.found.have && w.proof.found.ord.Newer(ord), nil
}

// Readd lists the frame fr at a, of o, named by a commit record, whose edit did
// not survive a crash (L11): in every leaf that its fences touch and that may have
// rows of it. Where the map has a hole an entry of just the frame's range is made,
// and a leaf that reaches over the frame's fences is cut there: else all that a
// table got since the map was last flushed would go into the list of one leaf, to
// be written again for each frame. errNoMemory asks the caller to wait and call
// again.
func (t *Table) Readd(ctx context.Context, a tablespace.Addr, fr *versionchain.Frame, o *versionchain.Outcome) error {
	c := t.cache
	w := c.getWorker()
	defer c.putWorker(w)
	m := fr.Meta()
	low, high := append([]byte{}, m.Low...), bytes.Clone(m.High)
	f := readded(a, fr, o)
	for at := low; ; {
		if err := c.reserve(ctx, w, 0, 1); err != nil {
			return err
		}
		l := t.lockKey(nil, at)
		if l == nil {
			c.unreserve(w) // a list that is to become shorter takes room of its own
			if err := t.installWithin(at, low, high); err != nil {
				return err
			}
			continue
		}
		done, err := l.readd(c, w, f, low, high)
		next, empty := l.high, l.page.Len() == 0
		l.mu.Unlock()
		c.unreserve(w)
		if empty {
			c.Collapse(l)
		}
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		if at = next; at == nil || (high != nil && bytes.Compare(at, high) >= 0) {
			return nil
		}
	}
}

// readd is Readd for one leaf; done is false when it cut the leaf instead.
// REQUIRES: l.mu is held exclusively, an edit is reserved.
func (l *Leaf) readd(c *Cache, w *worker, f frame, low, high []byte) (done bool, err error) {
	if bytes.Compare(l.low, low) < 0 {
		return false, l.splitAt(c, w, low)
	}
	if high != nil && (l.high == nil || bytes.Compare(high, l.high) < 0) {
		return false, l.splitAt(c, w, high)
	}
	if !f.within(l.low, l.high) || (l.list != nil && l.list.index(f.Addr) >= 0) {
		return true, nil
	}
	frames := []frame{f}
	price := listCost(frames)
	if !c.arena.Charge(price) {
		return false, &needError{price}
	}
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	if l.list != nil {
		frames = append(frames, l.list.frames...)
	}
	nl := newList(e.Seq(), frames)
	e.Refs(f.Run, 1)
	l.putEntry(e, l.low, l.high, nl)
	w.end(e)
	l.setList(nl, c, true)
	l.charged += price
	l.mapped = true
	l.assert(c)
	return true, nil
}

// readded is the list entry of a frame whose edit did not survive. It keeps
// nothing of fr.
func readded(a tablespace.Addr, fr *versionchain.Frame, o *versionchain.Outcome) frame {
	f := frame{out: o}
	f.FrameRef = tablespace.FrameRef{
		Addr: a, Owner: o.ID, Leave: fr.Meta().Leave, Rows: uint32(fr.Len()), Filter: bytes.Clone(fr.Filter()),
	}
	_, f.Newest = o.Status()
	var row versionchain.Row
	for i := range fr.Len() {
		if fr.Row(i, &row); row.Kind != base.KindValue {
			f.Stones++
		}
	}
	if n := fr.Len(); n > 0 {
		f.Large = n == 1 && isLarge([]versionchain.Row{row})
		f.First, f.Last = boundsOf(fr.Key(0), fr.Key(n-1), f.Large)
	}
	return f
}

// installWithin is installShort, but a hole is clipped to [low, high). REQUIRES: nothing
// is reserved.
func (t *Table) installWithin(key, low, high []byte) error {
	c := t.cache
	moved, sealed := t.moved.Load(), t.sealed.Load() // before the map is asked
	en, found, holeLow, holeHigh, err := c.space.Lookup(t.ID, key)
	if err != nil {
		return err
	}
	if c.AfterLookup != nil {
		c.AfterLookup()
	}
	if found {
		c.space.ReleaseEntry(&en)
		return t.installShort(key)
	}
	l := &Leaf{table: t, low: holeLow, high: holeHigh}
	if bytes.Compare(low, l.low) > 0 {
		l.low = low
	}
	if high != nil && (l.high == nil || bytes.Compare(high, l.high) < 0) {
		l.high = high
	}
	l.charged = l.cost()
	if !c.arena.Charge(l.charged) {
		return &needError{l.charged}
	}
	ok, err := t.link(l, key, false, moved, sealed)
	if !ok {
		c.arena.Uncharge(l.charged)
	}
	return err
}

// DropData removes everything that the table has, in memory and in the map. Merges,
// sweeps and space collection may still come to it: for them it has no leaves from
// here on. REQUIRES: nobody reads or writes the table any more.
func (c *Cache) DropData(ctx context.Context, t *Table) error {
	c.shortMu.Lock() // nobody rewrites its entries
	defer c.shortMu.Unlock()
	t.mu.Lock()
	t.gone = true
	t.mu.Unlock()
	for d := t.directory(); d.Len() > 0; d = t.directory() { // again: one may have been split
		d.Ascend(func(it dirItem) bool {
			t.kill(it.leaf)
			return true
		})
	}
	return c.dropEntries(ctx, t.ID)
}

// kill ends a leaf of a table that is dropped, with all that it holds.
func (t *Table) kill(l *Leaf) {
	c := t.cache
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return
	}
	if b := l.page.Block(); b != nil {
		c.arena.Free(b)
	}
	for _, b := range l.mem {
		if b != nil {
			c.arena.Free(b)
		}
	}
	l.page, l.mem = versionchain.Page{}, nil
	t.mu.Lock()
	t.moved.Add(1)
	t.removeLocked(l)
	t.mu.Unlock()
	l.die(c)
}

// dropEntries deletes the table's entries from the leaf map.
func (c *Cache) dropEntries(ctx context.Context, id base.TableID) error {
	w := c.getWorker()
	defer c.putWorker(w)
	at := []byte{}
	for {
		en, found, _, high, err := c.space.Lookup(id, at)
		if err != nil {
			return err
		}
		if found {
			high = en.High
			if err := c.reserve(ctx, w, 0, 1); err != nil {
				c.space.ReleaseEntry(&en)
				return err
			}
			e := c.space.BeginEdit()
			for i := range en.Frames {
				e.Refs(en.Frames[i].Run, -1)
			}
			e.Delete(id, en.Low)
			w.end(e)
			c.unreserve(w)
			c.space.ReleaseEntry(&en)
		}
		if high == nil {
			return nil
		}
		at = high
	}
}
