package recordcache

import (
	"bytes"
	"context"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// claim is the range of an entry of the leaf map that is being made shorter.
type claim struct{ low, high []byte }

// claimed reports whether key lies in the claim. REQUIRES: t.mu is held.
func (t *Table) claimed(key []byte) bool {
	return t.claim != nil && between(key, t.claim.low, t.claim.high)
}

// asShortAsCanBe reports whether the entry of that epoch was found to be of many
// frames that cannot be merged or parted: large values of one record.
func (t *Table) asShortAsCanBe(seq base.EditSeq) bool { return t.short.Load() == uint64(seq) }

// shorten rewrites the entry of the leaf map that covers key, whose list is too
// long for a leaf to become present: the frames of each owner become one, and the
// entry is cut so that no part lists many. A record has one live owner at most,
// so parts of few records have few frames. It needs no record memory; what it
// reads, maxMerge bytes at most, lies on the Go heap, once per store.
//
// The range is claimed meanwhile: no leaf there becomes present, so nobody else
// changes the entry, and readers go through the map. REQUIRES: no lock is held and
// nothing is reserved.
func (t *Table) shorten(ctx context.Context, key []byte) error {
	c := t.cache
	c.shortMu.Lock()
	defer c.shortMu.Unlock()
	en, found, _, _, err := c.space.Lookup(t.ID, key)
	if err != nil || !found {
		return err
	}
	c.space.ReleaseEntry(&en)
	if !t.lay(&claim{en.Low, en.High}, key) {
		return nil // present by now
	}
	defer t.lift()
	if en, found, _, _, err = c.space.Lookup(t.ID, key); err != nil || !found {
		return err
	}
	defer c.space.ReleaseEntry(&en)
	if !bytes.Equal(en.Low, t.claim.low) || !bytes.Equal(en.High, t.claim.high) {
		return nil // split meanwhile: look again
	}
	list, err := c.listOf(&en)
	if err != nil || list == nil || listCost(list.frames) <= c.maxListCost() {
		return err
	}
	w := c.getWorker()
	defer c.putWorker(w)
	m := &merging{list: list, low: en.Low, high: en.High}
	h := c.horizon()
	drop, err := c.superseded(list, h, &w.sc, 1)
	if err != nil {
		return err
	}
	m.leaveOut(drop)
	if _, err := c.readGroups(w, m, true, c.live); err != nil {
		return err
	}
	m.mergeRows(w, h, c.Checkpoint())
	cuts := m.cuts(c.maxListCost() / 4)
	if len(m.groups)+len(m.left)+len(cuts) == 0 {
		t.short.Store(uint64(en.Seq))
		return nil
	}
	if err := c.reserve(ctx, w, m.bound(len(cuts)+1), 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	c.Stats.Merges.Add(1)
	return t.rewrite(w, m, cuts, key)
}

// leaveOut takes the frames at drop off the list that is merged.
func (m *merging) leaveOut(drop []int) {
	if len(drop) == 0 {
		return
	}
	list := *m.list
	list.frames = make([]frame, 0, len(m.list.frames)-len(drop))
	for i := range m.list.frames {
		if slices.Contains(drop, i) {
			m.left = append(m.left, m.list.frames[i].Run)
		} else {
			list.frames = append(list.frames, m.list.frames[i])
		}
	}
	m.list = &list
}

// lay claims the range if no leaf that covers key is present.
func (t *Table) lay(cl *claim, key []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := floor(t.tree, key); p != nil && between(key, p.low, p.high) {
		return false
	}
	t.claim = cl
	return true
}

// lift ends the claim; who read the entry before reads it again.
func (t *Table) lift() {
	t.mu.Lock()
	t.claim = nil
	t.moved.Add(1)
	t.sealed.Add(1)
	t.mu.Unlock()
}

// bound is at least what the frames of so many parts take in buffers.
func (m *merging) bound(parts int) int {
	longest, rows := 0, 0
	for i := range m.groups {
		rows += len(m.groups[i].rows)
		for j := range m.groups[i].rows {
			longest = max(longest, len(m.groups[i].rows[j].Key))
		}
	}
	frames := min(rows, parts*len(m.groups))
	fences := max(longest, len(m.low)) + max(longest, len(m.high))
	return m.total + rows*(versionchain.RowOverheadBound+2) + frames*(versionchain.FrameHeaderSize+fences+16)
}

// cuts returns where to cut the range so that the list of each part costs no more
// than limit, and holds no more than maxFrames bytes in frames, as far as records
// allow.
func (m *merging) cuts(limit int64) [][]byte {
	type item struct {
		key  []byte
		in   int // the frame that it goes to
		size int
		cost int64 // of that frame in the list
	}
	var items []item
	for i := range m.groups {
		for j := range m.groups[i].rows {
			r := &m.groups[i].rows[j]
			items = append(items, item{r.Key, -1 - i, len(r.Key) + len(r.Value), heapFactor * (frameBytes + 64)})
		}
	}
	for i := range m.list.frames {
		if f := &m.list.frames[i]; f.Large && f.First != nil {
			items = append(items, item{f.First, i, 0, listCost(m.list.frames[i : i+1])})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return bytes.Compare(a.key, b.key) })
	var cuts [][]byte
	part, size, cost := map[int]bool{}, 0, int64(0)
	for i := 0; i < len(items); {
		j, more := i, int64(0)
		for ; j < len(items) && bytes.Equal(items[j].key, items[i].key); j++ {
			if !part[items[j].in] {
				more += items[j].cost
			}
		}
		if len(part) > 0 && (cost+more > limit || size > maxFrames) && bytes.Compare(items[i].key, m.low) > 0 {
			cuts = append(cuts, bytes.Clone(items[i].key))
			clear(part)
			size, cost = 0, 0
		}
		for ; i < j; i++ {
			if !part[items[i].in] {
				part[items[i].in] = true
				cost += items[i].cost
			}
			size += items[i].size
		}
	}
	return cuts
}

// rewrite replaces the claimed entry by one for each part. If that of key is no
// shorter then, it is as short as can be. REQUIRES: room was reserved.
func (t *Table) rewrite(w *worker, m *merging, cuts [][]byte, key []byte) error {
	m.hold()
	defer m.unhold()
	picked := m.picked()
	c := t.cache
	parts, err := t.encodeParts(w, m, cuts)
	if err != nil {
		return err
	}
	e := c.space.BeginEdit()
	defer w.end(e)
	if len(m.groups) > 0 && m.groups[0].owner == nil {
		e.NeedSync()
	}
	made, err := c.placeAll(make([]frame, 0, len(w.coded)), w, e, t)
	if err != nil {
		return err
	}
	m.list.dropGone(e)
	for a := range picked {
		e.Refs(a.Run, -1)
	}
	for _, r := range m.left {
		e.Refs(r, -1)
	}
	for p := range parts {
		for _, i := range parts[p].coded {
			made[i].Merged = true
			parts[p].frames = append(parts[p].frames, made[i])
		}
	}
	for i := range m.list.frames {
		f := &m.list.frames[i]
		if picked[f.Addr] {
			continue
		}
		n := 0
		for p := range parts {
			if f.within(parts[p].low, parts[p].high) {
				parts[p].frames = append(parts[p].frames, *f)
				n++
			}
		}
		if n == 0 {
			parts[0].frames = append(parts[0].frames, *f)
		} else if n > 1 {
			e.Refs(f.Run, n-1)
		}
	}
	for p := range parts {
		pt := &parts[p]
		switch nl := newList(e.Seq(), pt.frames); {
		case len(pt.frames) > 0:
			e.Put(t.ID, tablespace.Entry{Low: pt.low, High: pt.high, Seq: e.Seq(), Frames: nl.refs()})
		case p == 0:
			e.Delete(t.ID, pt.low)
		}
		if between(key, pt.low, pt.high) && len(pt.frames) >= len(m.list.frames)+len(m.left) {
			t.short.Store(uint64(e.Seq()))
		}
	}
	m.depart()
	return nil
}

// part is one of the ranges that an entry is cut into.
type part struct {
	low, high []byte
	coded     []int // of the worker's encoded frames
	frames    []frame
}

// encodeParts encodes for each part one frame of each group that has rows there.
func (t *Table) encodeParts(w *worker, m *merging, cuts [][]byte) ([]part, error) {
	parts := make([]part, len(cuts)+1)
	for p := range parts {
		pt := &parts[p]
		pt.low, pt.high = m.low, m.high
		if p > 0 {
			pt.low = cuts[p-1]
		}
		if p < len(cuts) {
			pt.high = cuts[p]
		}
	}
	for i := range m.groups {
		g := &m.groups[i]
		for p, from := 0, 0; p < len(parts); p++ {
			to := len(g.rows)
			if pt := &parts[p]; pt.high != nil {
				to, _ = slices.BinarySearchFunc(g.rows, pt.high, func(r versionchain.Row, k []byte) int { return bytes.Compare(r.Key, k) })
			}
			if from == to {
				continue
			}
			if err := w.encode(t, g.owner, g.rows[from:to], parts[p].low, parts[p].high, false); err != nil {
				return nil, err
			}
			parts[p].coded = append(parts[p].coded, len(w.coded)-1)
			from = to
		}
	}
	return parts, nil
}
