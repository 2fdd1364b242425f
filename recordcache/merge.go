package recordcache

import (
	"bytes"
	"context"
	"slices"
	"sort"

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

// mergeRows computes the rows that stay of each group.
func (m *merging) mergeRows(w *worker, h versionchain.Horizon, replayed base.CommitTS) {
	for i := range m.groups {
		g := &m.groups[i]
		rules := mergeRules{complete: g.owner == nil && len(g.pick) == len(m.list.frames), replayed: replayed}
		g.rows = mergeRows(w, m, g, h, rules)
		if len(m.groups) > 1 {
			g.rows = slices.Clone(g.rows) // the worker's memory is for one group
		}
	}
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

// committedTS returns the timestamp of a frame whose rows are all permanent.
func (f *frame) committedTS() (base.CommitTS, bool) {
	if f.out == nil {
		return f.Newest, true
	}
	st, ts := f.out.Status()
	return ts, st == versionchain.Committed && len(f.out.Dead()) == 0
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

// mergeRows returns the rows that stay, sorted. Committed rows get their
// timestamps; a record keeps what some reader needs. Of an owner's rows the
// newest of each stretch between live savepoints stays. The rows are w's.
func mergeRows(w *worker, m *merging, g *group, h versionchain.Horizon, rules mergeRules) []versionchain.Row {
	all := w.rows[:0]
	var ends []int
	for i := range g.ins {
		var ok bool
		if all, ok = g.ins[i].appendRows(all, m, g.owner); ok {
			ends = append(ends, len(all))
		}
	}
	w.rows = all
	all, w.spare = sortRuns(all, ends, w.spare)
	w.rows = all
	out := all[:0]
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && bytes.Equal(all[j].Key, all[i].Key) {
			j++
		}
		if g.owner != nil {
			out = keepStretches(out, all[i:j], g.stretches)
		} else {
			out = keepNeeded(out, all[i:j], h, rules)
		}
		i = j
	}
	return out
}

// appendRows appends the frame's rows that are not garbage, in their order; ok is
// false if all are.
func (in *merged) appendRows(all []versionchain.Row, m *merging, owner *versionchain.Outcome) (_ []versionchain.Row, ok bool) {
	o := in.f.out
	var ts base.CommitTS
	if o != nil && owner == nil {
		st, t := o.Status()
		if st == versionchain.Aborted {
			return all, false
		}
		ts = t
	}
	for j := range in.fr.Len() {
		var r versionchain.Row
		in.fr.Row(j, &r)
		if bytes.Compare(r.Key, m.low) < 0 || (m.high != nil && bytes.Compare(r.Key, m.high) >= 0) {
			continue // belongs to the other half of a split
		}
		if o != nil {
			if o.DeadEpoch(r.Epoch) {
				continue
			}
			r.TS = ts
		}
		all = append(all, r)
	}
	return all, true
}

// compareRows orders rows by key, and those of one record newest first.
func compareRows(a, b *versionchain.Row) int {
	if d := bytes.Compare(a.Key, b.Key); d != 0 {
		return d
	}
	switch {
	case a.Newer(b.Order):
		return -1
	case b.Newer(a.Order):
		return 1
	default:
		return 0
	}
}

// sortRuns merges the sorted runs of all, which end at ends, two by two until one
// is left. It returns them, and the memory that it does not need any more; spare
// is such memory.
func sortRuns(all []versionchain.Row, ends []int, spare []versionchain.Row) (sorted, rest []versionchain.Row) {
	for len(ends) > 1 {
		out := spare[:0]
		var outEnds []int
		for i := 0; i < len(ends); i += 2 {
			from := 0
			if i > 0 {
				from = ends[i-1]
			}
			if i+1 == len(ends) {
				out = append(out, all[from:ends[i]]...)
			} else {
				out = mergeTwo(out, all[from:ends[i]], all[ends[i]:ends[i+1]])
			}
			outEnds = append(outEnds, len(out))
		}
		all, spare, ends = out, all, outEnds
	}
	return all, spare
}

// mergeTwo appends two sorted runs to out as one.
func mergeTwo(out, a, b []versionchain.Row) []versionchain.Row {
	for len(a) > 0 && len(b) > 0 {
		if compareRows(&a[0], &b[0]) <= 0 {
			out = append(out, a[0])
			a = a[1:]
		} else {
			out = append(out, b[0])
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// mergeRules say when a tombstone may go.
type mergeRules struct {
	complete bool          // all frames of the leaf take part
	replayed base.CommitTS // commits up to it are not replayed after a crash
}

// keepNeeded appends the committed versions of one record that a reader needs.
func keepNeeded(out, chain []versionchain.Row, h versionchain.Horizon, rules mergeRules) []versionchain.Row {
	newer := base.MaxTS
	first := len(out)
	for i := range chain {
		r := &chain[i]
		if r.Kind == base.KindLock {
			if r.TS > h.Oldest() {
				out = append(out, *r)
			}
			continue
		}
		if r.TS != newer && h.Needs(r.TS, newer) {
			out = append(out, *r)
		}
		newer = r.TS
	}
	// The oldest tombstone hides nothing when all older frames are merged, unless
	// the log still has what it deleted and recovery would bring that back.
	if n := len(out); rules.complete && n > first && out[n-1].Kind == base.KindTombstone &&
		out[n-1].TS <= h.Oldest() && out[n-1].TS <= rules.replayed {
		out = out[:n-1]
	}
	return out
}

// keepStretches appends the newest version of one record in each stretch
// between live savepoints; starts are the epochs that began them, ascending. A
// lock never takes a value's place; it goes where a value is lock enough.
func keepStretches(out, chain []versionchain.Row, starts []base.Epoch) []versionchain.Row {
	for i := 0; i < len(chain); {
		s := stretchOf(starts, chain[i].Epoch)
		j, lock, value := i, -1, -1
		for ; j < len(chain) && stretchOf(starts, chain[j].Epoch) == s; j++ {
			if chain[j].Kind == base.KindLock {
				if lock < 0 {
					lock = j
				}
			} else if value < 0 {
				value = j
			}
		}
		if value >= 0 {
			out = append(out, chain[value])
		} else {
			out = append(out, chain[lock])
		}
		i = j
	}
	return out
}

func stretchOf(starts []base.Epoch, e base.Epoch) int {
	return sort.Search(len(starts), func(k int) bool { return starts[k] > e })
}

// cut divides sorted rows into pieces of about size bytes, records unbroken.
func cut(rows []versionchain.Row, size int) [][]versionchain.Row {
	var pieces [][]versionchain.Row
	from, n := 0, 0
	for i := range rows {
		if n >= size && !bytes.Equal(rows[i].Key, rows[i-1].Key) {
			pieces = append(pieces, rows[from:i])
			from, n = i, 0
		}
		n += len(rows[i].Key) + len(rows[i].Value) + 12
	}
	if from < len(rows) {
		pieces = append(pieces, rows[from:])
	}
	return pieces
}
