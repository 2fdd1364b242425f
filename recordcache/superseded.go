package recordcache

import (
	"cmp"
	"context"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// A large value is a frame of its own. One record may get many, by many
// transactions or by one; no merge rewrites them, so those that nobody needs are
// taken off the list one by one.

// largeFrame is a frame with one large value.
type largeFrame struct {
	i     int // in the list
	ts    base.CommitTS
	leave base.Leave
	epoch base.Epoch // of a live owner's
}

// minRead is how many frames of one record must be in need of being read, to tell
// whether they are needed, before a merge does it.
const minRead = 4

// superseded returns the frames of large values, by index, that no reader needs:
// a newer one of the record hides them from every snapshot, or is of the same live
// owner and the same stretch (P8), or their owner has rolled them back. Frames of
// owners who live or have dead epochs are read for their epochs, one at a time, if a
// record has least of them. REQUIRES: the runs are held.
func (c *Cache) superseded(list *frameList, h versionchain.Horizon, sc *Scratch, least int) (drop []int, err error) {
	byKey := map[string][]int{}
	for i := range list.frames {
		if f := &list.frames[i]; f.Large && f.First != nil {
			byKey[string(f.First)] = append(byKey[string(f.First)], i)
		}
	}
	defer sc.trim()
	for _, is := range byKey {
		if len(is) < 2 {
			continue
		}
		rv := recordValues{live: map[*versionchain.Outcome]*liveValues{}}
		if err := c.sortOut(&rv, list, is, sc, least); err != nil {
			return nil, err
		}
		drop = append(drop, rv.superseded(h)...)
	}
	return drop, nil
}

// recordValues are the large values of one record.
type recordValues struct {
	committed []largeFrame
	live      map[*versionchain.Outcome]*liveValues
	dead      []int
}

// liveValues are those of a live owner, whose live savepoints began with starts.
type liveValues struct {
	starts []base.Epoch
	values []largeFrame
}

// sortOut finds out about the frames at is, all of one record.
func (c *Cache) sortOut(rv *recordValues, list *frameList, is []int, sc *Scratch, least int) error {
	unread := 0
	for _, i := range is {
		if o := list.frames[i].out; o != nil && (o.Active() || len(o.Dead()) > 0) {
			unread++
		}
	}
	for _, i := range is {
		f := &list.frames[i]
		v := largeFrame{i: i, ts: f.Newest, leave: f.Leave}
		if f.out == nil {
			rv.committed = append(rv.committed, v)
			continue
		}
		st, ts := f.out.Status()
		v.ts = ts
		live := st == versionchain.Active
		if !live && st != versionchain.Committed {
			continue // the sweeper's, or soon to be told
		}
		if live && rv.live[f.out] == nil && unread >= least {
			// Before any epoch is asked for: what is rolled back from here on shares
			// its stretch with nothing that stays.
			rv.live[f.out] = &liveValues{starts: c.live(f.out.ID)}
		}
		if live || len(f.out.Dead()) > 0 {
			if unread < least {
				continue
			}
			var err error
			if v.epoch, err = c.epochOf(f, sc); err != nil {
				return err
			}
			if f.out.DeadEpoch(v.epoch) {
				rv.dead = append(rv.dead, i)
				continue
			}
		}
		if live {
			rv.live[f.out].values = append(rv.live[f.out].values, v)
		} else {
			rv.committed = append(rv.committed, v)
		}
	}
	return nil
}

// epochOf reads the epoch of the only row of a frame.
func (c *Cache) epochOf(f *frame, sc *Scratch) (base.Epoch, error) {
	b, err := c.space.ReadFrame(f.Addr, sc.frame[:0])
	sc.frame = b
	if err != nil {
		return 0, err
	}
	fr, err := versionchain.ParseFrame(b)
	if err != nil {
		return 0, err
	}
	fr.Row(0, &sc.row)
	return sc.row.Epoch, nil
}

// superseded returns the indices of the frames that nobody needs. Within one
// transaction the leave number tells which is newer.
func (rv *recordValues) superseded(h versionchain.Horizon) []int {
	drop := rv.dead
	newestFirst := func(a, b largeFrame) int {
		return cmp.Or(cmp.Compare(b.ts, a.ts), cmp.Compare(b.leave, a.leave))
	}
	slices.SortFunc(rv.committed, newestFirst)
	newer := base.MaxTS
	for _, v := range rv.committed {
		if v.ts == newer || !h.Needs(v.ts, newer) {
			drop = append(drop, v.i)
		}
		newer = v.ts
	}
	for _, lv := range rv.live {
		slices.SortFunc(lv.values, newestFirst)
		last := -1
		for _, v := range lv.values {
			if s := stretchOf(lv.starts, v.epoch); s != last {
				last = s
			} else {
				drop = append(drop, v.i)
			}
		}
	}
	return drop
}

// dropSuperseded takes the frames of large values that nobody needs off the leaf's
// list. REQUIRES: no lock is held and nothing is reserved.
func (c *Cache) dropSuperseded(ctx context.Context, l *Leaf, least int) error {
	w := c.getWorker()
	defer c.putWorker(w)
	h := c.horizon()
	l.mu.RLock()
	list := l.list
	if l.dead || l.listLen() < 2 {
		l.mu.RUnlock()
		return nil
	}
	held := c.acquire(list)
	l.mu.RUnlock()
	drop, err := c.superseded(list, h, &w.sc, least)
	held.release()
	if err != nil || len(drop) == 0 {
		return err
	}
	return c.unlist(ctx, w, l, list, drop)
}

// unlist takes frames of the list off the leaf's, those that it lists still. They are
// given by index. REQUIRES: no lock is held and nothing is reserved.
func (c *Cache) unlist(ctx context.Context, w *worker, l *Leaf, list *frameList, drop []int) error {
	if err := c.reserve(ctx, w, 0, 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.list == nil {
		return nil
	}
	gone := make(map[tablespace.Addr]bool, len(drop))
	for _, i := range drop {
		gone[list.frames[i].Addr] = true
	}
	l.dropFrames(c, w, func(f *frame) bool { return gone[f.Addr] })
	return nil
}

// dropFrames takes the frames that drop names off the list, if there are any or the
// entry names runs that are gone. REQUIRES: l.mu is held exclusively, the leaf has a
// list, one edit is reserved.
func (l *Leaf) dropFrames(c *Cache, w *worker, drop func(*frame) bool) {
	if len(l.list.gone) == 0 && !slices.ContainsFunc(l.list.frames, func(f frame) bool { return drop(&f) }) {
		return
	}
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	var frames []frame
	for i := range l.list.frames {
		f := &l.list.frames[i]
		if drop(f) {
			e.Refs(f.Run, -1)
			continue
		}
		frames = append(frames, *f)
	}
	nl := newList(e.Seq(), frames)
	if len(frames) == 0 {
		e.Delete(l.table.ID, l.low)
		nl, l.mapped = nil, false
	} else {
		l.putEntry(e, l.low, l.high, nl)
	}
	w.end(e)
	l.setList(nl, c, l.partial)
	l.settleCharge(c) // it became shorter
	l.assert(c)
}
