package history

import (
	"fmt"
	"slices"
	"strings"
)

// question is one search for cycles.
type question struct {
	walk
	need edgeType // a witness has one of these, if one can be found
	// kinds of a witness: other, if it has rw by absence or, in a walk that keeps
	// them apart, several rw.
	kind, other Kind
}

// questions in the order of the levels: what an earlier one reports, a later one
// does not.
var questions = []question{
	{walk: walk{ww, false}, need: ww, kind: G0},
	{walk: walk{ww | wr, false}, need: wr, kind: G1c},
	{walk: walk{ww | wr | rt, false}, need: ww | wr, kind: G1cRealtime},
	{walk: walk{ww | wr | rw, true}, need: rw, kind: GSingle, other: GNonadjacent},
	{walk: walk{ww | wr | rw | rt, true}, need: rw, kind: GSingleRealtime, other: GNonadjacentRealtime},
	{walk: walk{ww | wr | rw, false}, need: rw, kind: G2Item, other: G2},
	{walk: walk{ww | wr | rw | rt, false}, need: rw, kind: G2ItemRealtime, other: G2Realtime},
}

// cycles asks all questions.
func (c *checker) cycles() {
	g := &c.graph
	told := make([]bool, g.nodes)
	for i := range questions {
		q := &questions[i]
		comp, cyclic := g.components(q.walk)
		for _, states := range cyclic {
			known := false
			for _, s := range states {
				known = known || (told[s>>1] && int(s>>1) < g.txns)
			}
			for _, s := range states {
				told[s>>1] = true
			}
			if known {
				continue
			}
			c.report(q, (&search{g: g, q: q, comp: comp, states: states}).witness())
		}
	}
}

// report names the cycle and tells it.
func (c *checker) report(q *question, cycle []edge) {
	kind, rws, missed := q.kind, 0, false
	for _, e := range cycle {
		if e.typ&rw != 0 {
			rws++
			missed = missed || e.typ == rwMiss
		}
	}
	if (q.apart && rws > 1) || (!q.apart && missed) {
		kind = q.other
	}
	var txns []int
	var text strings.Builder
	for i, e := range cycle {
		if int(e.from) >= c.graph.txns {
			continue // a moment
		}
		t := &c.h.Txns[e.from]
		txns = append(txns, t.ID)
		if i > 0 {
			text.WriteString(" → ")
		}
		fmt.Fprintf(&text, "T%d %v", t.ID, e.typ)
		if e.obj >= 0 {
			fmt.Fprintf(&text, "(%d)", c.objs[e.obj].key)
		}
	}
	fmt.Fprintf(&text, " → T%d", txns[0])
	c.res.add(kind, txns, "%s", text.String())
}

// search looks for a short cycle within one component.
type search struct {
	g      *graph
	q      *question
	comp   []int32
	states []int32
}

const (
	// searchTries is from how many edges of a component a cycle is looked for.
	searchTries = 256
	// searchSteps bounds the edges looked at for one component.
	searchSteps = 1 << 18
)

// witness returns a cycle that starts at a transaction, the shortest of those
// that the bounds allow to find. It has an edge that the question needs, and in a
// walk that keeps rw apart no other rw, if such cycles are found.
func (s *search) witness() []edge {
	if s.q.apart {
		if best := s.through(walk{s.q.mask &^ rw, true}); best != nil {
			return best
		}
	}
	if best := s.through(s.q.walk); best != nil {
		return best
	}
	steps := int(^uint(0) >> 1)
	for _, from := range s.states {
		if int(from>>1) < s.g.txns {
			if path := s.path(s.q.walk, from, from, &steps); path != nil {
				return path
			}
		}
	}
	return nil
}

// through returns a cycle of an edge that the question needs and a walk back.
func (s *search) through(back walk) (best []edge) {
	steps, tries := searchSteps, searchTries
	for _, from := range s.states {
		out := s.g.out(from >> 1)
		for i := range out {
			e := &out[i]
			to, ok := s.q.step(from, e)
			if !ok || e.typ&s.q.need == 0 || s.comp[to] != s.comp[from] {
				continue
			}
			if tries--; tries < 0 || steps < 0 {
				return best
			}
			path := s.path(back, to, from, &steps)
			if path != nil && (best == nil || len(path)+1 < len(best)) {
				best = append([]edge{*e}, path...)
			}
		}
	}
	return best
}

// path returns the edges of a shortest walk from one state to another within
// their component.
func (s *search) path(w walk, from, to int32, steps *int) []edge {
	type step struct {
		state, up int32
		e         edge
	}
	queue := []step{{state: from, up: -1}}
	seen := make(map[int32]bool)
	for at := 0; at < len(queue) && *steps > 0; at++ {
		out := s.g.out(queue[at].state >> 1)
		*steps -= len(out)
		for i := range out {
			next, ok := w.step(queue[at].state, &out[i])
			if !ok || seen[next] || s.comp[next] != s.comp[from] {
				continue
			}
			seen[next] = true
			queue = append(queue, step{next, int32(at), out[i]})
			if next != to {
				continue
			}
			var path []edge
			for k := len(queue) - 1; k > 0; k = int(queue[k].up) {
				path = append(path, queue[k].e)
			}
			slices.Reverse(path)
			return path
		}
	}
	return nil
}
