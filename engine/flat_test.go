package engine

import (
	"fmt"
	"testing"
)

// Nothing grows with the statements of one transaction that touches three rows, with
// a savepoint for each statement or without (M5, S6): not record memory, the Go heap,
// the log or the runs, whether the rows stay, are chilled, or leave memory.
//
// The story: each savepoint that was released left its versions. They piled up in the
// page, filled it, and went to frames whole: 20 MB of runs for 60 000 updates. And
// each savepoint that a large transaction rolled back left a dead interval, of which
// the list was copied by the next one: 20 000 of them took four seconds.
func TestOneTransactionStaysFlat(t *testing.T) {
	// The rest of the steps is -saker.scale: 100 is a million updates of each kind.
	const steps = 4000
	for name, step := range flatSteps {
		for _, m := range []int{0, 1, 4} { // stay, chill, evict
			m := moves[m]
			for _, threshold := range []int64{1, 64 << 10} {
				t.Run(fmt.Sprintf("%s/%s/threshold=%d", name, m.name, threshold), func(t *testing.T) {
					o := memOptions()
					o.ChillThreshold = threshold
					db, tb := threeRows(t, o)
					tx := mustBegin(t, db, TxOptions{})
					x := &flatTx{T: t, tx: tx, tb: tb}
					for range 2 {
						x.savepoint()
					}
					n := steps * *scale
					var early int64
					flat(t, db, n, func(i int) {
						step(x, i)
						if i%(n/16) == 0 {
							m.fn(t, db)
						}
						if i == n/4 {
							early = heldBytes(t, db)
						}
					})
					if late := heldBytes(t, db); late > early+512<<10 {
						t.Errorf("heap and disk grew from %d to %d KiB\n%s", early>>10, late>>10, db.Metrics())
					}
					if dead := len(dead(t, db)); dead > 1 {
						t.Errorf("%d dead intervals", dead)
					}
					want := string(value(x.last, 100))
					wantKV(t, tx, tb, "row0", want, "row1", want, "row2", want)
					commit(t, tx)
					mustClose(t, db)
					db = mustOpen(t, o)
					tb = mustTable(t, db, "t")
					inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "row0", want, "row1", want, "row2", want) })
					mustClose(t, db)
				})
			}
		}
	}
}

// heldBytes is the Go heap, the files in memory included.
func heldBytes(t *testing.T, db *DB) int64 {
	t.Helper()
	waitSwept(t, db)
	return liveHeap(t)
}

// dead returns the dead intervals of the only transaction.
func dead(t *testing.T, db *DB) []string {
	t.Helper()
	var out []string
	for _, iv := range db.reg.Get(txnOf(t, db)).Dead() {
		out = append(out, fmt.Sprint(iv))
	}
	return out
}

// flatTx is a transaction that updates three rows, again and again.
type flatTx struct {
	*testing.T
	tx   *Tx
	tb   *Table
	sps  []Savepoint
	last int // what the rows have
}

func (x *flatTx) savepoint() Savepoint {
	x.Helper()
	sp, err := x.tx.Savepoint()
	check(x, err)
	x.sps = append(x.sps, sp)
	return sp
}

func (x *flatTx) update(i int) {
	x.Helper()
	for r := range 3 {
		check(x, x.tx.Update(x.tb, fmt.Appendf(nil, "row%d", r), value(i, 100)))
	}
}

// flatSteps are patterns of statements.
var flatSteps = map[string]func(x *flatTx, i int){
	"updates": func(x *flatTx, i int) { x.update(i); x.last = i },
	"released": func(x *flatTx, i int) {
		sp := x.savepoint()
		x.update(i)
		check(x, x.tx.Release(sp))
		x.sps, x.last = x.sps[:2], i
	},
	"released, nested": func(x *flatTx, i int) {
		sp := x.savepoint()
		for d := range 3 {
			x.update(i*10 + d)
			x.savepoint()
		}
		check(x, x.tx.Release(sp))
		x.sps, x.last = x.sps[:2], i*10+2
	},
	"released, deep": func(x *flatTx, i int) {
		sp := x.savepoint()
		x.savepoint()
		x.update(i)
		check(x, x.tx.Release(sp))
		x.sps, x.last = x.sps[:2], i
	},
	"rolled back": func(x *flatTx, i int) {
		sp := x.savepoint()
		x.update(i)
		check(x, x.tx.RollbackTo(sp))
		check(x, x.tx.Release(sp))
		x.sps = x.sps[:2]
	},
	"rolled back to one": func(x *flatTx, i int) {
		x.update(i)
		check(x, x.tx.RollbackTo(x.sps[1]))
	},
}
