package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
)

// retrySerial runs fn in serializable transactions until one commits.
func retrySerial(db *DB, noSync bool, fn func(tx *Tx) error) error {
	for {
		tx, err := db.Begin(ctx, TxOptions{Isolation: Serializable, NoSync: noSync})
		if err != nil {
			return err
		}
		if err = fn(tx); err == nil {
			err = tx.Commit()
		}
		if err != nil {
			_ = tx.Rollback()
		}
		if !IsRetryable(err) {
			return err
		}
	}
}

// Invariants that hold if transactions run one after another, and that write skew
// and phantoms break within moments: of each shift one doctor is on call; no book of
// entries goes below zero. Many goroutines, little memory, rows that come and go, and
// readers that look at every moment.
func TestSerializableStress(t *testing.T) {
	for _, spans := range []int{0, 2} {
		t.Run(fmt.Sprintf("spans=%d", spans), func(t *testing.T) {
			o := tinyOptions()
			o.ChillThreshold = 400 // some are large
			db := mustOpen(t, o)
			db.m.ReadSpans = spans
			w := &ward{db: db, tb: mustTable(t, db, "t"), shifts: 2, doctors: 3}
			inUpdate(t, db, func(tx *Tx) {
				for i := range w.shifts * w.doctors {
					put(t, tx, w.tb, fmt.Sprintf("shift%d/%d", i/w.doctors, i%w.doctors), "on")
				}
				for b := range w.shifts {
					put(t, tx, w.tb, fmt.Sprintf("book%d/0", b), "5")
				}
			})
			done := make(chan struct{})
			var movers sync.WaitGroup
			movers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
						moves[i%len(moves)].fn(t, db)
					}
				}
			})
			var g errgroup.Group
			for i := range uint64(8) {
				g.Go(func() error { return w.work(rand.New(rand.NewPCG(i, 1)), 150**scale) })
			}
			err := g.Wait()
			close(done)
			movers.Wait()
			check(t, err)
			check(t, w.look())
			t.Logf("%v", db.Metrics())
			mustClose(t, db)
		})
	}
}

type ward struct {
	db              *DB
	tb              *Table
	shifts, doctors int
}

func (w *ward) work(rng *rand.Rand, rounds int) error {
	for n := range rounds {
		var err error
		switch rng.IntN(5) {
		case 0:
			err = w.look()
		case 1, 2:
			err = retrySerial(w.db, n%4 != 0, func(tx *Tx) error { return w.leave(tx, rng) })
		case 3:
			err = retrySerial(w.db, n%4 != 0, func(tx *Tx) error { return w.enter(tx, rng, rng.IntN(1000000)) })
		default: // padding, by a transaction that reads nothing
			err = w.db.Update(ctx, func(tx *Tx) error {
				return tx.Put(w.tb, fmt.Appendf(nil, "shift%d/pad%d", rng.IntN(w.shifts), rng.IntN(50)), value(n, 500))
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// onCall counts the doctors of a shift who are on call, by one way to read or another.
func (w *ward) onCall(tx *Tx, shift, way int) (on int, err error) {
	if way == 0 {
		for d := range w.doctors {
			v, err := tx.Get(w.tb, fmt.Appendf(nil, "shift%d/%d", shift, d))
			if err != nil {
				return 0, err
			}
			if string(v) == "on" {
				on++
			}
		}
		return on, nil
	}
	r := Range{From: fmt.Appendf(nil, "shift%d/", shift), To: fmt.Appendf(nil, "shift%d/p", shift), Reverse: way == 1}
	for row, err := range tx.Scan(w.tb, r) {
		if err != nil {
			return 0, err
		}
		if string(row.Value) == "on" {
			on++
		}
	}
	return on, nil
}

// leave takes a doctor off call if another one stays, or puts one on.
func (w *ward) leave(tx *Tx, rng *rand.Rand) error {
	shift, d := rng.IntN(w.shifts), rng.IntN(w.doctors)
	on, err := w.onCall(tx, shift, rng.IntN(3))
	if err != nil {
		return err
	}
	key := fmt.Appendf(nil, "shift%d/%d", shift, d)
	is, err := tx.Get(w.tb, key)
	if err != nil {
		return err
	}
	if string(is) == "on" && on < 2 {
		return nil
	}
	is, off := []byte("on"), []byte("off")
	if on >= 2 {
		is = off
	}
	return tx.Put(w.tb, key, is)
}

// sum adds up the entries of a book.
func (w *ward) sum(tx *Tx, book int) (sum int, err error) {
	for row, err := range tx.Scan(w.tb, Range{From: fmt.Appendf(nil, "book%d/", book), To: fmt.Appendf(nil, "book%d0", book)}) {
		if err != nil {
			return 0, err
		}
		var n int
		if _, err := fmt.Sscan(string(row.Value), &n); err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// enter adds an entry to a book: a withdrawal as long as it has enough.
func (w *ward) enter(tx *Tx, rng *rand.Rand, id int) error {
	book := rng.IntN(w.shifts)
	sum, err := w.sum(tx, book)
	if err != nil {
		return err
	}
	amount := 3
	if sum >= 2 {
		amount = -2
	}
	err = tx.Insert(w.tb, fmt.Appendf(nil, "book%d/%d", book, id), fmt.Append(nil, amount))
	if errors.Is(err, ErrKeyExists) {
		return nil
	}
	return err
}

// look checks the invariants at one moment; it is refused nothing.
func (w *ward) look() error {
	tx, err := w.db.Begin(ctx, TxOptions{Isolation: Serializable, ReadOnly: true})
	if err != nil {
		return err
	}
	for s := range w.shifts {
		on, err := w.onCall(tx, s, s%3)
		if err == nil && on < 1 {
			err = fmt.Errorf("nobody of shift %d is on call", s)
		}
		sum, err2 := w.sum(tx, s)
		if err2 == nil && sum < 0 {
			err2 = fmt.Errorf("book %d is at %d", s, sum)
		}
		if err := errors.Join(err, err2); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// M1, M5: read sets get a sixteenth of record memory, all together, and are coarser
// where there is no more; they forget nothing, and give everything back.
func TestSerializableReadSetsAreBounded(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	key := func(i int) []byte { return fmt.Appendf(nil, "%060d", 10*i) }
	const n = 20000
	before := db.arena.Charged()
	var txs []*Tx
	for i := range 12 {
		tx := serial(t, db)
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		for range 1500 {
			if _, err := tx.Get(tb, key(rng.IntN(n))); !errors.Is(err, ErrNotFound) {
				t.Fatalf("get: %v", err)
			}
		}
		_, err := tx.Get(tb, key(i)) // what will be changed
		wantErr(t, "get", err, ErrNotFound)
		txs = append(txs, tx)
		if more, share := db.arena.Charged()-before, db.arena.Cap()/16; more > share {
			t.Fatalf("%d transactions charge %d bytes for what they have read, more than %d", len(txs), more, share)
		}
	}
	if db.arena.Charged() == before {
		t.Fatal("nothing is charged")
	}
	for i, tx := range txs {
		inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, key(i), []byte("new"))) })
		check(t, tx.Put(tb, fmt.Appendf(nil, "mine%d", i), nil))
		wantSkew(t, tx)
	}
	mustClose(t, db)
}
