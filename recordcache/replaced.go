package recordcache

import (
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Suspect is a leaf that lists a large value which seems to have been replaced by a
// small one, or deleted: as many bytes as its frame has are dead then, and no other
// frame shows it.
type Suspect struct {
	Span
	Seq base.EditSeq // of the entry: while it is the same, the answer is
}

// replacedBy returns the frames, by index, that may hold something newer, which
// everybody sees, of the record whose large value frame i is.
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
		if ts, ok := c.settled(&g.FrameRef); ok && ts > since && ts <= h.Oldest() {
			by = append(by, j)
		}
	}
	return by
}

// suspect reports whether the entry lists such a large value.
func (c *Cache) suspect(en *tablespace.Entry, h versionchain.Horizon) bool {
	at := func(i int) *tablespace.FrameRef { return &en.Frames[i] }
	for i := range en.Frames {
		if en.Frames[i].Large && len(c.replacedBy(len(en.Frames), i, at, h)) > 0 {
			return true
		}
	}
	return false
}

// DropReplaced takes large values off the list of the leaf at key that rows in other
// frames hide from every reader. It reads those frames, and says how many values went.
// IsNoMemory: wait and call again. REQUIRES: no lock is held.
func (c *Cache) DropReplaced(ctx context.Context, t *Table, key []byte) (n int, err error) {
	l := t.find(key)
	if l == nil {
		if err := t.installShort(key); err != nil {
			return 0, err
		}
		if l = t.find(key); l == nil {
			return 0, nil // the map has changed: another time
		}
		defer c.Collapse(l)
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
	dead, err := c.replaced(w, m, h)
	held.release()
	if err != nil || len(dead) == 0 {
		return 0, err
	}
	return len(dead), c.unlist(ctx, w, l, m.list, dead)
}

// replaced returns the large values of m's list that rows of it hide from every reader.
// REQUIRES: the runs are held.
func (c *Cache) replaced(w *worker, m *merging, h versionchain.Horizon) (dead []int, err error) {
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
		return nil, nil
	}
	if g.ins, m.total, err = c.readAll(w, m.list, g.pick); err != nil {
		return nil, err
	}
	return m.deadLarge(&g, mergeRows(w, m, &g, h, mergeRules{replayed: c.Checkpoint()}), h), nil
}
