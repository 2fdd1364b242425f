package tablespace

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// found is where a search ended: a pending entry, else the iterator's row.
type found struct {
	ok      bool
	pending *pendingEntry
}

// floor finds the entry with the greatest Low ≤ key, or < key if below is set;
// a nil key with below means the last of the table.
func (v *view) floor(table base.TableID, key []byte, below bool) (found, error) {
	v.on = false
	pivot := pendingEntry{table: table, low: key}
	v.key = entryKey(v.key[:0], table, key)
	switch {
	case !below:
		v.key = append(v.key, 0)
	case key == nil:
		pivot.table++ // its entries are not of table; 0 after the last, see below
		v.key = append(v.key[:entryKeyPrefix], 0)
		for i := entryKeyPrefix - 1; i >= 0; i-- { // successor of the prefix
			v.key[i]++
			if v.key[i] != 0 {
				break
			}
		}
		v.key = v.key[:entryKeyPrefix]
	}
	row, ok := v.rowLow(v.it.SeekLT(v.key), table)
	var f found
	visit := func(p *pendingEntry) bool {
		if p.table != table {
			return p.table > table // the pivot's own table
		}
		if below && key != nil && bytes.Equal(p.low, key) {
			return true
		}
		cmp := 1
		if ok {
			cmp = bytes.Compare(p.low, row)
		}
		switch {
		case cmp < 0:
			return false
		case !p.deleted:
			f = found{ok: true, pending: p}
			return false
		case cmp == 0:
			row, ok = v.rowLow(v.it.Prev(), table)
		}
		return true
	}
	if v.tree.Len() > 0 {
		if pivot.table < table {
			v.tree.Descend(visit)
		} else {
			v.tree.DescendLessOrEqual(&pivot, visit)
		}
	}
	// An iterator that failed stands nowhere: what was found in the overlay may
	// not be the nearest.
	if err := v.failed(); err != nil || f.ok {
		return f, err
	}
	return found{ok: ok}, nil
}

// ceiling finds the lowest Low > key, or ≥ key if from is set; nil if there is none.
func (v *view) ceiling(table base.TableID, key []byte, from bool) ([]byte, error) {
	v.on = false
	v.key = entryKey(v.key[:0], table, key)
	if !from {
		v.key = append(v.key, 0)
	}
	row, ok := v.rowLow(v.seekGE(table), table)
	var low []byte
	if v.tree.Len() > 0 {
		v.tree.AscendGreaterOrEqual(&pendingEntry{table: table, low: key}, func(p *pendingEntry) bool {
			if p.table != table || (v.limit != nil && bytes.Compare(p.low, v.limit) >= 0) {
				return false
			}
			if !from && bytes.Equal(p.low, key) {
				return true
			}
			cmp := -1
			if ok {
				cmp = bytes.Compare(p.low, row)
			}
			switch {
			case cmp > 0:
				return false
			case !p.deleted:
				// Whoever made the entry may have written the empty key as nil.
				if low = p.low; low == nil {
					low = []byte{}
				}
				return false
			case cmp == 0:
				row, ok = v.rowLow(v.next(), table)
			}
			return true
		})
	}
	if low == nil && ok {
		low = bytes.Clone(row)
		if low == nil {
			low = []byte{}
		}
	}
	return low, v.failed()
}

// entry returns what a search found.
func (v *view) entry(f found) (Entry, error) {
	if f.pending != nil {
		return f.pending.en, nil
	}
	key := v.it.Key()
	value, err := v.it.ValueAndErr()
	if err != nil {
		return Entry{}, v.s.mapError("read leaf map", err)
	}
	buf := make([]byte, 0, len(key)+len(value))
	buf = append(append(buf, key...), value...)
	en, err := decodeEntry(buf[:len(key):len(key)], buf[len(key):])
	if err == nil {
		v.low, v.high, v.on = en.Low, en.High, true
	}
	return en, err
}

// covers reports whether the entry covers the key, or what is just below it.
func covers(en *Entry, key []byte, below bool) bool {
	if en.High == nil {
		return true
	}
	if below {
		return key != nil && bytes.Compare(key, en.High) <= 0
	}
	return bytes.Compare(key, en.High) < 0
}

// seekGE positions the iterator at v.key or after it, but before v.limit if that
// is set: what was deleted beyond it is not waded through.
func (v *view) seekGE(table base.TableID) bool {
	if v.limit == nil {
		return v.it.SeekGE(v.key)
	}
	v.end = entryKey(v.end[:0], table, v.limit)
	return v.it.SeekGEWithLimit(v.key, v.end) == pebble.IterValid
}

func (v *view) next() bool {
	if v.limit == nil {
		return v.it.Next()
	}
	return v.it.NextWithLimit(v.end) == pebble.IterValid
}

// find returns the entry at key, or just below it, or the hole around it.
func (v *view) find(table base.TableID, key []byte, below bool) (en Entry, ok bool, holeLow, holeHigh []byte, err error) {
	if en, ok, err := v.beside(table, key, below); ok || err != nil {
		return en, ok, nil, nil, err
	}
	f, err := v.floor(table, key, below)
	if err != nil {
		return Entry{}, false, nil, nil, err
	}
	if f.ok {
		if en, err = v.entry(f); err != nil {
			return Entry{}, false, nil, nil, err
		}
		if covers(&en, key, below) {
			return en, true, nil, nil, nil
		}
		holeLow = en.High
	}
	if key != nil || !below {
		holeHigh, err = v.ceiling(table, key, below)
	}
	return Entry{}, false, holeLow, holeHigh, err
}

// beside tries the neighbour of the entry that the last lookup found: a scan
// steps instead of seeking. It need not find what is there.
func (v *view) beside(table base.TableID, key []byte, below bool) (Entry, bool, error) {
	if !v.on || key == nil {
		return Entry{}, false, nil
	}
	if below {
		if !bytes.Equal(key, v.low) || v.tree.Len() > 0 {
			return Entry{}, false, nil
		}
	} else if v.high == nil || !bytes.Equal(key, v.high) {
		return Entry{}, false, nil
	}
	v.on = false
	var ok bool
	if below {
		ok = v.it.Prev()
	} else {
		ok = v.it.Next()
	}
	row, ok := v.rowLow(ok, table)
	if !ok || !below && !bytes.Equal(row, key) {
		return Entry{}, false, v.failed()
	}
	if v.tree.Len() > 0 {
		if _, shadowed := v.tree.Get(&pendingEntry{table: table, low: key}); shadowed {
			return Entry{}, false, nil
		}
	}
	en, err := v.entry(found{ok: true})
	if err != nil || !covers(&en, key, below) {
		v.on = false
		return Entry{}, false, err
	}
	return en, true, nil
}

// lookup is find at the present moment, with references on the runs.
func (v *view) lookup(table base.TableID, key []byte, below bool) (en Entry, ok bool, holeLow, holeHigh []byte, err error) {
	for {
		if err = v.refresh(); err != nil {
			return
		}
		en, ok, holeLow, holeHigh, err = v.find(table, key, below)
		if err != nil {
			v.on = false
			return
		}
		if !ok || v.s.hold(&en) || v.s.q.pops.Load() == v.pops {
			return
		}
		// A run was unlinked since v's moment, because a later edit removed it
		// from this entry.
		v.s.ReleaseEntry(&en)
	}
}

// hold takes a reference on every run that the entry names and reports whether
// it got all.
func (s *Space) hold(en *Entry) bool {
	if len(en.Frames) == 0 {
		en.held = nil
		return true
	}
	en.held = make([]*Run, len(en.Frames))
	all := true
	s.regMu.RLock()
	for i := range en.Frames {
		if r := s.runs[en.Frames[i].Run]; r != nil && r.Acquire() {
			en.held[i] = r
		} else {
			all = false
		}
	}
	s.regMu.RUnlock()
	return all
}

// ReleaseEntry gives back the references that a lookup took.
func (s *Space) ReleaseEntry(en *Entry) {
	held := en.held
	en.held = nil
	for _, r := range held {
		if r != nil {
			r.Release()
		}
	}
}

// Lookup returns the entry of the table with Low ≤ key < High, or the hole
// around key: nil is an open end. It holds a reference on every run named by
// the entry until ReleaseEntry. REQUIRES: no lock is held, it may read.
func (s *Space) Lookup(table base.TableID, key []byte) (en Entry, found bool, holeLow, holeHigh []byte, err error) {
	v := s.views.get()
	en, found, holeLow, holeHigh, err = v.lookup(table, key, false)
	s.views.put(v)
	return
}

// NextLow returns the Low of the first entry from key on and below limit; found is
// false when there is none. It costs no more for entries that were deleted
// outside that range, which makes it the step of a sweep. REQUIRES: no lock is
// held, it may read; limit is not nil.
func (s *Space) NextLow(table base.TableID, key, limit []byte) (low []byte, found bool, err error) {
	v := s.views.get()
	defer s.views.put(v)
	if err := v.refresh(); err != nil {
		return nil, false, err
	}
	v.limit = limit
	low, err = v.ceiling(table, key, true)
	v.limit = nil
	return low, low != nil && bytes.Compare(low, limit) < 0, err
}

// LookupBefore is Lookup for the keys just below key; nil is the end of the
// table. For scans in reverse.
func (s *Space) LookupBefore(table base.TableID, key []byte) (en Entry, found bool, holeLow, holeHigh []byte, err error) {
	v := s.views.get()
	en, found, holeLow, holeHigh, err = v.lookup(table, key, true)
	s.views.put(v)
	return
}
