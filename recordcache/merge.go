package recordcache

import (
	"bytes"
	"context"
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
// images, or those of one live owner by one frame (P8). It reads and encodes
// outside the lock and replaces exactly the frames it read; what was listed
// later stays. With split the result is cut into leaves of targetFrame bytes.
func (c *Cache) Merge(ctx context.Context, t *Table, key []byte, live func(base.TxnID) []base.Epoch) error {
	l := t.find(key)
	if l == nil {
		return nil
	}
	if err := c.dropSuperseded(ctx, l); err != nil {
		return err
	}
	if err := c.emptyForCut(ctx, l); err != nil {
		return err
	}
	l.mu.RLock()
	list, low, high := l.list, l.low, l.high
	ok := l.covers(key) && list != nil && len(list.frames) > 1
	var held runHold
	if ok {
		held = c.acquire(list)
	}
	l.mu.RUnlock()
	if !ok {
		return nil
	}
	defer held.release()
	pick, owner := choose(list)
	if len(pick) < 2 {
		return nil
	}
	ins, total, err := c.readAll(list, pick)
	if err != nil {
		return err
	}
	// Whoever begins now reads at this clock or later, so the horizon may be
	// taken before the lock: it only grows safer.
	horizon := c.horizon()
	complete := owner == nil && len(pick) == len(list.frames)
	var stretches []base.Epoch
	if owner != nil {
		stretches = live(owner.ID)
	}
	rows := mergeRows(ins, owner, low, high, horizon, stretches, mergeRules{complete: complete, replayed: c.Checkpoint()})
	pieces := cut(rows, targetFrame)
	w := c.getWorker()
	defer c.putWorker(w)
	if err := c.reserve(ctx, w, total+len(pieces)*frameSlack, 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || !bytes.Equal(l.low, low) || !bytes.Equal(l.high, high) || !l.lists(list, pick) {
		return nil // changed meanwhile; it will be asked for again
	}
	if owner != nil {
		if !owner.Hold() {
			return nil
		}
		defer owner.Unhold()
	}
	c.Stats.Merges.Add(1)
	return l.replace(c, w, list, pick, owner, pieces)
}

// large reports whether the frame is that of one large value.
func (f *frame) large() bool { return f.Rows == 1 && f.Len > base.LargeValueSize }

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
		if _, ok := f.committedTS(); ok && f.large() && f.First != nil {
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
	return nil
}

// emptyForCut backlogs what is resident of a leaf that has grown large in
// frames: only a leaf without resident rows is cut.
func (c *Cache) emptyForCut(ctx context.Context, l *Leaf) error {
	l.mu.RLock()
	size := 0
	for i := range l.listLen() {
		if !l.list.frames[i].large() {
			size += int(l.list.frames[i].Len)
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
		if list.frames[i].large() {
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

func (c *Cache) readAll(list *frameList, pick []int) (ins []merged, total int, err error) {
	for _, i := range pick {
		f := &list.frames[i]
		b, err := c.space.ReadFrame(f.Addr, nil)
		if err != nil {
			return nil, 0, err
		}
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return nil, 0, err
		}
		ins = append(ins, merged{f: f, bytes: b, fr: fr})
		total += len(b)
	}
	return ins, total, nil
}

// mergeRows returns the rows that stay, sorted. Committed rows get their
// timestamps; a record keeps what some reader needs. Of an owner's rows the
// newest of each stretch between live savepoints stays.
func mergeRows(ins []merged, owner *versionchain.Outcome, low, high []byte, h versionchain.Horizon, stretches []base.Epoch, rules mergeRules) []versionchain.Row {
	var all []versionchain.Row
	for i := range ins {
		m := &ins[i]
		var ts base.CommitTS
		if m.f.out != nil && owner == nil {
			st, t := m.f.out.Status()
			if st == versionchain.Aborted {
				continue
			}
			ts = t
		}
		for j := range m.fr.Len() {
			var r versionchain.Row
			m.fr.Row(j, &r)
			if bytes.Compare(r.Key, low) < 0 || (high != nil && bytes.Compare(r.Key, high) >= 0) {
				continue // belongs to the other half of a split
			}
			if m.f.out != nil {
				if m.f.out.DeadEpoch(r.Epoch) {
					continue
				}
				r.TS = ts
			}
			all = append(all, r)
		}
	}
	sort.SliceStable(all, func(a, b int) bool {
		if d := bytes.Compare(all[a].Key, all[b].Key); d != 0 {
			return d < 0
		}
		return all[a].Order.Newer(all[b].Order)
	})
	out := all[:0]
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && bytes.Equal(all[j].Key, all[i].Key) {
			j++
		}
		if owner != nil {
			out = keepStretches(out, all[i:j], stretches)
		} else {
			out = keepNeeded(out, all[i:j], h, rules)
		}
		i = j
	}
	return out
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

// replace lists the merged frames instead of those picked from the list old, and
// keeps what was listed later (P8). If nothing else is left in the leaf, it is
// cut into one leaf per piece, of which it keeps the first; the others go
// straight into the gap.
func (l *Leaf) replace(c *Cache, w *worker, old *frameList, pick []int, owner *versionchain.Outcome, pieces [][]versionchain.Row) error {
	e := c.space.BeginEdit()
	l.list.dropGone(e)
	if owner == nil {
		e.NeedSync()
	}
	picked := make(map[tablespace.Addr]bool, len(pick))
	for _, i := range pick {
		picked[old.frames[i].Addr] = true
		e.Refs(old.frames[i].Run, -1)
	}
	var kept []frame
	for i := range l.list.frames {
		if !picked[l.list.frames[i].Addr] {
			kept = append(kept, l.list.frames[i])
		}
	}
	rest := newList(e.Seq(), kept)
	image := owner == nil && len(kept) == 0 && onePerRecord(pieces)
	if len(kept) > 0 || l.page.Len() > 0 {
		pieces = joinPieces(pieces)
	}
	or := &ownerRows{out: owner}
	low := l.low
	var first *frameList
	var firstHigh []byte
	for p, rows := range pieces {
		high := l.high
		if p+1 < len(pieces) {
			high = bytes.Clone(pieces[p+1][0].Key)
		}
		f, err := c.seal(w, e, l.table, or, rows, low, high, image)
		if err != nil {
			w.end(e)
			return err
		}
		nl := newList(e.Seq(), append(append([]frame{}, kept...), f))
		l.putEntry(e, low, high, nl)
		if p == 0 {
			first, firstHigh = nl, high
		}
		low = high
	}
	if first == nil { // nothing is left
		first, firstHigh = rest, l.high
		if len(kept) == 0 {
			e.Delete(l.table.ID, l.low)
			first = nil
		} else {
			l.putEntry(e, l.low, l.high, rest)
		}
	}
	w.end(e)
	if owner != nil {
		owner.Depart()
	}
	l.mapped = first != nil
	if !bytes.Equal(firstHigh, l.high) {
		t := l.table
		t.mu.Lock()
		t.sealed.Add(1)
		t.moved.Add(1)
		l.setFences(l.low, firstHigh)
		t.mu.Unlock()
	}
	l.setList(first, c)
	return nil
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

// joinPieces undoes cut: the pieces are adjacent parts of one slice.
func joinPieces(pieces [][]versionchain.Row) [][]versionchain.Row {
	if len(pieces) < 2 {
		return pieces
	}
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return [][]versionchain.Row{pieces[0][:n:n]}
}
