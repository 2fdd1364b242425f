package recordcache

import (
	"bytes"

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

// Bounds returns the range that the iterator walks, which its caller must not
// change; valid until the next Reset.
func (it *Iter) Bounds() (from, to []byte) { return it.from, it.to }

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
