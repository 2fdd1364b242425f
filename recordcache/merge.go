package recordcache

import (
	"bytes"
	"context"
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

// Merge replaces frames of the leaf at key by fewer: the committed ones by
// images, or those of one live owner by one frame (P8). It reads and encodes
// outside the lock and replaces exactly the frames it read; what was listed
// later stays. With split the result is cut into leaves of targetFrame bytes.
func (c *Cache) Merge(ctx context.Context, t *Table, key []byte, live func(base.TxnID) []base.Epoch) error {
	l := t.find(key)
	if l == nil {
		return nil
	}
	if err := c.emptyForCut(ctx, l); err != nil {
		return err
	}
	l.mu.RLock()
	list, low, high := l.list, l.low, l.high
	ok := l.covers(key) && list != nil && len(list.frames) > 1
	if ok {
		c.acquire(list)
	}
	l.mu.RUnlock()
	if !ok {
		return nil
	}
	defer c.release(list)
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
	rows := mergeRows(ins, owner, low, high, horizon, complete, stretches)
	pieces := cut(rows, targetFrame)
	w := c.getWorker()
	defer c.putWorker(w)
	if err := c.reserve(ctx, w, total+len(pieces)*frameSlack, 1); err != nil {
		return err
	}
	defer c.unreserve(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.list != list || !bytes.Equal(l.low, low) || !bytes.Equal(l.high, high) {
		return nil // changed meanwhile; it will be asked for again
	}
	if owner != nil {
		if !owner.Hold() {
			return nil
		}
		defer owner.Unhold()
	}
	c.Stats.Merges.Add(1)
	return l.replace(c, w, list, pick, owner, pieces, complete)
}

// emptyForCut backlogs what is resident of a leaf that has grown large in
// frames: only a leaf without resident rows is cut.
func (c *Cache) emptyForCut(ctx context.Context, l *Leaf) error {
	l.mu.RLock()
	size := 0
	for i := range l.listLen() {
		size += int(l.list.frames[i].Len)
	}
	cut := size > 4*targetFrame && l.page.Len() > 0
	l.mu.RUnlock()
	if !cut {
		return nil
	}
	_, err := c.Relieve(ctx, l, &Request{Action: BacklogAll, Horizon: c.horizon()})
	return err
}

// choose picks what to merge: all committed frames if there are several, else
// the frames of the live owner who has most.
func choose(list *frameList) (pick []int, owner *versionchain.Outcome) {
	count := map[*versionchain.Outcome][]int{}
	for i := range list.frames {
		o := list.frames[i].out
		if o != nil {
			switch st, _ := o.Status(); st {
			case versionchain.Committed, versionchain.Aborted:
				o = nil // aborted rows simply find no reader
			case versionchain.Committing:
				continue
			default:
			}
		}
		if list.frames[i].Len > 1<<20 {
			continue // a large value stays a frame of its own
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
func mergeRows(ins []merged, owner *versionchain.Outcome, low, high []byte, h versionchain.Horizon, complete bool, stretches []base.Epoch) []versionchain.Row {
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
			out = keepNeeded(out, all[i:j], h, complete)
		}
		i = j
	}
	return out
}

// keepNeeded appends the committed versions of one record that a reader needs.
func keepNeeded(out, chain []versionchain.Row, h versionchain.Horizon, complete bool) []versionchain.Row {
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
	// The oldest tombstone hides nothing when all older frames are merged.
	if n := len(out); complete && n > first && out[n-1].Kind == base.KindTombstone && out[n-1].TS <= h.Oldest() {
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

// replace lists the merged frames instead of those picked. If everything was
// merged and the page is empty, the leaf is cut into one leaf per piece, of
// which it keeps the first; the others go straight into the gap.
func (l *Leaf) replace(c *Cache, w *worker, list *frameList, pick []int, owner *versionchain.Outcome, pieces [][]versionchain.Row, complete bool) error {
	e := c.space.BeginEdit()
	if owner == nil {
		e.NeedSync()
	}
	alone := len(pick) == len(list.frames) && l.page.Len() == 0
	image := complete && onePerRecord(pieces)
	if !alone {
		pieces = joinPieces(pieces)
	}
	rest := &frameList{seq: e.Seq()}
	at := 0
	for i := range list.frames {
		if at < len(pick) && pick[at] == i {
			at++
			e.Refs(list.frames[i].Run, -1)
			continue
		}
		rest.frames = append(rest.frames, list.frames[i])
	}
	rest = newList(rest.seq, rest.frames)
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
		nl := newList(e.Seq(), append([]frame{f}, rest.frames...))
		l.putEntry(e, low, high, nl)
		if p == 0 {
			first, firstHigh = nl, high
		}
		low = high
	}
	if first == nil { // nothing is left
		first, firstHigh = rest, l.high
		if len(rest.frames) == 0 {
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
