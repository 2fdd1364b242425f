package recordcache

import (
	"bytes"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Iter walks the rows of a table that a reader sees, in either direction. It
// takes one view of one leaf at a time (P4), clips frames to the leaf's fences
// and goes on strictly after the last key. No lock or pin outlives a call.
//
// An Iter belongs to one goroutine. Key and Value are valid until the next call.
type Iter struct {
	t        *Table
	r        *versionchain.Reader
	sc       *Scratch
	from, to []byte // bounds of the scan [from, to); nil is open
	reverse  bool

	rows  []deltaRow // visible versions in memory, sorted by key
	buf   []byte     // their bytes
	at    int        // position in rows
	srcs  []source
	nsrc  int
	large bool   // some source is a large value
	bound []byte // where the next view begins: forward included, reverse excluded
	more  bool   // there is a next view

	key, val []byte
	err      error

	walk   *tablespace.Walk // over the leaf map, for gaps
	walked int
}

// walkViews is after how many views of gaps the walk over the leaf map is begun
// anew, so that it pins no old state of the map for long.
const walkViews = 256

// Close releases what the iterator holds; it may be Reset and used again.
func (it *Iter) Close() {
	it.drop()
	it.more = false
	it.closeWalk()
}

func (it *Iter) closeWalk() {
	if it.walk != nil {
		it.walk.Close()
		it.walk = nil
	}
}

// deltaRow is one visible version of the view that was in memory.
type deltaRow struct {
	key, val [2]int // offsets into buf
	ord      base.Order
	kind     base.Kind
	lsn      base.LSN
	rowLen   int
}

// source is one frame of the view.
type source struct {
	f     frame
	low   []byte // reverse: rows below it are not of this view
	end   int    // forward: rows from it on are not of this view
	bytes []byte
	fr    versionchain.Frame
	run   *tablespace.Run // held while lazy
	lazy  bool            // the frame of a large value, of which only the key is known yet
	spent bool            // its large value was delivered: the bytes go at the next step
	i     int             // forward: next row to look at; reverse: one past it
	ok    bool            // row is the current candidate
	row   versionchain.Row
}

// Reset makes it an iterator over [from, to) of t for reader r; the slices are
// copied. The memory of earlier use is kept.
func (it *Iter) Reset(t *Table, r *versionchain.Reader, sc *Scratch, from, to []byte, reverse bool) {
	it.Close()
	it.t, it.r, it.sc, it.reverse = t, r, sc, reverse
	it.from = append(it.from[:0], from...)
	it.to = nil
	if to != nil {
		it.to = append([]byte(nil), to...)
	}
	it.key, it.val, it.err = nil, nil, nil
	it.drop()
	it.more = true
	if reverse {
		it.bound = it.to
	} else {
		it.bound = it.from
	}
}

// drop forgets the current view.
func (it *Iter) drop() {
	for i := range it.nsrc {
		s := &it.srcs[i]
		if s.spent || cap(s.bytes) > maxScratch {
			s.bytes, s.spent = nil, false
		}
		if s.run != nil {
			s.run.Release()
			s.run = nil
		}
	}
	it.rows, it.buf, it.at, it.nsrc, it.large = it.rows[:0], it.buf[:0], 0, 0, false
}

// Key returns the current key.
func (it *Iter) Key() []byte { return it.key }

// Value returns the current value.
func (it *Iter) Value() []byte { return it.val }

// Err returns the error that ended the walk, if any.
func (it *Iter) Err() error { return it.err }

// Next moves to the next row and reports whether there is one.
func (it *Iter) Next() bool {
	for it.err == nil {
		if it.step() {
			return true
		}
		if it.err != nil || !it.more {
			break
		}
		it.err = it.fill()
	}
	it.key, it.val = nil, nil
	return false
}

// step delivers the next row of the view.
func (it *Iter) step() bool {
	if it.large {
		it.letGo()
	}
	if it.nsrc == 1 && it.at >= len(it.rows) {
		return it.stepOne(&it.srcs[0])
	}
	for {
		var key []byte
		if it.at < len(it.rows) {
			d := &it.rows[it.at]
			key = it.buf[d.key[0]:d.key[1]]
		}
		for i := range it.nsrc {
			if s := &it.srcs[i]; s.ok && (key == nil || it.before(s.row.Key, key)) {
				key = s.row.Key
			}
		}
		if key == nil {
			return false
		}
		if it.take(key) {
			return true
		}
	}
}

// stepOne is step for a view that is one frame.
func (it *Iter) stepOne(s *source) bool {
	for s.ok {
		if s.lazy && !it.load(s) {
			continue
		}
		it.key, it.val = s.row.Key, s.row.Value
		kind := s.row.Kind
		it.advance(s)
		if kind == base.KindValue {
			return true
		}
	}
	return false
}

// take picks the newest visible version of key from all parts of the view and
// moves them past it. It reports false for a deleted record.
func (it *Iter) take(key []byte) bool {
	var b best
	if it.at < len(it.rows) {
		d := &it.rows[it.at]
		if bytes.Equal(it.buf[d.key[0]:d.key[1]], key) {
			b = best{have: true, kind: d.kind, ord: d.ord}
			it.val = it.buf[d.val[0]:d.val[1]]
			it.at++
		}
	}
	for i := range it.nsrc {
		s := &it.srcs[i]
		if !s.ok || !bytes.Equal(s.row.Key, key) || (s.lazy && !it.load(s)) {
			continue
		}
		if !b.have || s.row.Newer(b.ord) {
			b = best{have: true, kind: s.row.Kind, ord: s.row.Order}
			it.val = s.row.Value
		}
		it.advance(s)
	}
	it.key = key
	return b.have && b.kind == base.KindValue && it.err == nil
}

// load reads the frame of a large value when its turn has come, so that a view
// of many takes the memory of one (M5). It reports whether the value is visible.
func (it *Iter) load(s *source) bool {
	s.lazy, s.ok = false, false
	key := s.row.Key
	b, err := s.run.ReadFrame(s.f.Addr, s.bytes[:0])
	s.run.Release()
	s.run = nil
	if err == nil {
		s.bytes = b
		s.fr, err = versionchain.ParseFrame(b)
	}
	if err != nil {
		it.err = err
		return false
	}
	for i := range s.fr.Len() {
		s.fr.Row(i, &s.row)
		if bytes.Equal(s.row.Key, key) && s.row.Kind != base.KindLock && s.f.sees(it.r, &s.row) {
			s.ok, s.spent = true, true
			s.i, s.end = 0, 0 // nothing follows it, in either direction
			return true
		}
	}
	s.bytes = nil
	return false
}

// letGo drops the bytes of large values that were delivered.
func (it *Iter) letGo() {
	for i := range it.nsrc {
		if s := &it.srcs[i]; s.spent && !s.ok {
			s.bytes, s.spent = nil, false
		}
	}
}

func (it *Iter) before(a, b []byte) bool {
	if it.reverse {
		return bytes.Compare(a, b) > 0
	}
	return bytes.Compare(a, b) < 0
}

// advance moves a source to the newest visible version of its next record.
func (it *Iter) advance(s *source) {
	had := s.ok
	last := s.row.Key
	s.ok = false
	if it.reverse {
		it.retreat(s)
		return
	}
	for s.i < s.end {
		s.fr.Row(s.i, &s.row)
		s.i++
		if (had && bytes.Equal(s.row.Key, last)) || s.row.Kind == base.KindLock || !s.f.sees(it.r, &s.row) {
			continue
		}
		s.ok = true
		return
	}
}

// retreat is advance in reverse: it goes to the start of the record before and
// from there to its newest visible version.
func (it *Iter) retreat(s *source) {
	for s.i > 0 {
		end := s.i
		first := end - 1
		for first > 0 && bytes.Equal(s.fr.Key(first-1), s.fr.Key(end-1)) {
			first--
		}
		s.i = first
		for j := first; j < end; j++ {
			s.fr.Row(j, &s.row)
			if s.row.Kind == base.KindLock || !s.f.sees(it.r, &s.row) {
				continue
			}
			if bytes.Compare(s.row.Key, s.low) < 0 {
				s.i = 0
				return
			}
			s.ok = true
			return
		}
	}
}

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
	if !chilled {
		return held, nil
	}
	for i := range it.rows {
		d := &it.rows[i]
		if d.lsn == 0 {
			continue
		}
		if err == nil {
			start := len(it.buf)
			key := bytes.Clone(it.buf[d.key[0]:d.key[1]])
			it.buf, err = c.thaw(d.lsn, d.rowLen, it.sc, it.buf, key)
			d.val = [2]int{start, len(it.buf)}
		}
		c.log.Unpin(c.log.SegmentOf(d.lsn))
	}
	return held, err
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
	if bytes.Compare(key, low) < 0 || (high != nil && bytes.Compare(key, high) >= 0) ||
		bytes.Compare(key, it.from) < 0 || (it.to != nil && bytes.Compare(key, it.to) >= 0) {
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
