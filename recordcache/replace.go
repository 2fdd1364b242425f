package recordcache

import (
	"bytes"

	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// replace lists the merged frames instead of those picked, and keeps what was
// listed later (P8). If all of them are committed and nothing else is in the leaf,
// it is cut into one leaf per piece, of which it keeps the first; the others go
// straight into the gap. errNoMemory, and nothing done, when the list would cost
// more than before and there is no room for it.
func (l *Leaf) replace(c *Cache, w *worker, m *merging) error {
	picked := m.picked()
	var kept []frame
	for i := range l.list.frames {
		if !picked[l.list.frames[i].Addr] {
			kept = append(kept, l.list.frames[i])
		}
	}
	spread := len(m.groups) == 1 && m.groups[0].owner == nil && len(kept) == 0 && l.page.Len() == 0
	price := m.price(kept, spread)
	firstHigh := l.high
	if pieces := m.groups[0].pieces; spread && len(pieces) > 1 {
		firstHigh = bytes.Clone(pieces[1][0].Key)
	}
	more := max(0, leafCost(l.low, firstHigh)+price-l.charged)
	if !c.arena.Charge(more) {
		return &needError{more}
	}
	l.charged += more
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	for a := range picked {
		e.Refs(a.Run, -1)
	}
	var first []frame
	var err error
	if spread {
		first, err = l.sealSpread(c, w, e, m.groups[0].pieces, firstHigh)
	} else {
		first, err = l.sealGroups(c, w, e, m)
	}
	if err != nil {
		w.end(e)
		return err
	}
	nl := newList(e.Seq(), append(kept, first...))
	if len(nl.frames) == 0 {
		e.Delete(l.table.ID, l.low)
		nl = nil
	} else {
		l.putEntry(e, l.low, firstHigh, nl)
	}
	w.end(e)
	m.depart()
	l.mapped = nl != nil
	if !bytes.Equal(firstHigh, l.high) {
		t := l.table
		t.mu.Lock()
		t.sealed.Add(1)
		t.moved.Add(1)
		l.setFences(l.low, firstHigh)
		t.mu.Unlock()
	}
	l.setList(nl, c)
	l.settleCharge(c)
	return nil
}

// picked is the frames that take part in the merge.
func (m *merging) picked() map[tablespace.Addr]bool {
	picked := make(map[tablespace.Addr]bool)
	for i := range m.groups {
		for _, k := range m.groups[i].pick {
			picked[m.list.frames[k].Addr] = true
		}
	}
	return picked
}

// price is what the list costs after the merge.
func (m *merging) price(kept []frame, spread bool) int64 {
	n := listCost(kept)
	for i := range m.groups {
		for p, rows := range m.groups[i].pieces {
			if p == 0 || !spread {
				n += priceOf(rows)
			}
		}
	}
	return n
}

// depart notes that frames of the owners were sealed.
func (m *merging) depart() {
	for i := range m.groups {
		if o := m.groups[i].owner; o != nil {
			o.Depart()
		}
	}
}

// sealGroups seals the pieces of all groups for the leaf as it is.
func (l *Leaf) sealGroups(c *Cache, w *worker, e *tablespace.EditTx, m *merging) (frames []frame, err error) {
	for i := range m.groups {
		g := &m.groups[i]
		if g.owner == nil {
			e.NeedSync()
		}
		for _, rows := range g.pieces {
			f, err := c.seal(w, e, l.table, &ownerRows{out: g.owner}, rows, l.low, l.high, false)
			if err != nil {
				return nil, err
			}
			f.Merged = true
			frames = append(frames, f)
		}
	}
	return frames, nil
}

// sealSpread seals each piece for a leaf of its own and enters all but the first
// into the map.
func (l *Leaf) sealSpread(c *Cache, w *worker, e *tablespace.EditTx, pieces [][]versionchain.Row, firstHigh []byte) (first []frame, err error) {
	e.NeedSync()
	image := onePerRecord(pieces)
	low, high := l.low, firstHigh
	for p, rows := range pieces {
		if p > 0 {
			if low, high = high, l.high; p+1 < len(pieces) {
				high = bytes.Clone(pieces[p+1][0].Key)
			}
		}
		f, err := c.seal(w, e, l.table, &ownerRows{}, rows, low, high, image)
		if err != nil {
			return nil, err
		}
		f.Merged = true
		if p == 0 {
			first = []frame{f}
		} else {
			l.putEntry(e, low, high, newList(e.Seq(), []frame{f}))
		}
	}
	return first, nil
}

func onePerRecord(pieces [][]versionchain.Row) bool {
	for _, rows := range pieces {
		for i := 1; i < len(rows); i++ {
			if bytes.Equal(rows[i].Key, rows[i-1].Key) {
				return false
			}
		}
	}
	return true
}
