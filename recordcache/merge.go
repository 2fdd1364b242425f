package recordcache

import (
	"bytes"
	"context"
	"slices"
	"sort"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// merged is one frame taking part in a merge.
type merged struct {
	f     *frame
	bytes []byte
	fr    versionchain.Frame
}

// Merge replaces frames of the leaf at key by fewer: the committed ones by
// images, each a leaf of its own if nothing else is in the leaf, or those of one
// live owner by frames that do not overlap (P8). It reads outside the lock and
// replaces exactly the frames it read; what was listed later stays.
//
// While a transaction fills the leaf it is not cut, so that the next fill finds
// few leaves with many rows each, and not a row or two in each of many; only a
// leaf that holds maxFrames bytes is split.
func (c *Cache) Merge(ctx context.Context, t *Table, key []byte, live func(base.TxnID) []base.Epoch) error {
	l := t.find(key)
	for tries := 0; l == nil; tries++ {
		// The leaf went back to the gap meanwhile: it needs the merge all the same.
		if err := t.install(key); err != nil || tries > 8 {
			return err
		}
		l = t.find(key)
	}
	if err := c.dropSuperseded(ctx, l); err != nil {
		return err
	}
	if err := c.emptyForCut(ctx, l); err != nil {
		return err
	}
	w := c.getWorker()
	defer c.putWorker(w)
	m, err := c.readForMerge(w, l, key)
	if err != nil || m == nil {
		return err
	}
	// Whoever begins now reads at this clock or later, so the horizon may be
	// taken before the lock: it only grows safer.
	rules := mergeRules{complete: m.owner == nil && len(m.pick) == len(m.list.frames), replayed: c.Checkpoint()}
	var stretches []base.Epoch
	size := targetFrame
	if m.owner != nil {
		stretches, size = live(m.owner.ID), mergedFrame
	}
	rows := mergeRows(w, m, c.horizon(), stretches, rules)
	pieces := cut(rows, size)
	if err := c.reserve(ctx, w, m.total+len(pieces)*(24<<10), 2); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || !bytes.Equal(l.low, m.low) || !bytes.Equal(l.high, m.high) || !l.lists(m.list, m.pick) {
		return nil // changed meanwhile; it will be asked for again
	}
	if m.owner != nil {
		if !m.owner.Hold() {
			return nil
		}
		defer m.owner.Unhold()
	}
	c.Stats.Merges.Add(1)
	if err := l.replace(c, w, m, pieces); err != nil {
		return err
	}
	return l.splitIfVast(c, w)
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
	pick      []int // indices in list
	owner     *versionchain.Outcome
	ins       []merged
	total     int // bytes read
}

// readForMerge chooses frames of the leaf and reads them; nil when there is
// nothing to merge.
func (c *Cache) readForMerge(w *worker, l *Leaf, key []byte) (*merging, error) {
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
	m.pick, m.owner = choose(m.list)
	m.pick = m.list.limit(m.pick, m.owner != nil)
	if len(m.pick) < 2 {
		return nil, nil
	}
	var err error
	m.ins, m.total, err = c.readAll(w, m.list, m.pick)
	return m, err
}

// maxMerge is how many bytes of frames one merge takes; what is left waits for the
// next one. Any part of a list may be merged, since order lies in the rows.
const maxMerge = 2 << 20

// maxMerged is how many frames made by merges a leaf may list for a live owner: more
// than maxFrames bytes of them.
const maxMerged = maxFrames / mergedFrame * 3 / 2

// limit returns the picked frames that one merge takes, those that no merge has
// made first, in the order of the list. While a transaction fills the leaf, what one
// merge made is left to itself until there is much of it: each row is then written
// twice, however much the leaf takes.
func (fl *frameList) limit(pick []int, filling bool) []int {
	total, made := 0, 0
	var out []int
	for _, i := range pick {
		if fl.frames[i].Merged {
			made++
		}
	}
	for _, merged := range []bool{false, true} {
		if merged && filling && made <= maxMerged && len(out) >= maxList {
			break
		}
		for _, i := range pick {
			if f := &fl.frames[i]; f.Merged == merged && (total < maxMerge || len(out) < 2) {
				total += int(f.Len)
				out = append(out, i)
			}
		}
	}
	slices.Sort(out)
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

// dropSuperseded takes out of the list the frames of large values that a newer
// one of the same record hides from every reader; nothing is read or copied.
func (c *Cache) dropSuperseded(ctx context.Context, l *Leaf) error {
	w := c.getWorker()
	defer c.putWorker(w)
	if err := c.reserve(ctx, w, 0, 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	h := c.horizon()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.listLen() < 2 {
		return nil
	}
	byKey := map[string][]int{}
	for i := range l.list.frames {
		f := &l.list.frames[i]
		if _, ok := f.committedTS(); ok && f.Large && f.First != nil {
			byKey[string(f.First)] = append(byKey[string(f.First)], i)
		}
	}
	drop := map[int]bool{}
	for _, is := range byKey {
		sort.Slice(is, func(a, b int) bool {
			x, _ := l.list.frames[is[a]].committedTS()
			y, _ := l.list.frames[is[b]].committedTS()
			return x > y
		})
		newer := base.MaxTS
		for _, i := range is {
			ts, _ := l.list.frames[i].committedTS()
			if ts != newer && !h.Needs(ts, newer) {
				drop[i] = true
			}
			newer = ts
		}
	}
	if len(drop) == 0 {
		return nil
	}
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	var kept []frame
	for i := range l.list.frames {
		if drop[i] {
			e.Refs(l.list.frames[i].Run, -1)
		} else {
			kept = append(kept, l.list.frames[i])
		}
	}
	nl := newList(e.Seq(), kept)
	l.putEntry(e, l.low, l.high, nl)
	w.end(e)
	l.setList(nl, c)
	l.recharge(c)
	return nil
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

// lists reports whether the leaf still lists the picked frames of an older list.
func (l *Leaf) lists(old *frameList, pick []int) bool {
	if l.list == nil {
		return false
	}
	for _, i := range pick {
		if l.list.index(old.frames[i].Addr) < 0 {
			return false
		}
	}
	return true
}

// choose picks what to merge: all committed frames if there are several, else
// the frames of the live owner who has most.
func choose(list *frameList) (pick []int, owner *versionchain.Outcome) {
	count := map[*versionchain.Outcome][]int{}
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
		count[o] = append(count[o], i)
	}
	pick = count[nil]
	if len(pick) >= 2 {
		return pick, nil
	}
	for o, is := range count {
		if len(is) > len(pick) {
			pick, owner = is, o
		}
	}
	return pick, owner
}

func (c *Cache) readAll(w *worker, list *frameList, pick []int) (ins []merged, total int, err error) {
	for _, i := range pick {
		total += int(list.frames[i].Len)
	}
	buf := slices.Grow(w.in[:0], total)
	w.in = buf
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
	return ins, total, nil
}

// mergeRows returns the rows that stay, sorted. Committed rows get their
// timestamps; a record keeps what some reader needs. Of an owner's rows the
// newest of each stretch between live savepoints stays. The rows are w's.
func mergeRows(w *worker, m *merging, h versionchain.Horizon, stretches []base.Epoch, rules mergeRules) []versionchain.Row {
	all := w.rows[:0]
	var ends []int
	for i := range m.ins {
		var ok bool
		if all, ok = m.ins[i].appendRows(all, m); ok {
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
		if m.owner != nil {
			out = keepStretches(out, all[i:j], stretches)
		} else {
			out = keepNeeded(out, all[i:j], h, rules)
		}
		i = j
	}
	return out
}

// appendRows appends the frame's rows that are not garbage, in their order; ok is
// false if all are.
func (in *merged) appendRows(all []versionchain.Row, m *merging) (_ []versionchain.Row, ok bool) {
	o := in.f.out
	var ts base.CommitTS
	if o != nil && m.owner == nil {
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

// replace lists the merged frames instead of those picked, and keeps what was
// listed later (P8). If they are committed and nothing else is in the leaf, it is
// cut into one leaf per piece, of which it keeps the first; the others go
// straight into the gap.
func (l *Leaf) replace(c *Cache, w *worker, m *merging, pieces [][]versionchain.Row) error {
	kept := m.unpicked(l.list)
	image := m.owner == nil && len(kept) == 0 && onePerRecord(pieces)
	spread := m.owner == nil && len(kept) == 0 && l.page.Len() == 0
	// bounds[p] and bounds[p+1] are the fences that piece p gets.
	bounds := make([][]byte, len(pieces)+1)
	for p, rows := range pieces {
		low, high := l.low, l.high
		if spread {
			if p > 0 {
				low = bounds[p]
			}
			if p+1 < len(pieces) {
				high = bytes.Clone(pieces[p+1][0].Key)
			}
		}
		bounds[p], bounds[p+1] = low, high
		if err := w.encode(l.table, m.owner, rows, low, high, image && spread); err != nil {
			return err
		}
	}
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	if m.owner == nil {
		e.NeedSync()
	}
	for _, i := range m.pick {
		e.Refs(m.list.frames[i].Run, -1)
	}
	firstHigh := l.high
	for p := range pieces {
		f, err := c.place(w, e, l.table, p)
		if err != nil {
			w.end(e)
			return err
		}
		f.Merged = true
		switch {
		case !spread:
			kept = append(kept, f)
		case p == 0:
			kept, firstHigh = append(kept, f), bounds[1]
		default:
			l.putEntry(e, bounds[p], bounds[p+1], newList(e.Seq(), []frame{f}))
		}
	}
	nl := newList(e.Seq(), kept)
	if len(nl.frames) == 0 {
		e.Delete(l.table.ID, l.low)
		nl = nil
	} else {
		l.putEntry(e, l.low, firstHigh, nl)
	}
	w.end(e)
	if m.owner != nil {
		m.owner.Depart()
	}
	l.mapped = nl != nil
	if !bytes.Equal(firstHigh, l.high) {
		t := l.table
		t.mu.Lock()
		t.sealed.Add(1)
		t.moved.Add(1)
		l.setFences(l.low, firstHigh)
		t.mu.Unlock()
	}
	l.setList(nl, c)
	l.recharge(c)
	return nil
}

// unpicked returns the frames of the list as it is now that the merge did not read.
func (m *merging) unpicked(now *frameList) []frame {
	picked := make(map[tablespace.Addr]bool, len(m.pick))
	for _, i := range m.pick {
		picked[m.list.frames[i].Addr] = true
	}
	var kept []frame
	for i := range now.frames {
		if !picked[now.frames[i].Addr] {
			kept = append(kept, now.frames[i])
		}
	}
	return kept
}

func onePerRecord(pieces [][]versionchain.Row) bool {
	for _, rows := range pieces {
		for i := 1; i < len(rows); i++ {
			if bytes.Equal(rows[i].Key, rows[i-1].Key) {
				return false
			}
		}
	}
	return true
}
