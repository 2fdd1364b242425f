package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
)

// Indexes are built and dropped, over and over, beside writers of all levels that
// share rows and unique keys, some of them with savepoints and with snapshots from
// long ago. A build ends with ErrKeyExists or with an index that agrees with its table, at
// every moment; statements fail with what the writers do to each other, and nothing else.
func TestIndexBuildAndDropBesideWriters(t *testing.T) {
	for _, tiny := range []bool{false, true} {
		t.Run(fmt.Sprintf("tiny %v", tiny), func(t *testing.T) {
			o := memOptions()
			if tiny {
				o = tinyOptions()
			}
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			var written atomic.Int64
			churn := newCrew()
			for g := range 6 {
				rng := rand.New(rand.NewPCG(uint64(g), *crashSeed+6))
				churn.repeat(func(int) {
					err := db.UpdateWith(ctx, TxOptions{Isolation: Isolation(g % 3), NoSync: true}, func(tx *Tx) error {
						return churnIndexed(tx, tb, rng)
					})
					if err != nil {
						t.Errorf("update: %v", err)
					}
					written.Add(1)
				})
			}
			built, taken, uniques := 0, 0, 0
			for round := 0; (built < 12**scale || taken == 0 || uniques == 0) && !t.Failed(); round++ {
				name, unique := fmt.Sprint("i", round%3), round%3 > 0
				ix, err := db.CreateIndex(ctx, tb, name, unique, churnKeys(unique))
				if errors.Is(err, ErrKeyExists) {
					taken++
					continue
				}
				check(t, err)
				built++
				if unique {
					uniques++
				}
				seen := written.Load()
				eventually(t, "transactions", func() bool { return written.Load() > seen+20 })
				if err := db.Verify(ctx); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				if ix.Ready() == 0 {
					t.Error("not ready")
				}
				check(t, db.DropIndex(ctx, tb, name))
			}
			churn.stop()
			mustClose(t, db)
			t.Logf("%d indexes were built, %d of them unique; %d could not", built, uniques, taken)
		})
	}
}

// churnKeys is the function of an index of the test: each word, or those that begin with
// u.
func churnKeys(unique bool) func(Row, func([]byte)) {
	return func(row Row, emit func([]byte)) {
		byWords(row, func(w []byte) {
			if !unique || len(w) > 0 && w[0] == 'u' {
				emit(w)
			}
		})
	}
}

// churnRows is how many rows there may be: some batches of a build.
const churnRows = 3000

// churnIndexed is one transaction of the test.
func churnIndexed(tx *Tx, tb *Table, rng *rand.Rand) error {
	var sp Savepoint
	for i := range 1 + rng.IntN(6) {
		if rng.IntN(4) == 0 {
			if i > 0 && sp != (Savepoint{}) && rng.IntN(2) == 0 {
				if err := tx.RollbackTo(sp); err != nil {
					return err
				}
			} else if next, err := tx.Savepoint(); err == nil {
				sp = next
			}
		}
		n := rng.IntN(churnRows)
		key := fmt.Appendf(nil, "k%04d", n)
		if rng.IntN(churnRows/6) == 0 {
			n = rng.IntN(churnRows) // another row's
		}
		val := fmt.Appendf(nil, "u%04d w%d", n, rng.IntN(9))
		if rng.IntN(3) == 0 {
			val = fmt.Appendf(nil, "w%d w%d", rng.IntN(9), rng.IntN(9))
		}
		var err error
		switch rng.IntN(5) {
		case 0:
			err = tx.Delete(tb, key)
		case 1:
			err = tx.Insert(tb, key, val)
		case 2:
			if _, err = tx.GetForUpdate(tb, key); err == nil {
				err = tx.Update(tb, key, val)
			}
		default:
			err = tx.Put(tb, key, val)
		}
		if err != nil && !errors.Is(err, ErrKeyExists) && !errors.Is(err, ErrNotFound) {
			return err
		}
		for n := rng.IntN(10); n == 0 && rng.IntN(500) > 0; { // it becomes old
			runtime.Gosched()
		}
	}
	return nil
}
