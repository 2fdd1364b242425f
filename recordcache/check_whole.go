package recordcache

import (
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// checkWhole verifies P9 of a leaf whose page is taken to hold all that somebody
// sees: a checkpoint may write what the page has and list nothing else. A row of a
// frame that the page lacks must be one that nobody sees, because the page has a
// newer one of the record. REQUIRES: no lock is held.
func (c *Cache) checkWhole(leaf *Leaf, report func(error)) {
	l, h, held := leaf.whole(c)
	if l == nil {
		return
	}
	defer held.release()
	bad := func(format string, args ...any) { report(l.bad("P9", format, args...)) }
	var b []byte
	var row versionchain.Row
	for i := range l.list.frames {
		f := &l.list.frames[i]
		if f.out != nil {
			bad("frame of owner %v in a leaf whose page is taken for whole", f.Owner)
			continue
		}
		var err error
		if b, err = c.space.ReadFrame(f.Addr, b[:0]); err != nil {
			return // somebody else's finding
		}
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return
		}
		for j := range fr.Len() {
			fr.Row(j, &row)
			if between(row.Key, l.low, l.high) && !l.has(&row, h) {
				bad("key %x at timestamp %d kind %d is in the frame at %d of run %x only", row.Key, row.TS, row.Kind, f.Off, uint64(f.Run))
			}
		}
	}
}

// whole returns what the leaf is at this moment, if its page is taken to hold all,
// who reads now, since whoever begins later sees no more of what the page lacks, and
// the runs, held.
func (l *Leaf) whole(c *Cache) (*Leaf, versionchain.Horizon, runHold) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.dead || l.partial || l.listLen() == 0 {
		return nil, nil, nil
	}
	now := &Leaf{table: l.table, list: l.list}
	now.setFences(l.low, l.high)
	now.page = l.page.CopyTo(make([]byte, maxPage), 0, l.page.Len(), int(l.prefix))
	return now, c.horizon(), c.acquire(l.list)
}

// has reports whether the page has the version, or nobody in h sees it because of
// newer ones that the page has.
func (l *Leaf) has(row *versionchain.Row, h versionchain.Horizon) bool {
	if row.Kind == base.KindLock && row.TS <= h.Oldest() {
		return true // it is no conflict for anybody any more
	}
	i, exact := l.page.Find(row.Key, int(l.prefix))
	if !exact {
		return false
	}
	newer := base.MaxTS
	for off := l.page.Newest(i); off != 0; {
		v := l.page.Version(off)
		off = v.Prior
		if v.Dropped() || v.Undecided() {
			continue
		}
		if v.TS() == row.TS {
			return true
		}
		if v.TS() < row.TS {
			break
		}
		if v.Kind() != base.KindLock {
			newer = v.TS()
		}
	}
	return newer != base.MaxTS && !h.Needs(row.TS, newer)
}
