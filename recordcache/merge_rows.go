package recordcache

import (
	"bytes"
	"slices"
	"sort"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

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
