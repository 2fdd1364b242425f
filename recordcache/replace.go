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
	fences := [][]byte{l.low, l.high}
	if spread {
		fences = l.fencesOf(m.groups[0].pieces)
	}
	firstHigh := fences[1]
	if err := l.encodeGroups(w, m, spread, fences); err != nil {
		return err
	}
	more := max(0, leafCost(l.low, firstHigh)+price-l.charged)
	if !c.arena.Charge(more) {
		return &needError{more}
	}
	l.charged += more
	e := c.space.BeginEdit()
	if m.groups[0].owner == nil {
		e.NeedSync()
	}
	made, err := c.placeAll(make([]frame, 0, len(w.coded)), w, e, l.table)
	if err != nil {
		w.end(e)
		l.settleCharge(c)
		return err
	}
	l.list.dropGone(e)
	for a := range picked {
		e.Refs(a.Run, -1)
	}
	for i := range made {
		made[i].Merged = true
		if spread && i > 0 {
			l.putEntry(e, fences[i], fences[i+1], newList(e.Seq(), made[i:i+1]))
		} else {
			kept = append(kept, made[i])
		}
	}
	nl := newList(e.Seq(), kept)
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
	l.setList(nl, c, l.partial)
	l.settleCharge(c)
	l.assert(c)
	return nil
}

// fencesOf returns the fences of the leaves that the pieces of this one become, each
// piece between two of them; those of the leaf where there is no piece.
func (l *Leaf) fencesOf(pieces [][]versionchain.Row) [][]byte {
	fences := [][]byte{l.low}
	for p := 1; p < len(pieces); p++ {
		fences = append(fences, bytes.Clone(pieces[p][0].Key))
	}
	return append(fences, l.high)
}

// encodeGroups encodes the pieces of all groups, each for a leaf of its own with
// spread, else for the leaf as it is.
func (l *Leaf) encodeGroups(w *worker, m *merging, spread bool, fences [][]byte) error {
	for i := range m.groups {
		g := &m.groups[i]
		image := spread && onePerRecord(g.pieces)
		for p, rows := range g.pieces {
			low, high := l.low, l.high
			if spread {
				low, high = fences[p], fences[p+1]
			}
			if err := w.encode(l.table, g.owner, rows, low, high, image); err != nil {
				return err
			}
		}
	}
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
