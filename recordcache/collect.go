package recordcache

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Span is a key range [Low, High); nil High is the end of the table.
type Span struct{ Low, High []byte }

// Collect rewrites the leaves of a span so that no committed frame of them is in a
// run of victims any more. It takes all committed frames of a leaf, so that what
// they supersede of each other goes, too, and lists the result in the edit that
// takes the old ones off: the last such edit leaves the run without references,
// and the flush that covers it removes the file (L10). Who reads at an older
// snapshot keeps its versions, in the new frames; who reads at the moment keeps
// the old file open (P4). Owners without outcome are left alone.
//
// IsNoMemory: wait and call again. REQUIRES: no lock is held.
func (c *Cache) Collect(ctx context.Context, t *Table, at Span, victims map[base.RunID]bool) error {
	for key := at.Low; ; {
		next, err := c.collectLeaf(ctx, t, key, victims)
		if errors.Is(err, base.ErrTableNotFound) {
			return nil // it was dropped meanwhile
		}
		if err != nil || next == nil || (at.High != nil && bytes.Compare(next, at.High) >= 0) {
			return err
		}
		key = next
	}
}

// maxCollect bounds how often one leaf is rewritten in one call: once for all its
// rows as a rule, and once for each large value.
const maxCollect = 64

// collectLeaf is Collect for the leaf at key. It returns where the leaf ends.
func (c *Cache) collectLeaf(ctx context.Context, t *Table, key []byte, victims map[base.RunID]bool) (next []byte, err error) {
	var mine *Leaf // made present here: it goes back to the gap
	defer func() {
		if mine != nil {
			c.Collapse(mine)
		}
	}()
	for try := range maxCollect {
		l := t.find(key)
		if l == nil {
			if err := t.installShort(key); err != nil {
				return nil, err
			}
			if l = t.find(key); l == nil {
				continue // the map has changed: ask again
			}
			mine = l
		}
		if try == 0 {
			// No merge may ever come to a leaf that nobody writes any more.
			if err := c.dropSuperseded(ctx, l, 1); err != nil {
				return nil, err
			}
		}
		done, high, err := c.collectOnce(ctx, l, key, victims)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil || done {
			return high, err
		}
		next = high
	}
	return next, nil
}

// collectOnce rewrites what one merge of the leaf can take; done is true when there
// was nothing left. It returns where the leaf ends.
func (c *Cache) collectOnce(ctx context.Context, l *Leaf, key []byte, victims map[base.RunID]bool) (done bool, high []byte, err error) {
	w := c.getWorker()
	defer c.putWorker(w)
	m, err := c.readForCollect(w, l, key, victims)
	if err != nil || len(m.groups) == 0 {
		if m != nil {
			high = m.high
		}
		return true, high, err
	}
	return false, m.high, c.collectFrames(ctx, w, l, m)
}

// collectFrames replaces what m picked of the leaf, if the leaf still lists it.
func (c *Cache) collectFrames(ctx context.Context, w *worker, l *Leaf, m *merging) error {
	h := c.horizon()
	g := &m.groups[0]
	rules := mergeRules{replayed: c.Checkpoint()}
	rows := mergeRows(w, m, g, h, rules)
	g.pick = append(g.pick, m.deadLarge(g, rows, h)...)
	if len(g.pick) == len(m.list.frames) {
		rules.complete = true
		rows = mergeRows(w, m, g, h, rules)
	}
	size := targetFrame
	if l.resident() || len(g.pick) < len(m.list.frames) {
		size = mergedFrame // it is not going to be cut into leaves
	}
	g.rows, g.pieces = rows, cut(rows, evenly(rows, size))
	if err := c.reserve(ctx, w, m.total+len(g.pieces)*(24<<10), 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || !bytes.Equal(l.low, m.low) || !bytes.Equal(l.high, m.high) || !l.lists(m) {
		return nil // changed meanwhile
	}
	c.Stats.CollectedBytes.Add(uint64(m.total))
	return l.replace(c, w, m)
}

// errMoved is returned for a leaf that does not cover the key any more.
var errMoved = errors.New("saker: leaf has moved")

// readForCollect picks and reads committed frames; it picks nothing when no
// victim is among those of the leaf.
func (c *Cache) readForCollect(w *worker, l *Leaf, key []byte, victims map[base.RunID]bool) (*merging, error) {
	m := &merging{}
	l.mu.RLock()
	m.list, m.low, m.high = l.list, l.low, l.high
	ok := l.covers(key)
	var held runHold
	if ok && l.list != nil {
		held = c.acquire(m.list)
	}
	l.mu.RUnlock()
	defer held.release()
	if !ok {
		return nil, errMoved
	}
	if m.list == nil {
		return m, nil
	}
	small, large := m.list.pickVictims(victims)
	g := group{pick: small}
	if small == nil {
		g.pick = large
	}
	if len(g.pick) == 0 {
		return m, nil
	}
	var err error
	g.ins, m.total, err = c.readAll(w, m.list, g.pick)
	m.groups = []group{g}
	return m, err
}

// pickVictims returns the committed frames to rewrite together, large values
// apart: all of them if a base of the leaf is in a victim or little beside the
// others, else those on top of the bases; none if none of these is in a victim; and the first large value that is in one.
func (fl *frameList) pickVictims(victims map[base.RunID]bool) (small, large []int) {
	bases := basesOf(len(fl.frames), func(i int) (*tablespace.FrameRef, bool) {
		return &fl.frames[i].FrameRef, !fl.frames[i].undecided()
	})
	hit, all, total := false, false, 0
	var size, baseSize int64
	for i := range fl.frames {
		f := &fl.frames[i]
		if f.Large || f.undecided() {
			continue
		}
		size += int64(f.Len)
		if bases[i] {
			baseSize += int64(f.Len)
		}
		hit, all = hit || victims[f.Run], all || (bases[i] && victims[f.Run])
	}
	all = all || worthAll(size, baseSize)
	for _, first := range []bool{true, false} { // victims first: the list may be long
		for i := range fl.frames {
			f := &fl.frames[i]
			victim := victims[f.Run]
			switch {
			case f.undecided() || victim != first:
			case f.Large:
				if victim && large == nil {
					large = []int{i}
				}
			case hit && (all || !bases[i]) && (total < maxMerge || len(small) == 0):
				small = append(small, i)
				total += int(f.Len)
			}
		}
	}
	return small, large
}

// deadLarge returns the large values of the list that rows hide from every
// reader: whatever is in rows is newer than memory has it, or as new. Whether their
// owner rolled them back does not matter then.
func (m *merging) deadLarge(g *group, rows []versionchain.Row, h versionchain.Horizon) (dead []int) {
	for i := range m.list.frames {
		f := &m.list.frames[i]
		ts, ok := f.committedTS()
		if !ok || !f.Large || f.First == nil || slices.Contains(g.pick, i) {
			continue
		}
		if newer, ok := nextNewer(rows, f.First, ts, f.Leave); ok && !h.Needs(ts, newer) {
			dead = append(dead, i)
		}
	}
	return dead
}

// nextNewer returns the timestamp of the oldest of rows, locks apart, that is of key and
// newer than ts; or as old, and of a greater leave number: the same transaction wrote it
// later.
func nextNewer(rows []versionchain.Row, key []byte, ts base.CommitTS, leave base.Leave) (newer base.CommitTS, ok bool) {
	for i := range rows {
		r := &rows[i]
		if r.Kind != base.KindLock && (r.TS > ts || r.TS == ts && r.Leave > leave) && bytes.Equal(r.Key, key) {
			newer, ok = r.TS, true // rows of a key come newest first
		}
	}
	return newer, ok
}

// evenly returns the size of pieces of about size bytes that leave no small rest.
func evenly(rows []versionchain.Row, size int) int {
	total := 0
	for i := range rows {
		total += len(rows[i].Key) + len(rows[i].Value) + 12
	}
	return total/max(1, total/size) + 1
}

// resident reports whether the leaf has rows in memory.
func (l *Leaf) resident() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.page.Len() > 0
}

// inside reports whether all keys of a frame are known to be within the fences.
func inside(f *tablespace.FrameRef, low, high []byte) bool {
	return f.First == nil ||
		(bytes.Compare(f.First, low) >= 0 && (high == nil || bytes.Compare(f.Last, high) < 0))
}
