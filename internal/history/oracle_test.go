package history

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// tiny makes a history of a few transactions out of any reads that lists permit:
// each key has an order of appends, and a read returns some beginning of it. The
// last transaction reads everything, so that the order is known.
func tiny(rng *rand.Rand, txns, keys int) *History {
	h := &History{Txns: make([]Txn, txns)}
	final := Txn{ID: txns}
	lists := make([][]int32, keys)
	for k := range lists {
		for ti := range txns {
			if rng.IntN(3) == 0 {
				lists[k] = append(lists[k], int32(ti+1))
			}
		}
		rng.Shuffle(len(lists[k]), func(i, j int) { lists[k][i], lists[k][j] = lists[k][j], lists[k][i] })
		final.Ops = append(final.Ops, Op{Kind: Read, Key: k, List: lists[k]})
	}
	for ti := range h.Txns {
		x := &h.Txns[ti]
		x.ID = ti
		var appends []Op
		for k, list := range lists {
			// What a transaction appends it has not read before.
			limit := slices.Index(list, int32(ti+1))
			if limit >= 0 {
				appends = append(appends, Op{Kind: Append, Key: k, Value: int32(ti + 1)})
			} else {
				limit = len(list)
			}
			if rng.IntN(2) == 0 {
				x.Ops = append(x.Ops, Op{Kind: Read, Key: k, List: list[:rng.IntN(limit+1)]})
			}
		}
		if k := rng.IntN(keys + 3); k < keys-1 { // a scan of two keys
			op := Op{Kind: Scan, From: k, To: k + 2}
			for at := k; at < k+2; at++ {
				limit := slices.Index(lists[at], int32(ti+1))
				if limit < 0 {
					limit = len(lists[at])
				}
				if n := rng.IntN(limit + 1); n > 0 {
					op.Rows = append(op.Rows, Row{at, lists[at][:n]})
				}
			}
			x.Ops = append(x.Ops, op)
		}
		x.Ops = append(x.Ops, appends...)
	}
	h.Txns = append(h.Txns, final)
	return h
}

// world is what the lists are at one moment.
type world [][]int32

// reads reports whether every read of the transaction is one of this moment.
func (w world) reads(x *Txn) bool {
	same := func(key int, list []int32) bool { return slices.Equal(w[key], list) }
	for _, op := range x.Ops {
		switch op.Kind {
		case Read:
			if !same(op.Key, op.List) {
				return false
			}
		case Scan:
			rows := op.Rows
			for k := op.From; k < op.To; k++ {
				var list []int32
				if len(rows) > 0 && rows[0].Key == k {
					list, rows = rows[0].List, rows[1:]
				}
				if !same(k, list) {
					return false
				}
			}
		default:
		}
	}
	return true
}

// after is the world after the transaction's appends.
func (w world) after(x *Txn) world {
	w = slices.Clone(w)
	for _, op := range x.Ops {
		if op.Kind == Append {
			w[op.Key] = append(slices.Clip(w[op.Key]), op.Value)
		}
	}
	return w
}

func overlap(x, y *Txn) bool {
	for _, a := range x.Ops {
		for _, b := range y.Ops {
			if a.Kind == Append && b.Kind == Append && a.Key == b.Key {
				return true
			}
		}
	}
	return false
}

// execution searches for an order of begins and commits that explains the history,
// by trying all. With serial nobody begins while another one runs.
type execution struct {
	txns    []Txn
	serial  bool
	begun   []int // 0: not, 1: running, 2: committed
	rivals  []map[int]bool
	running int
	done    int
}

func (e *execution) explain(w world) bool {
	if e.done == len(e.txns) {
		return true
	}
	for i := range e.txns {
		x := &e.txns[i]
		switch {
		case e.begun[i] == 0 && (!e.serial || e.running == 0) && w.reads(x):
			e.begun[i] = 1
			e.running++
			e.rivals[i] = map[int]bool{}
			if e.explain(w) {
				return true
			}
			e.begun[i] = 0
			e.running--
		case e.begun[i] == 1 && len(e.rivals[i]) == 0: // first committer wins
			e.begun[i] = 2
			e.running--
			e.done++
			var marked []int
			for j := range e.txns {
				if e.begun[j] == 1 && overlap(x, &e.txns[j]) && !e.rivals[j][i] {
					e.rivals[j][i] = true
					marked = append(marked, j)
				}
			}
			if e.explain(w.after(x)) {
				return true
			}
			for _, j := range marked {
				delete(e.rivals[j], i)
			}
			e.begun[i] = 1
			e.running++
			e.done--
		}
	}
	return false
}

func explained(h *History, keys int, serial bool) bool {
	e := &execution{txns: h.Txns, serial: serial, begun: make([]int, len(h.Txns)), rivals: make([]map[int]bool, len(h.Txns))}
	return e.explain(make(world, keys))
}

// readCommitted reports whether the ww and wr edges, drawn from their definitions
// by comparing everything with everything, have no cycle.
func readCommitted(h *History, keys int) bool {
	n := len(h.Txns)
	before := make([][]bool, n)
	for i := range before {
		before[i] = make([]bool, n)
	}
	final := h.Txns[n-1].Ops
	for k := range keys {
		list := final[k].List
		for i := 1; i < len(list); i++ {
			before[list[i-1]-1][list[i]-1] = true
		}
	}
	sees := func(reader int, list []int32) {
		if len(list) > 0 {
			before[list[len(list)-1]-1][reader] = true
		}
	}
	for i, x := range h.Txns {
		for _, op := range x.Ops {
			sees(i, op.List)
			for _, row := range op.Rows {
				sees(i, row.List)
			}
		}
	}
	for m := range n { // closure
		for i := range n {
			for j := range n {
				before[i][j] = before[i][j] || (before[i][m] && before[m][j])
			}
		}
	}
	for i := range n {
		if before[i][i] {
			return false
		}
	}
	return true
}

// The verdict for each level is that of a search through all executions: nothing
// is reported that can be explained, and whatever cannot be is reported.
func TestCheckAgainstAllExecutions(t *testing.T) {
	rounds := 30000
	if testing.Short() {
		rounds = 3000
	}
	const keys = 3
	var explainable [3]int
	for seed := range uint64(rounds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		h := tiny(rng, 2+rng.IntN(3), keys)
		r := Check(h)
		for l, want := range []bool{readCommitted(h, keys), explained(h, keys, false), explained(h, keys, true)} {
			level := Level(l)
			if want {
				explainable[l]++
			}
			if got := len(r.Forbidden(level)) == 0; got != want {
				t.Fatalf("seed %d, level %d: clean is %v, want %v\n%+v\n%v", seed, l, got, want, h.Txns, r.Found)
			}
		}
	}
	t.Logf("of %d histories %v can be explained", rounds, explainable)
	for l, n := range explainable {
		if n < rounds/50 || n > rounds-rounds/50 {
			t.Errorf("level %d: %d of %d: no test", l, n, rounds)
		}
	}
}

// run is a history of transactions that execute one after the other: as many as
// a benchmark wants, on lists of up to 32 elements.
func run(n int) *History {
	rng := rand.New(rand.NewPCG(1, 1))
	h := &History{Txns: make([]Txn, n)}
	lists := map[int][]int32{}
	window := 0
	for i := range h.Txns {
		x := &h.Txns[i]
		x.ID, x.Begin, x.End = i, int64(2*i+1), int64(2*i+2)
		for range 4 {
			k := window + rng.IntN(100)
			x.Ops = append(x.Ops, Op{Kind: Read, Key: k, List: lists[k]})
			if rng.IntN(2) == 0 {
				lists[k] = append(lists[k], int32(i*8+len(x.Ops)))
				x.Ops = append(x.Ops, Op{Kind: Append, Key: k, Value: lists[k][len(lists[k])-1]})
			}
			if len(lists[k]) >= 32 {
				window++
			}
		}
		scan := Op{Kind: Scan, From: window, To: window + 8}
		for k := scan.From; k < scan.To; k++ {
			if len(lists[k]) > 0 {
				scan.Rows = append(scan.Rows, Row{k, lists[k]})
			}
		}
		x.Ops = append(x.Ops, scan)
	}
	return h
}

// A long history that ran in order is clean, and one exchanged pair of reads in it
// is found.
func TestLongHistory(t *testing.T) {
	h := run(5000)
	if r := Check(h); len(r.Counts) != 0 {
		t.Fatalf("found %v", r.Found)
	}
	x := &h.Txns[4000]
	for i := range x.Ops {
		if op := &x.Ops[i]; op.Kind == Scan {
			op.Rows[0].List = op.Rows[0].List[:len(op.Rows[0].List)-1]
		}
	}
	r := Check(h)
	if len(r.Found) == 0 || len(r.Found) != len(r.Forbidden(Serializable)) {
		t.Fatalf("found %v", r.Found)
	}
}

func BenchmarkCheck(b *testing.B) {
	h := run(100_000)
	b.ReportAllocs()
	for b.Loop() {
		if r := Check(h); len(r.Counts) != 0 {
			b.Fatalf("found %v", r.Found)
		}
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "txns/s")
}
