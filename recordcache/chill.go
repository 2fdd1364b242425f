package recordcache

import (
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/versionchain"
)

// Chill moves the data of the leaf's live versions to the serial log, one group
// per owner; headers stay and know where. It serves small transactions whose
// rows in the leaf are too few for a frame (§4). Deletions and locks have no
// data and are left alone (hazard 11); so is what is short. It returns the
// bytes freed. REQUIRES: no lock is held.
//
// tracks is told, under the leaf lock, which segment holds a group of which
// owner; the segment is pinned for it.
func (c *Cache) Chill(ctx context.Context, l *Leaf, tracks func(id base.TxnID, first base.LSN, seg uint64)) (int64, error) {
	const room = maxPage + 16<<10
	n := room + 8*seriallog.RecordOverhead()
	if err := c.log.Reserve(ctx, n); err != nil {
		return 0, err
	}
	w := c.getWorker()
	defer c.putWorker(w)
	before := c.arena.Reserved()
	l.mu.Lock()
	used, err := l.chill(c, w, n, tracks)
	if err == nil {
		l.compact(c, w, false)
	}
	l.mu.Unlock()
	c.log.Unreserve(n - used)
	return before - c.arena.Reserved(), err
}

// chill is the critical section of Chill; it returns how many reserved bytes
// its groups used. REQUIRES: l.mu is held exclusively.
func (l *Leaf) chill(c *Cache, w *worker, room int, tracks func(base.TxnID, base.LSN, uint64)) (used int, err error) {
	if l.dead {
		return 0, nil
	}
	defer w.unhold()
	for i := range l.page.Len() {
		for off := l.page.Newest(i); off != 0; {
			v := l.page.Version(off)
			if chillable(&v) {
				if o := c.reg.Get(v.Txn()); o != nil {
					w.hold(o)
				}
			}
			off = v.Prior
		}
	}
	for k := range w.owners {
		or := &w.owners[k]
		if !or.held {
			continue
		}
		body := l.chillBody(w, or.out)
		if len(body) == 0 {
			continue
		}
		if cost := len(body) + seriallog.RecordOverhead(); used+cost > room {
			return used, nil
		} else {
			used += cost
		}
		first, err := c.log.AppendGroupPinned(or.out.ID, body)
		if err != nil {
			return used, err
		}
		tracks(or.out.ID, first, c.log.SegmentOf(first))
		l.chillPoint(c, or.out, first)
		or.out.Depart()
	}
	return used, nil
}

// chillBody encodes the chillable versions of one owner, oldest first within a
// record (P6).
func (l *Leaf) chillBody(w *worker, o *versionchain.Outcome) []byte {
	body := w.body[:0]
	var offs [64]uint16
	for i := range l.page.Len() {
		n := 0
		for off := l.page.Newest(i); off != 0 && n < len(offs); {
			v := l.page.Version(off)
			if chillable(&v) && v.Txn() == o.ID {
				offs[n] = off
				n++
			}
			off = v.Prior
		}
		for n--; n >= 0; n-- {
			row := l.chillRow(i, offs[n])
			body = seriallog.AppendRow(body, &row)
		}
	}
	w.body = body
	return body
}

func (l *Leaf) chillRow(i int, off uint16) seriallog.Row {
	v := l.page.Version(off)
	return seriallog.Row{
		Table: l.table.ID, Kind: v.Kind(), Epoch: v.Epoch, Leave: v.Leave,
		Key: l.page.Key(i), Value: l.page.Value(off, &v),
	}
}

// chillPoint turns the versions that chillBody encoded into headers.
func (l *Leaf) chillPoint(c *Cache, o *versionchain.Outcome, first base.LSN) {
	at := first
	var offs [64]uint16
	for i := range l.page.Len() {
		n := 0
		for off := l.page.Newest(i); off != 0 && n < len(offs); {
			v := l.page.Version(off)
			if chillable(&v) && v.Txn() == o.ID {
				offs[n] = off
				n++
			}
			off = v.Prior
		}
		for n--; n >= 0; n-- {
			row := l.chillRow(i, offs[n])
			size := seriallog.RowSize(&row)
			v := l.page.Version(offs[n])
			l.page.Chill(offs[n], &v, at, size)
			l.chilled = true
			at += base.LSN(size)
			c.Stats.ChilledRecords.Add(1)
		}
	}
}

// chillable reports whether chilling the version frees memory.
func chillable(v *versionchain.Ver) bool {
	return v.Undecided() && !v.Dropped() && v.Kind() == base.KindValue && v.Len >= versionchain.MinChill &&
		v.Flags&(versionchain.FlagChilled|versionchain.FlagClean) == 0
}
