package recordcache

import (
	"context"
	"errors"
	"sync"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Suspect is a leaf that lists a large value which seems to have been replaced by a
// small one, or deleted: as many bytes as its frame has are dead then, and no other
// frame shows it.
type Suspect struct {
	low []byte
	finding
}

// finding is what the suspicion rests on: the entry, and how many frames of it may have
// replaced how many values. Owners are committed, and snapshots end, without any edit of
// the entry; but that only adds to the number. So while both are the same, so is what
// reading the frames tells.
type finding struct {
	seq   base.EditSeq
	pairs int
}

// acquittals are findings that reading the frames has not borne out, by the hash of table
// and low fence. Whoever has the same hash takes the place: it is looked at again then.
type acquittals struct {
	mu sync.Mutex
	of map[uint64]finding
}

// maxAcquitted is how many leaves are remembered: a megabyte or two.
const maxAcquitted = 1 << 14

func leafHash(t *Table, low []byte) uint64 { return coldKey(t.ID, base.Hash(low)) }

func (a *acquittals) has(leaf uint64, f finding) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of[leaf] == f
}

func (a *acquittals) add(leaf uint64, f finding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil || len(a.of) >= maxAcquitted {
		a.of = map[uint64]finding{}
	}
	a.of[leaf] = f
}

// replacedBy returns the frames, by index, that may hold something newer, which
// everybody sees, of the record whose large value frame i is. Of the same timestamp is
// what the same transaction wrote later, or before.
func (c *Cache) replacedBy(n, i int, at func(int) *tablespace.FrameRef, h versionchain.Horizon) (by []int) {
	f := at(i)
	since, ok := c.settled(f)
	if !ok || !f.Large || f.First == nil {
		return nil
	}
	hash := base.Hash(f.First)
	for j := range n {
		g := frame{FrameRef: *at(j)}
		if g.Large || !g.holds(f.First, hash) {
			continue
		}
		if ts, ok := c.settled(&g.FrameRef); ok && ts >= since && ts <= h.Oldest() {
			by = append(by, j)
		}
	}
	return by
}

// suspect reports whether the entry lists such a large value, and has not been acquitted.
func (c *Cache) suspect(t *Table, en *tablespace.Entry, h versionchain.Horizon) (f finding, ok bool) {
	at := func(i int) *tablespace.FrameRef { return &en.Frames[i] }
	f.seq = en.Seq
	for i := range en.Frames {
		if en.Frames[i].Large {
			f.pairs += len(c.replacedBy(len(en.Frames), i, at, h))
		}
	}
	return f, f.pairs > 0 && !c.acquitted.has(leafHash(t, en.Low), f)
}

// DropReplaced takes large values off the list of a suspect leaf that rows in other
// frames hide from every reader. It reads those frames, and says how many values went.
// If none does, the leaf is acquitted. A frame that cannot be read is left to whoever
// needs it: the others' space is not its hostage.
// IsNoMemory: wait and call again. REQUIRES: no lock is held.
func (c *Cache) DropReplaced(ctx context.Context, t *Table, x *Suspect) (n int, err error) {
	l := t.find(x.low)
	for try := 0; l == nil; try++ {
		err := t.installShort(x.low)
		if errors.Is(err, base.ErrTableNotFound) || try == maxCollect {
			return 0, nil // it was dropped meanwhile; the map changes all the time
		}
		if err != nil {
			return 0, err
		}
		if l = t.find(x.low); l != nil {
			defer c.Collapse(l)
		}
	}
	w := c.getWorker()
	defer c.putWorker(w)
	h := c.horizon()
	l.mu.RLock()
	m := &merging{list: l.list, low: l.low, high: l.high}
	if l.dead || l.list == nil {
		l.mu.RUnlock()
		return 0, nil
	}
	held := c.acquire(m.list)
	l.mu.RUnlock()
	dead, ok := c.replaced(w, m, h)
	held.release()
	if len(dead) > 0 {
		return len(dead), c.unlist(ctx, w, l, m.list, dead)
	}
	if ok {
		c.acquitted.add(leafHash(t, x.low), x.finding)
	}
	return 0, nil
}

// replaced returns the large values of m's list that rows of it hide from every reader;
// ok is false if those rows cannot be read. REQUIRES: the runs are held.
func (c *Cache) replaced(w *worker, m *merging, h versionchain.Horizon) (dead []int, ok bool) {
	frames := m.list.frames
	at := func(i int) *tablespace.FrameRef { return &frames[i].FrameRef }
	read := make([]bool, len(frames))
	for i := range frames {
		for _, j := range c.replacedBy(len(frames), i, at, h) {
			read[j] = true
		}
	}
	g := group{}
	for j, ok := range read {
		if ok {
			g.pick = append(g.pick, j)
		}
	}
	if len(g.pick) == 0 {
		return nil, true
	}
	var err error
	if g.ins, m.total, err = c.readAll(w, m.list, g.pick); err != nil {
		return nil, false
	}
	return m.deadLarge(&g, mergeRows(w, m, &g, h, mergeRules{replayed: c.Checkpoint()}), h), true
}
