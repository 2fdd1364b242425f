package history

import (
	"cmp"
	"slices"
)

// edgeType is why one transaction must come before another, as a bit.
type edgeType uint8

const (
	ww     edgeType = 1 << iota // overwrote
	wr                          // read from
	rwItem                      // the version read was overwritten
	rwMiss                      // the row that a scan did not find was inserted
	rt                          // ended before the other began
)

const rw = rwItem | rwMiss

func (t edgeType) String() string {
	switch t {
	case ww:
		return "ww"
	case wr:
		return "wr"
	case rwItem:
		return "rw"
	case rwMiss:
		return "rw by absence"
	case rt:
		return "rt"
	default:
		return "?"
	}
}

type edge struct {
	from, to int32
	obj      int32 // -1: none
	typ      edgeType
}

// graph has a node for each transaction and, behind them, one for each moment at
// which one ended: transaction → moment → next moment → transaction that began
// later. So real time takes two edges for each transaction.
type graph struct {
	txns  int
	nodes int
	edges []edge // by from
	first []int32
}

func (g *graph) out(n int32) []edge { return g.edges[g.first[n]:g.first[n+1]] }

// link draws the edges.
func (c *checker) link() {
	g := &c.graph
	g.txns = len(c.h.Txns)
	add := func(from, to, obj int32, typ edgeType) {
		if from != to && from >= 0 && to >= 0 {
			g.edges = append(g.edges, edge{from, to, obj, typ})
		}
	}
	for i := range c.objs {
		o, obj := &c.objs[i], int32(i)
		last := int32(-1)
		for _, w := range o.order {
			if w >= 0 {
				add(last, w, obj, ww)
				last = w
			}
		}
		for _, w := range o.unread {
			add(last, w, obj, ww)
		}
	}
	for i := range c.views {
		v := &c.views[i]
		o := &c.objs[v.obj]
		if v.pos > 0 {
			add(o.order[v.pos-1], v.txn, v.obj, wr)
		}
		typ := rwItem
		if v.missed {
			typ = rwMiss
		}
		next := int(v.pos)
		for next < len(o.order) && o.order[next] < 0 {
			next++
		}
		if next < len(o.order) {
			add(v.txn, o.order[next], v.obj, typ)
			continue
		}
		for _, w := range o.unread {
			add(v.txn, w, v.obj, typ)
		}
	}
	c.res.Edges = len(g.edges)
	g.nodes = g.txns
	c.linkTime()
	slices.SortFunc(g.edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.typ, b.typ), cmp.Compare(a.obj, b.obj))
	})
	g.first = make([]int32, g.nodes+1)
	at := 0
	for n := range g.first {
		for at < len(g.edges) && int(g.edges[at].from) < n {
			at++
		}
		g.first[n] = int32(at)
	}
}

// linkTime draws the edges of real time.
func (c *checker) linkTime() {
	type event struct {
		at  int64
		end bool
		txn int32
	}
	var events []event
	for ti := range c.h.Txns {
		t := &c.h.Txns[ti]
		if t.End == 0 || !c.reads(t) {
			continue
		}
		events = append(events, event{t.Begin, false, int32(ti)})
		if t.Status == Committed {
			events = append(events, event{t.End, true, int32(ti)})
		}
	}
	slices.SortFunc(events, func(a, b event) int {
		if a.at == b.at && a.end != b.end {
			if b.end {
				return -1 // at one moment: not one before the other
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.txn, b.txn))
	})
	g := &c.graph
	last := int32(-1)
	for _, e := range events {
		switch {
		case e.end:
			moment := int32(g.nodes)
			g.nodes++
			g.edges = append(g.edges, edge{e.txn, moment, -1, rt})
			if last >= 0 {
				g.edges = append(g.edges, edge{last, moment, -1, rt})
			}
			last = moment
		case last >= 0:
			g.edges = append(g.edges, edge{last, e.txn, -1, rt})
		}
	}
}

// walk is which edges may be taken. Its states are a node each, and whether an rw
// edge led there: 2·node, or 2·node+1. With apart no two rw follow each other;
// without, the second state of a node is never used.
type walk struct {
	mask  edgeType
	apart bool
}

// step returns the state to which an edge leads, if it may be taken.
func (w walk) step(state int32, e *edge) (to int32, ok bool) {
	switch to = e.to << 1; {
	case e.typ&w.mask == 0:
		return 0, false
	case !w.apart || e.typ&rw == 0:
		return to, true
	default:
		return to | 1, state&1 == 0
	}
}

// components returns the strongly connected components of more than one state,
// by Tarjan's algorithm without recursion. comp numbers the component of each
// state, whatever its size.
func (g *graph) components(w walk) (comp []int32, cyclic [][]int32) {
	n := 2 * g.nodes
	comp = make([]int32, n)
	low, num := make([]int32, n), make([]int32, n) // num 0: not visited
	type frame struct {
		state, at int32
	}
	var stack []int32
	var calls []frame
	count, comps := int32(0), int32(0)
	visit := func(s int32) {
		count++
		num[s], low[s] = count, count
		stack = append(stack, s)
		calls = append(calls, frame{s, g.first[s>>1]})
	}
	for root := range int32(n) {
		if num[root] != 0 || root&1 != 0 { // states by rw are entered by rw only
			continue
		}
		visit(root)
		for len(calls) > 0 {
			f := &calls[len(calls)-1]
			if f.at < g.first[f.state>>1+1] {
				e := &g.edges[f.at]
				f.at++
				to, ok := w.step(f.state, e)
				switch {
				case !ok:
				case num[to] == 0:
					visit(to)
				case comp[to] == 0:
					low[f.state] = min(low[f.state], num[to])
				}
				continue
			}
			s := f.state
			calls = calls[:len(calls)-1]
			if len(calls) > 0 {
				up := calls[len(calls)-1].state
				low[up] = min(low[up], low[s])
			}
			if low[s] != num[s] {
				continue
			}
			comps++
			from := len(stack)
			for {
				from--
				comp[stack[from]] = comps
				if stack[from] == s {
					break
				}
			}
			if len(stack)-from > 1 {
				cyclic = append(cyclic, slices.Clone(stack[from:]))
			}
			stack = stack[:from]
		}
	}
	return comp, cyclic
}
