package recordcache

import (
	"bytes"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Changed reports whether another transaction than r's own has changed anything in
// [from, to) after r's snapshot: whether there is a value or a tombstone with a
// timestamp above it, committed or still committing (S4). A nil to is the end of
// the table. Whoever has no timestamp when its version is looked at does not count.
// With only, neither do keys for which it says no; it is called under a leaf lock, and
// must neither block nor keep the key.
//
// Nothing that it looks for can have gone: of each record the newest committed
// version stays, in memory or in a frame (P5), and a tombstone stays while a
// snapshot is older than it. REQUIRES: r's snapshot is registered (S1), no lock is
// held. No lock or pin outlives the call, and no record memory is needed (M8).
func (t *Table) Changed(r *versionchain.Reader, sc *Scratch, from, to []byte, only func(key []byte) bool) (bool, error) {
	x := change{t: t, r: r, sc: sc, to: to, point: isPoint(from, to), only: only}
	defer x.close()
	if x.point {
		x.hash = base.Hash(from)
	}
	for at := from; ; {
		changed, high, err := x.view(at)
		if changed || err != nil {
			return changed, err
		}
		if x.point || high == nil || (to != nil && bytes.Compare(high, to) >= 0) {
			return false, nil
		}
		at = high
	}
}

// isPoint reports whether [from, to) holds one key only, from.
func isPoint(from, to []byte) bool {
	n := len(from)
	return len(to) == n+1 && to[n] == 0 && bytes.Equal(to[:n], from)
}

// change is one walk of Changed, view by view as a scan.
type change struct {
	t     *Table
	r     *versionchain.Reader
	sc    *Scratch
	to    []byte
	point bool
	hash  uint64 // of the key, for a point
	only  func(key []byte) bool

	it     Iter // finds the neighbours of a gap
	walk   *tablespace.Walk
	walked int
}

func (x *change) close() {
	if x.walk != nil {
		x.walk.Close()
	}
	x.sc.trim()
}

// view looks at the leaf, the map entry or the hole at the key at, and returns
// where that ends.
func (x *change) view(at []byte) (changed bool, high []byte, err error) {
	t := x.t
	if l := t.guess(at); l != nil {
		l.mu.RLock()
		if l.covers(at) {
			return x.leaf(l, at)
		}
		l.mu.RUnlock()
	}
	for {
		l, version := t.search(at)
		if l != nil {
			l.mu.RLock()
			if l.covers(at) {
				return x.leaf(l, at)
			}
			l.mu.RUnlock()
		}
		if t.version.Load() != version {
			continue
		}
		if x.point {
			return x.gap(at, nil)
		}
		x.it.t, x.it.bound = t, at
		if l, edge := x.it.present(t.directory()); l != nil {
			return x.leaf(l, at)
		} else if t.version.Load() == version {
			return x.gap(at, edge)
		}
	}
}

// leaf looks at the chains, and then at the frames that may have something newer
// than the snapshot, both as of one moment (P4). REQUIRES: l.mu is held shared; it
// is released.
func (x *change) leaf(l *Leaf, at []byte) (changed bool, high []byte, err error) {
	known := false
	high = l.high
	end := x.end(high)
	i, exact := l.page.Find(at, int(l.prefix))
	if x.point {
		if exact {
			changed, known, err = l.page.Changed(i, x.r)
		}
	} else {
		n := l.page.Len()
		if end != nil && (high == nil || bytes.Compare(end, high) < 0) {
			n, _ = l.page.Find(end, int(l.prefix))
		}
		for ; i < n && !changed && err == nil; i++ {
			changed, _, err = l.page.Changed(i, x.r)
			changed = changed && x.counts(l.page.Key(i))
		}
	}
	list := l.list
	if changed || known || err != nil || list == nil || !x.mustRead(list, at, end) {
		l.mu.RUnlock()
		return changed, high, err
	}
	held := x.t.cache.acquire(list)
	l.mu.RUnlock()
	defer held.release()
	changed, err = x.frames(list, at, end)
	return changed, high, err
}

// counts reports whether a change of key is one.
func (x *change) counts(key []byte) bool { return x.only == nil || x.only(key) }

// end returns where what is looked at ends, within a view that ends at high.
func (x *change) end(high []byte) []byte {
	if x.to != nil && (high == nil || bytes.Compare(x.to, high) < 0) {
		return x.to
	}
	return high
}

// gap asks the leaf map for what no present leaf covers; edge is the fence of the
// next one, taken before (see Iter.gapView).
func (x *change) gap(at, edge []byte) (changed bool, high []byte, err error) {
	c := x.t.cache
	en, err := c.lookup(func() (tablespaceEntry, bool, []byte, []byte, error) {
		if x.point {
			return c.space.Lookup(x.t.ID, at)
		}
		if x.walked++; x.walk == nil || x.walked%walkViews == 0 {
			if x.walk != nil {
				x.walk.Close()
			}
			x.walk = c.space.NewWalk(x.t.ID)
		}
		return x.walk.Lookup(at)
	})
	if err != nil {
		return false, nil, err
	}
	defer c.space.ReleaseEntry(&en.en)
	if high = en.high; edge != nil && (high == nil || bytes.Compare(edge, high) < 0) {
		high = edge
	}
	if en.list == nil {
		return false, high, nil
	}
	changed, err = x.frames(en.list, at, x.end(high))
	return changed, high, err
}

// mustRead reports whether some frame of the list may have a change in [at, end).
func (x *change) mustRead(list *frameList, at, end []byte) bool {
	for i := range list.frames {
		if x.mayHold(&list.frames[i], at, end) {
			return true
		}
	}
	return false
}

// mayHold reports whether the frame may have a change in [at, end).
func (x *change) mayHold(f *frame, at, end []byte) bool {
	switch f.out {
	case nil:
		if f.Newest <= x.r.Snapshot {
			return false
		}
	case x.r.Self:
		return false
	default:
		st, ts := f.out.Status()
		if st == versionchain.Aborted || ts <= x.r.Snapshot { // who is active has none
			return false
		}
	}
	if x.point {
		return f.holds(at, x.hash)
	}
	return f.within(at, end)
}

// frames reads the frames that may have a change in [at, end). REQUIRES: their runs
// are held.
func (x *change) frames(list *frameList, at, end []byte) (bool, error) {
	for i := range list.frames {
		f := &list.frames[i]
		if !x.mayHold(f, at, end) {
			continue
		}
		if f.Large && f.First != nil && (f.out == nil || len(f.out.Dead()) == 0) {
			if x.counts(f.First) {
				return true, nil // its only key is First, its timestamp known
			}
			continue
		}
		b, err := x.t.cache.space.ReadFrame(f.Addr, x.sc.frame[:0])
		x.sc.frame = b
		if err != nil {
			return false, err
		}
		changed, err := x.inFrame(f, b, at, end)
		if changed || err != nil {
			return changed, err
		}
	}
	return false, nil
}

// inFrame looks for a change in [at, end) among the rows of a frame.
func (x *change) inFrame(f *frame, b, at, end []byte) (bool, error) {
	fr, err := versionchain.ParseFrame(b)
	if err != nil {
		return false, err
	}
	row := &x.sc.row
	for i, _ := fr.Search(at); i < fr.Len(); i++ {
		fr.Row(i, row)
		switch {
		case x.point && !bytes.Equal(row.Key, at), end != nil && bytes.Compare(row.Key, end) >= 0:
			return false, nil
		case row.Kind == base.KindLock:
		case f.out == nil && row.TS > x.r.Snapshot, f.out != nil && x.r.Changed(f.out, row.Epoch):
			if x.counts(row.Key) {
				return true, nil
			}
		}
	}
	return false, nil
}
