package recordcache

import (
	"bytes"
	"context"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// merged is one frame taking part in a merge.
type merged struct {
	f     *frame
	bytes []byte
	fr    versionchain.Frame
}

// group is the frames of one live owner, or all committed ones, in a merge.
type group struct {
	owner     *versionchain.Outcome // nil: committed
	pick      []int                 // indices in the list
	ins       []merged
	stretches []base.Epoch // that began with the owner's live savepoints
	rows      []versionchain.Row
	pieces    [][]versionchain.Row
	held      bool
}

// Merge replaces frames of the leaf at key by fewer: the committed ones by
// images, each a leaf of its own if nothing else is in the leaf, and those of
// each live owner by frames that do not overlap (P8). It reads outside the lock
// and replaces exactly the frames it read; what was listed later stays.
//
// While a transaction fills the leaf it is not cut, so that the next fill finds
// few leaves with many rows each, and not a row or two in each of many; only a
// leaf that holds maxFrames bytes is split.
func (c *Cache) Merge(ctx context.Context, t *Table, key []byte, live func(base.TxnID) []base.Epoch) error {
	l := t.find(key)
	for tries := 0; l == nil; tries++ {
		// The leaf went back to the gap meanwhile: it needs the merge all the same.
		if err := t.installShort(key); err != nil || tries > 8 {
			return err
		}
		l = t.find(key)
	}
	if err := c.dropSuperseded(ctx, l, minRead); err != nil {
		return err
	}
	if err := c.emptyForCut(ctx, l); err != nil {
		return err
	}
	w := c.getWorker()
	defer c.putWorker(w)
	m, err := c.readForMerge(w, l, key, live)
	if err != nil || m == nil {
		return err
	}
	// Whoever begins now reads at this clock or later, so the horizon may be
	// taken before the lock: it only grows safer.
	pieces := 0
	m.mergeRows(w, c.horizon(), c.Checkpoint())
	for i := range m.groups {
		g := &m.groups[i]
		size := targetFrame
		if g.owner != nil {
			size = mergedFrame
		}
		g.pieces = cut(g.rows, size)
		pieces += len(g.pieces)
	}
	if err := c.reserve(ctx, w, m.total+pieces*(24<<10), 2); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || !bytes.Equal(l.low, m.low) || !bytes.Equal(l.high, m.high) || !l.lists(m) {
		return nil // changed meanwhile; it will be asked for again
	}
	m.hold()
	defer m.unhold()
	if len(m.groups) == 0 {
		return nil
	}
	c.Stats.Merges.Add(1)
	if err := l.replace(c, w, m); err != nil {
		if IsNoMemory(err) {
			return nil // another time
		}
		return err
	}
	return l.splitIfVast(c, w)
}

// hold keeps the owners active until unhold; groups of those that are not any
// more leave the merge. REQUIRES: a lock that lasts no longer than this.
func (m *merging) hold() {
	kept := m.groups[:0]
	for _, g := range m.groups {
		if g.owner != nil {
			if g.held = g.owner.Hold(); !g.held {
				continue
			}
		}
		kept = append(kept, g)
	}
	m.groups = kept
}

func (m *merging) unhold() {
	for i := range m.groups {
		if m.groups[i].held {
			m.groups[i].owner.Unhold()
		}
	}
}

// Sizes of merges, in bytes.
const (
	// mergedFrame is what a frame aims at when those of a live owner are merged.
	mergedFrame = 32 << 10
	// maxFrames is what a leaf may hold in frames before it is split.
	maxFrames = 1 << 20
)

// merging is what a merge read.
type merging struct {
	list      *frameList
	low, high []byte
	groups    []group
	left      []base.RunID // of frames that nobody needs, off the list already
	total     int          // bytes read
}

// readForMerge chooses frames of the leaf and reads them; nil when there is
// nothing to merge.
func (c *Cache) readForMerge(w *worker, l *Leaf, key []byte, live func(base.TxnID) []base.Epoch) (*merging, error) {
	m := &merging{}
	l.mu.RLock()
	m.list, m.low, m.high = l.list, l.low, l.high
	ok := l.covers(key) && l.listLen() > 1
	var held runHold
	if ok {
		held = c.acquire(m.list)
	}
	l.mu.RUnlock()
	defer held.release()
	if !ok {
		return nil, nil
	}
	return c.readGroups(w, m, false, live)
}

// readGroups chooses what to merge of m.list and reads it; nil when that is
// nothing; with all, everything that can be rewritten. REQUIRES: the runs are
// held.
func (c *Cache) readGroups(w *worker, m *merging, all bool, live func(base.TxnID) []base.Epoch) (*merging, error) {
	m.groups = m.list.limit(choose(m.list, all), all)
	for i := range m.groups {
		g := &m.groups[i]
		if g.owner != nil {
			g.stretches = live(g.owner.ID)
		}
		var n int
		var err error
		if g.ins, n, err = c.readAll(w, m.list, g.pick); err != nil {
			return nil, err
		}
		m.total += n
	}
	if len(m.groups) == 0 {
		return nil, nil
	}
	return m, nil
}

// maxMerge is how many bytes of frames one merge takes; what is left waits for the
// next one. Any part of a list may be merged, since order lies in the rows.
const maxMerge = 2 << 20

// maxMerged is how many frames made by merges a leaf may list for a live owner: more
// than maxFrames bytes of them.
const maxMerged = maxFrames / mergedFrame * 3 / 2

// limit cuts the groups down to the frames that one merge takes, in each those
// first that no merge has made, in the order of the list. While a transaction fills
// the leaf, what one merge made is left to itself until there is much of it: each row
// is then written twice, however much the leaf takes.
func (fl *frameList) limit(groups []group, all bool) []group {
	total := 0
	var out []group
	for _, g := range groups {
		if total >= maxMerge {
			break
		}
		var take []int
		made := 0
		for _, i := range g.pick {
			if fl.frames[i].Merged {
				made++
			}
		}
		for _, merged := range []bool{false, true} {
			if merged && !all && g.owner != nil && made <= maxMerged && len(take) >= maxList {
				break
			}
			for _, i := range g.pick {
				if f := &fl.frames[i]; f.Merged == merged && (total < maxMerge || len(take) < 2) {
					total += int(f.Len)
					take = append(take, i)
				}
			}
		}
		slices.Sort(take)
		g.pick = take
		out = append(out, g)
	}
	return out
}

// splitIfVast splits a leaf that holds more than maxFrames bytes in frames, at the
// first key of a middle one. REQUIRES: l.mu is held exclusively, an edit is
// reserved.
func (l *Leaf) splitIfVast(c *Cache, w *worker) error {
	total := 0
	var firsts [][]byte
	for i := range l.listLen() {
		f := &l.list.frames[i]
		total += int(f.Len)
		if f.First != nil && bytes.Compare(f.First, l.low) > 0 && (l.high == nil || bytes.Compare(f.First, l.high) < 0) {
			firsts = append(firsts, f.First)
		}
	}
	if total <= maxFrames || len(firsts) == 0 || w.room.edits < 1 {
		return nil
	}
	slices.SortFunc(firsts, bytes.Compare)
	err := l.splitAt(c, w, bytes.Clone(firsts[len(firsts)/2]))
	if IsNoMemory(err) {
		return nil // another time
	}
	return err
}

// overlapping counts the frames of the list that make reads and scans look
// further: those that a merge has not made, large values apart.
func (fl *frameList) overlapping() int {
	n := 0
	for i := range fl.frames {
		if f := &fl.frames[i]; !f.Merged && !f.Large {
			n++
		}
	}
	return n
}

// committedTS returns the timestamp of a frame whose owner is committed, or that has none.
func (f *frame) committedTS() (base.CommitTS, bool) {
	if f.out == nil {
		return f.Newest, true
	}
	st, ts := f.out.Status()
	return ts, st == versionchain.Committed
}

// emptyForCut backlogs what is resident of a leaf that has grown large in
// frames: only a leaf without resident rows is cut.
func (c *Cache) emptyForCut(ctx context.Context, l *Leaf) error {
	l.mu.RLock()
	size := 0
	for i := range l.listLen() {
		f := &l.list.frames[i]
		if f.undecided() {
			size = 0 // a leaf that is being filled is not cut
			break
		}
		if !f.Large {
			size += int(f.Len)
		}
	}
	cut := size > 4*targetFrame && l.page.Len() > 0
	l.mu.RUnlock()
	if !cut {
		return nil
	}
	_, err := c.Relieve(ctx, l, &Request{Action: BacklogAll, Horizon: c.horizon()})
	return err
}

// lists reports whether the leaf still lists all frames that the merge read.
func (l *Leaf) lists(m *merging) bool {
	if l.list == nil {
		return false
	}
	if l.list == m.list {
		return true
	}
	for i := range m.groups {
		for _, k := range m.groups[i].pick {
			if l.list.index(m.list.frames[k].Addr) < 0 {
				return false
			}
		}
	}
	return true
}

// choose picks what to merge: all committed frames, and those of each live owner,
// if there are several and a merge has not made all of them already; or with every,
// all that can be rewritten.
func choose(list *frameList, every bool) []group {
	at := map[*versionchain.Outcome]int{}
	var all []group
	for i := range list.frames {
		o := list.frames[i].out
		if o != nil {
			switch st, _ := o.Status(); st {
			case versionchain.Committed:
				o = nil
			case versionchain.Committing, versionchain.Aborted: // the sweeper's
				continue
			default:
			}
		}
		if list.frames[i].Large {
			continue // stays a frame of its own
		}
		k, ok := at[o]
		if !ok {
			k = len(all)
			at[o] = k
			all = append(all, group{owner: o})
		}
		all[k].pick = append(all[k].pick, i)
	}
	whole := len(all) == 1 && all[0].owner == nil // perhaps it can be cut now
	all = slices.DeleteFunc(all, func(g group) bool {
		return !every && (len(g.pick) < 2 ||
			!whole && !slices.ContainsFunc(g.pick, func(i int) bool { return !list.frames[i].Merged }))
	})
	// The committed ones first: those of owners may become some before long.
	slices.SortStableFunc(all, func(a, b group) int {
		if (a.owner == nil) != (b.owner == nil) {
			if a.owner == nil {
				return -1
			}
			return 1
		}
		return len(b.pick) - len(a.pick)
	})
	return all
}

func (c *Cache) readAll(w *worker, list *frameList, pick []int) (ins []merged, total int, err error) {
	for _, i := range pick {
		total += int(list.frames[i].Len)
	}
	buf := slices.Grow(w.in, total) // what other groups read stays
	for _, i := range pick {
		f := &list.frames[i]
		from := len(buf)
		if buf, err = c.space.ReadFrame(f.Addr, buf); err != nil {
			return nil, 0, err
		}
		b := buf[from:len(buf):len(buf)]
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return nil, 0, err
		}
		ins = append(ins, merged{f: f, bytes: b, fr: fr})
	}
	w.in = buf
	return ins, total, nil
}
