package recordcache

import (
	"bytes"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// fill takes the next view.
func (it *Iter) fill() error {
	it.drop()
	low, high, err := it.view()
	if err != nil {
		return err
	}
	if it.reverse {
		it.more = len(low) > 0 && bytes.Compare(low, it.from) > 0
		it.bound = low
	} else {
		it.more = high != nil && (it.to == nil || bytes.Compare(high, it.to) < 0)
		it.bound = high
	}
	if it.reverse {
		slices.Reverse(it.rows)
	}
	return nil
}

// view captures the leaf, the map entry or the hole at the bound.
func (it *Iter) view() (low, high []byte, err error) {
	for {
		version := it.t.version.Load() // before the directory: never newer than it
		l, edge := it.present(it.t.directory())
		if l != nil {
			low, high, list := l.low, l.high, l.list
			held, err := it.capture(l, high) // unlocks
			if err == nil && list != nil {
				err = it.open(list, low, high)
			}
			held.release()
			return low, high, err
		}
		if it.t.version.Load() != version {
			continue
		}
		return it.gapView(edge)
	}
}

// present returns the leaf at the bound, its lock held shared; or nil, and the
// fence of the nearest present leaf in the direction of the walk.
func (it *Iter) present(d *directory) (*Leaf, []byte) {
	if it.reverse {
		return it.presentBelow(d)
	}
	var edge []byte
	if p := floor(d, it.bound); p != nil {
		p.mu.RLock()
		if p.covers(it.bound) {
			return p, nil
		}
		if !p.dead && bytes.Compare(p.low, it.bound) > 0 {
			edge = p.low
		}
		p.mu.RUnlock()
	}
	if n := above(d, it.bound); n != nil {
		n.mu.RLock()
		if !n.dead && (edge == nil || bytes.Compare(n.low, edge) < 0) {
			edge = n.low
		}
		n.mu.RUnlock()
	}
	return nil, edge
}

func (it *Iter) presentBelow(d *directory) (*Leaf, []byte) {
	at := it.bound
	for {
		p := below(d, at)
		if p == nil {
			return nil, nil
		}
		p.mu.RLock()
		if !p.dead && (it.bound == nil || bytes.Compare(p.low, it.bound) < 0) {
			if p.high == nil || (it.bound != nil && bytes.Compare(p.high, it.bound) >= 0) {
				return p, nil
			}
			edge := p.high
			p.mu.RUnlock()
			return nil, edge
		}
		// Dead, or moved right past the bound: the leaf before it counts.
		p.mu.RUnlock()
		at = dirItemBefore(d, at)
		if at == nil {
			return nil, nil
		}
	}
}

// dirItemBefore returns the low of the item that below(d, at) found, so that the
// search goes on below it.
func dirItemBefore(d *directory, at []byte) []byte {
	var low []byte
	visit := func(x dirItem) bool {
		if at != nil && x.low == string(at) {
			return true
		}
		low = []byte(x.low)
		return false
	}
	if at == nil {
		d.Descend(visit)
	} else {
		d.DescendLessOrEqual(itemAt(at, nil), visit)
	}
	if len(low) == 0 {
		return nil
	}
	return low
}

// capture copies what the reader sees of the resident chains. REQUIRES: l.mu is
// held shared; it is released.
func (it *Iter) capture(l *Leaf, high []byte) (held runHold, err error) {
	c := it.t.cache
	l.touch()
	i, n := 0, l.page.Len()
	if it.reverse {
		if it.bound != nil {
			n, _ = l.page.Find(it.bound, int(l.prefix))
		}
		if bytes.Compare(it.from, l.low) > 0 { // keys of other leaves have other prefixes
			i, _ = l.page.Find(it.from, int(l.prefix))
		}
	} else {
		i, _ = l.page.Find(it.bound, int(l.prefix))
		if it.to != nil && (high == nil || bytes.Compare(it.to, high) < 0) {
			n, _ = l.page.Find(it.to, int(l.prefix))
		}
	}
	chilled := false
	for ; i < n; i++ {
		f, err := l.page.Visible(i, it.r)
		if err != nil {
			l.mu.RUnlock()
			it.unpin()
			return held, err
		}
		if f.Off == 0 {
			continue
		}
		d := deltaRow{ord: f.Ver.Order(f.TS), kind: f.Ver.Kind()}
		d.key = it.put(l.page.Key(i))
		switch {
		case f.Ver.Flags&versionchain.FlagChilled != 0:
			d.lsn, d.rowLen = l.page.Chilled(f.Off)
			c.log.Pin(c.log.SegmentOf(d.lsn))
			chilled = true
		case d.kind == base.KindValue:
			d.val = it.put(l.page.Value(f.Off, &f.Ver))
		}
		it.rows = append(it.rows, d)
	}
	if l.list != nil {
		held = c.acquire(l.list)
	}
	l.mu.RUnlock()
	if chilled {
		err = it.thaw()
		it.unpin()
	}
	return held, err
}

// thaw reads back the chilled rows of the view. REQUIRES: their segments are pinned.
func (it *Iter) thaw() (err error) {
	for i := range it.rows {
		d := &it.rows[i]
		if d.lsn == 0 {
			continue
		}
		start := len(it.buf)
		key := bytes.Clone(it.buf[d.key[0]:d.key[1]])
		if it.buf, err = it.t.cache.thaw(d.lsn, d.rowLen, it.sc, it.buf, key); err != nil {
			return err
		}
		d.val = [2]int{start, len(it.buf)}
	}
	return nil
}

// unpin gives back the log segments of the chilled rows captured so far.
func (it *Iter) unpin() {
	log := it.t.cache.log
	for i := range it.rows {
		if d := &it.rows[i]; d.lsn != 0 {
			log.Unpin(log.SegmentOf(d.lsn))
		}
	}
}

func (it *Iter) put(b []byte) [2]int {
	n := len(it.buf)
	it.buf = append(it.buf, b...)
	return [2]int{n, len(it.buf)}
}

// gapView takes the view of a gap from the leaf map. edge, the fence of the
// nearest present leaf, was taken before the map is read: what leaves memory in
// between shows in the map, and what is beyond edge is for the next view.
func (it *Iter) gapView(edge []byte) (low, high []byte, err error) {
	c := it.t.cache
	if it.walked++; it.walk == nil || it.walked%walkViews == 0 {
		it.closeWalk()
		it.walk = c.space.NewWalk(it.t.ID)
	}
	x, err := c.lookup(func() (tablespaceEntry, bool, []byte, []byte, error) {
		if it.reverse {
			return it.walk.LookupBefore(it.bound)
		}
		return it.walk.Lookup(it.bound)
	})
	if err != nil {
		return nil, nil, err
	}
	defer c.space.ReleaseEntry(&x.en)
	low, high = x.low, x.high
	if edge != nil {
		if it.reverse && bytes.Compare(edge, low) > 0 {
			low = edge
		}
		if !it.reverse && (high == nil || bytes.Compare(edge, high) < 0) {
			high = edge
		}
	}
	if x.list == nil {
		return low, high, nil
	}
	return low, high, it.open(x.list, low, high)
}

// open reads the frames of the view and places each source at the bound,
// clipped to the fences.
func (it *Iter) open(list *frameList, low, high []byte) error {
	c := it.t.cache
	for i := range list.frames {
		f := &list.frames[i]
		if !f.within(low, high) || (it.to != nil && !f.within(low, it.to)) {
			continue
		}
		if f.out != nil && f.out != it.r.Self {
			st, ts := f.out.Status()
			if st != versionchain.Committed || ts > it.r.Snapshot {
				continue
			}
		}
		if it.nsrc == len(it.srcs) {
			it.srcs = append(it.srcs, source{})
		}
		s := &it.srcs[it.nsrc]
		s.lazy, s.spent = f.Large && f.First != nil, false
		if s.lazy {
			if !it.inView(f.First, low, high) {
				continue
			}
			if s.run = c.space.Find(f.Run); s.run == nil || !s.run.Acquire() {
				s.run = nil
				return tablespace.ErrRunNotFound
			}
			s.f, s.ok = *f, true
			s.row = versionchain.Row{Key: f.First}
			it.nsrc++
			it.large = true
			continue
		}
		b, err := c.space.ReadFrame(f.Addr, s.bytes[:0])
		if err != nil {
			return err
		}
		s.bytes, s.f, s.ok = b, *f, false
		if s.fr, err = versionchain.ParseFrame(b); err != nil {
			return err
		}
		it.nsrc++
		it.place(s, low, high)
		it.advance(s)
	}
	return nil
}

// inView reports whether key lies in what remains of the view.
func (it *Iter) inView(key, low, high []byte) bool {
	if !between(key, low, high) || !between(key, it.from, it.to) {
		return false
	}
	if it.reverse {
		return it.bound == nil || bytes.Compare(key, it.bound) < 0
	}
	return bytes.Compare(key, it.bound) >= 0
}

// place puts the source before its first row of the view and bounds it.
func (it *Iter) place(s *source, low, high []byte) {
	if it.reverse {
		s.i = s.fr.Len()
		if it.bound != nil {
			s.i, _ = s.fr.Search(it.bound)
		}
		s.low = low
		if bytes.Compare(it.from, low) > 0 {
			s.low = it.from
		}
		return
	}
	s.i, _ = s.fr.Search(it.bound)
	s.end = s.fr.Len()
	if it.to != nil && (high == nil || bytes.Compare(it.to, high) < 0) {
		high = it.to
	}
	if high != nil {
		s.end, _ = s.fr.Search(high)
	}
}
