package engine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// 20. An insert blocked by a key pending at a savepoint: rollback of the
// savepoint unblocks it; a commit is a conflict.
func TestScenario20BlockedInsert(t *testing.T) {
	for _, how := range []string{"savepoint", "rollback", "commit"} {
		t.Run(how, func(t *testing.T) {
			eachMove(t, func(s *story) {
				s.seed("other", "0")
				tx := s.begin()
				put(s, tx, s.tb, "mine", "1")
				sp := s.savepoint(tx)
				check(s, tx.Insert(s.tb, []byte("k"), []byte("pending")))
				s.move()
				waiter := s.begin()
				done := waiting(s.T, s.db, func() error { return waiter.Insert(s.tb, []byte("k"), []byte("waited")) })
				switch how {
				case "savepoint":
					s.rollbackTo(tx, sp)
					check(s, <-done)
					commit(s, waiter)
					commit(s, tx)
					s.wantCommitted("k", "waited", "mine", "1", "other", "0")
				case "rollback":
					rollback(s, tx)
					check(s, <-done)
					commit(s, waiter)
					s.wantCommitted("k", "waited", "other", "0")
				case "commit":
					commit(s, tx)
					wantErr(s, "insert", <-done, ErrConflict)
					rollback(s, waiter)
					s.wantCommitted("k", "pending", "mine", "1", "other", "0")
				}
			})
		})
	}
}

// 21. Two versions of a record across savepoints, backlogged; nested rollbacks
// and a crash.
func TestScenario21NestedRollbacksAndCrash(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0", "gone", "0")
		tx := s.begin()
		put(s, tx, s.tb, "k", "1")
		a := s.savepoint(tx)
		put(s, tx, s.tb, "k", "2")
		del(s, tx, s.tb, "gone")
		s.move()
		b := s.savepoint(tx)
		put(s, tx, s.tb, "k", "3")
		put(s, tx, s.tb, "gone", "back")
		s.move()
		s.want(tx, "k", "3", "gone", "back")
		s.rollbackTo(tx, b)
		s.want(tx, "k", "2")
		s.move()
		s.rollbackTo(tx, a)
		s.want(tx, "k", "1", "gone", "0")
		// A crash now: nothing of it was committed.
		o := *s.o
		o.FS = s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		db := mustOpen(s, &o)
		inView(s, db, func(tx *Tx) { wantKV(s, tx, mustTable(s, db, "t"), "k", "0", "gone", "0") })
		mustClose(s, db)
		commit(s, tx)
		s.wantCommitted("k", "1", "gone", "0")
	})
}

// 22. Update, delete and reinsert of one key against a waiting writer.
func TestScenario22ReinsertAgainstWaiter(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0")
		for round := range 3 {
			tx := s.begin()
			check(s, tx.Update(s.tb, []byte("k"), []byte("1")))
			s.move()
			reader := mustBegin(s, s.db, TxOptions{ReadOnly: true})
			waiter := s.begin()
			done := waiting(s.T, s.db, func() error { return waiter.Update(s.tb, []byte("k"), []byte("waiter")) })
			del(s, tx, s.tb, "k")
			s.move()
			check(s, tx.Insert(s.tb, []byte("k"), []byte("2")))
			select {
			case err := <-done:
				s.Fatalf("the waiter went on: %v", err)
			default:
			}
			if round%2 == 0 {
				commit(s, tx)
				wantErr(s, "update", <-done, ErrConflict)
				s.want(waiter, "k", "0")
				rollback(s, waiter)
				s.want(reader, "k", "0")
				rollback(s, reader)
				s.wantCommitted("k", "2")
				inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "k", "0") })
			} else {
				rollback(s, tx)
				check(s, <-done)
				s.want(reader, "k", "0")
				rollback(s, reader)
				commit(s, waiter)
				s.wantCommitted("k", "waiter")
				inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "k", "0") })
			}
			waitSwept(s, s.db)
		}
	})
}

// 23. Crossing updates: the requester fails, the other goes on.
func TestScenario23Deadlock(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0", "c", "0")
		t1, t2, t3 := s.begin(), s.begin(), s.begin()
		put(s, t1, s.tb, "a", "1")
		put(s, t2, s.tb, "b", "2")
		_, err := t3.GetForUpdate(s.tb, []byte("c"))
		check(s, err)
		s.move()
		d1 := waiting(s.T, s.db, func() error { return t1.Put(s.tb, []byte("b"), []byte("1")) })
		d2 := waiting(s.T, s.db, func() error { return t2.Delete(s.tb, []byte("c")) })
		wantErr(s, "put that closes the circle", t3.Put(s.tb, []byte("a"), nil), ErrDeadlock)
		rollback(s, t3)
		check(s, <-d2)
		commit(s, t2)
		wantErr(s, "put after the commit", <-d1, ErrConflict)
		commit(s, t1) // a failed statement leaves the rest
		s.wantCommitted("a", "1", "b", "2")
	})
}

// 24. Insert and delete of unique ids by several clients: no conflicts, an empty
// table. 26. Half of it rolled back. 27. Sums that never change, with savepoints.
func TestScenario24To27Clients(t *testing.T) {
	for name, o := range map[string]*Options{"roomy": memOptions(), "tiny": tinyOptions()} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, o)
			ids := mustTable(t, db, "ids")
			accounts := mustTable(t, db, "accounts")
			const n, each = 50, 1000
			inUpdate(t, db, func(tx *Tx) {
				for i := range n {
					put(t, tx, accounts, fmt.Sprintf("%03d", i), fmt.Sprint(each))
				}
			})
			var wg sync.WaitGroup
			for client := range 4 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(client), 3))
					for i := range 120 * *scale {
						check2(t, uniqueIDs(db, ids, client, i, rng))
						check2(t, transfer(db, accounts, n, rng))
					}
				})
			}
			c := newCrew()
			c.repeat(func(int) { check2(t, sumIs(db, accounts, n, n*each)) })
			wg.Wait()
			c.stop()
			check(t, sumIs(db, accounts, n, n*each))
			inView(t, db, func(tx *Tx) {
				if rows := all(t, tx, ids); len(rows) != 0 {
					t.Errorf("%d rows are left: %.100q", len(rows), rows)
				}
			})
			mustClose(t, db)
		})
	}
}

// uniqueIDs inserts ids of its own and deletes them; nobody can be in the way.
func uniqueIDs(db *DB, tb *Table, client, i int, rng *rand.Rand) error {
	tx, err := db.Begin(ctx, TxOptions{NoSync: true})
	if err != nil {
		return err
	}
	for j := range 5 {
		if err := tx.Insert(tb, fmt.Appendf(nil, "%06d/%d", i*5+j, client), value(i, 100)); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
	}
	if rng.IntN(2) == 0 {
		return tx.Rollback()
	}
	if rng.IntN(2) == 0 { // the delete in a transaction of its own
		if err := tx.Commit(); err != nil {
			return err
		}
		if tx, err = db.Begin(ctx, TxOptions{NoSync: true}); err != nil {
			return err
		}
	}
	for j := range 5 {
		if err := tx.Delete(tb, fmt.Appendf(nil, "%06d/%d", i*5+j, client)); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	return tx.Commit()
}

// transfer moves an amount; a part of it is done, undone and done again.
func transfer(db *DB, tb *Table, n int, rng *rand.Rand) error {
	from, to, amount := rng.IntN(n), rng.IntN(n), rng.IntN(9)
	return db.Update(ctx, func(tx *Tx) error {
		add := func(i, d int) error {
			key := fmt.Appendf(nil, "%03d", i)
			v, err := tx.GetForUpdate(tb, key)
			if err != nil {
				return err
			}
			var have int
			if _, err := fmt.Sscan(string(v), &have); err != nil {
				return err
			}
			return tx.Update(tb, key, fmt.Append(nil, have+d))
		}
		if err := add(from, -amount); err != nil {
			return err
		}
		sp, err := tx.Savepoint()
		if err != nil {
			return err
		}
		for range 2 {
			if err := tx.RollbackTo(sp); err != nil {
				return err
			}
			if err := add(to, amount); err != nil {
				return err
			}
		}
		return tx.Release(sp)
	})
}

// sumIs adds up all accounts by scan in both directions and by key.
func sumIs(db *DB, tb *Table, n, want int) error {
	return db.View(ctx, func(tx *Tx) error {
		var sums [3]int
		for i, reverse := range []bool{false, true} {
			for row, err := range tx.Scan(tb, Range{Reverse: reverse}) {
				if err != nil {
					return err
				}
				var v int
				if _, err := fmt.Sscan(string(row.Value), &v); err != nil {
					return err
				}
				sums[i] += v
			}
		}
		for i := range n {
			v, err := tx.Get(tb, fmt.Appendf(nil, "%03d", i))
			if err != nil {
				return err
			}
			var have int
			if _, err := fmt.Sscan(string(v), &have); err != nil {
				return err
			}
			sums[2] += have
		}
		if sums != [3]int{want, want, want} {
			return fmt.Errorf("sums %v, want %d", sums, want)
		}
		return nil
	})
}

// 8. A reader holds its snapshot while others make point updates.
func TestScenario08LongReader(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const n = 2000
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, n, 255) })
	reader := mustBegin(t, db, TxOptions{ReadOnly: true})
	c := newCrew()
	defer c.stop()
	var commits atomic.Int64
	for g := range 2 {
		rng := rand.New(rand.NewPCG(uint64(g), 8))
		c.repeat(func(i int) {
			check2(t, db.Update(ctx, func(tx *Tx) error {
				for range 10 {
					if err := tx.Put(tb, fmt.Appendf(nil, "k%06d", rng.IntN(n)), value(-i, 255)); err != nil {
						return err
					}
				}
				return nil
			}))
			commits.Add(1)
		})
	}
	for commits.Load() < 2000*int64(*scale) && !t.Failed() {
		wantRows(t, reader, tb, 0, n, 255)
		checkCap(t, db)
	}
	c.stop()
	rollback(t, reader)
	mustClose(t, db)
}

// 28. A long transaction does not stall the log: others commit many times its
// size meanwhile, and a crash loses nothing.
func TestScenario28LongTransactionAndLog(t *testing.T) {
	o := memOptions()
	o.LogSegmentSize, o.LogLimit = 64<<10, 1<<20
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	long := mustBegin(t, db, TxOptions{})
	fillRows(t, long, tb, 0, 2000, 100) // groups in some segments
	for i := range 200 {
		inUpdate(t, db, func(tx *Tx) {
			for j := range 50 {
				put(t, tx, tb, fmt.Sprintf("x%d", j), string(value(i, 1000)))
			}
		})
		if i%20 == 0 {
			fillRows(t, long, tb, 2000+i, 2001+i, 100)
			chillAll(t, db)
		}
	}
	check(t, db.Checkpoint(ctx))
	if st := db.log.Stats(); st.Segments > 60 {
		t.Errorf("%d segments of 64 KiB are kept", st.Segments)
	}
	gets(t, long, tb, "k000007", string(value(7, 100)))
	commit(t, long)
	atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
		inView(t, db, func(tx *Tx) {
			tb := mustTable(t, db, "t")
			if n := len(all(t, tx, tb)); n != 2060 {
				t.Errorf("%d rows", n)
			}
			gets(t, tx, tb, "k001999", string(value(1999, 100)))
			gets(t, tx, tb, "x7", string(value(199, 1000)))
		})
	})
	mustClose(t, db)
}
