package recordcache

import (
	"bytes"
	"math"

	"github.com/sakerdb/saker/versionchain"
)

// maxThaw is how many bytes one step brings back from the log; chains with more
// wait for the next step.
const maxThaw = 256 << 10

// thawLeaf reads the data of the leaf's chilled versions before it is locked,
// up to maxThaw bytes, and returns how many: under the lock there is no I/O. Only
// what the step may take counts: who repeats it until nothing is missed would
// otherwise read the same rows for ever.
func (c *Cache) thawLeaf(l *Leaf, w *worker, rq *Request) (total int, err error) {
	limit := maxThaw
	if rq.Patient {
		limit = math.MaxInt
	}
	l.mu.RLock()
	if !l.chilled {
		l.mu.RUnlock()
		return 0, nil
	}
	l.page.Fetch()
	if rq.Action == Backlog {
		l.countOwners(c, w)
		defer w.forgetOwners()
	}
	for i := range l.page.Len() {
		if rq.Only != nil && !l.page.Holds(i, rq.Only.ID, 0) {
			continue
		}
		for off := l.page.Newest(i); off != 0; {
			v := l.page.Version(off)
			if v.Flags&versionchain.FlagChilled != 0 && v.Flags&versionchain.FlagClean == 0 && !v.Dropped() && total < limit && c.wantsData(&v, w, rq) {
				lsn, n := l.page.Chilled(off)
				total += n
				c.log.Pin(c.log.SegmentOf(lsn))
				w.thawed = append(w.thawed, thawedRow{lsn: lsn, len: n, key: bytes.Clone(l.page.Key(i))})
			}
			off = v.Prior
		}
	}
	l.mu.RUnlock()
	for i := range w.owners {
		w.owners[i].n = 0
	}
	for i := range w.thawed {
		tr := &w.thawed[i]
		row, err := c.thawRow(tr.lsn, tr.len, &w.sc, tr.key)
		if err != nil {
			c.unpinThawed(w)
			return 0, err
		}
		tr.value = bytes.Clone(row.Value)
	}
	return total, nil
}

// wantsData reports whether the step needs the data of a chilled version: it does
// not of one that will be chilled again instead of framed, nor does a checkpoint of
// a live one.
func (c *Cache) wantsData(v *versionchain.Ver, w *worker, rq *Request) bool {
	if !v.Undecided() {
		return true
	}
	o := c.reg.Get(v.Txn())
	if rq.Action != Checkpoint {
		return !w.few(o)
	}
	if o == nil {
		return false
	}
	st, _ := o.Status()
	return st == versionchain.Committed
}

func (c *Cache) unpinThawed(w *worker) {
	for i := range w.thawed {
		c.log.Unpin(c.log.SegmentOf(w.thawed[i].lsn))
	}
	clear(w.thawed)
	w.thawed = w.thawed[:0]
}
