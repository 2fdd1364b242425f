package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// bump reads the counter at key, locked, and adds one.
func bump(tx *Tx, tb *Table, key string) error {
	v, err := tx.GetForUpdate(tb, []byte(key))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	n, _ := strconv.Atoi(string(v))
	return tx.Put(tb, []byte(key), []byte(strconv.Itoa(n+1)))
}

// queueUp starts n transactions, one after the other, that wait for the counter "k".
func queueUp(t *testing.T, db *DB, tb *Table, o TxOptions, n int, after func(i int, tx *Tx, err error) error) []chan error {
	t.Helper()
	var done []chan error
	for i := range n {
		done = append(done, waiting(t, db, func() error {
			tx, err := db.Begin(ctx, o)
			if err != nil {
				return err
			}
			return after(i, tx, bump(tx, tb, "k"))
		}))
	}
	return done
}

// Those who wait for one record are let in one by one, in the order in which they
// came: as many wake-ups as waiters, not one for each pair of them. Those whom a
// commit fails wake at once, each once.
func TestWakeUpsAreLinear(t *testing.T) {
	const n = 50
	for _, c := range []struct {
		name  string
		o     TxOptions
		end   func(*Tx) error // of the owner
		after func(*Tx) error // of each waiter that got the record
		fails error
	}{
		{"read committed, all commit", readCommitted, (*Tx).Commit, (*Tx).Commit, nil},
		{"read committed, all roll back", readCommitted, (*Tx).Rollback, (*Tx).Rollback, nil},
		{"snapshot, the owner commits", TxOptions{}, (*Tx).Commit, (*Tx).Commit, ErrConflict},
		{"snapshot, all roll back", TxOptions{}, (*Tx).Rollback, (*Tx).Rollback, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			owner := mustBegin(t, db, readCommitted)
			check(t, bump(owner, tb, "k"))
			var mu sync.Mutex
			var order []int
			before := db.Metrics()
			done := queueUp(t, db, tb, c.o, n, func(i int, tx *Tx, err error) error {
				if err != nil {
					return errors.Join(err, tx.Rollback())
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				return c.after(tx)
			})
			check(t, c.end(owner))
			for i, d := range done {
				if err := <-d; !errors.Is(err, c.fails) {
					t.Fatalf("waiter %d: %v, want %v", i, err, c.fails)
				}
			}
			for i := range order {
				if order[i] != i {
					t.Fatalf("they got the record in the order %v", order)
				}
			}
			if c.fails == nil && len(order) != n {
				t.Fatalf("%d of %d got the record", len(order), n)
			}
			if m := db.Metrics(); m.Waits-before.Waits != n || m.WaitsWoken-before.WaitsWoken != n {
				t.Errorf("%d sleeps and %d wake-ups for %d waiters", m.Waits-before.Waits, m.WaitsWoken-before.WaitsWoken, n)
			}
			if c.fails == nil && c.name == "read committed, all commit" {
				inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", strconv.Itoa(n+1)) })
			}
			mustClose(t, db)
		})
	}
}

// Waiters go on when the one before them in the queue is cancelled, times out, rolls
// its savepoint back, or never gets to own the record: whatever ends a statement.
func TestQueueGoesOnAfterAnyEnd(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "0") })
	owner := mustBegin(t, db, TxOptions{})
	put(t, owner, tb, "mine", "1")
	sp, err := owner.Savepoint()
	check(t, err)
	del(t, owner, tb, "k")
	cctx, cancel := context.WithCancel(ctx)
	cancelled, err := db.Begin(cctx, TxOptions{})
	check(t, err)
	dCancelled := waiting(t, db, func() error { return cancelled.Put(tb, []byte("k"), []byte("cancelled")) })
	hasty := mustBegin(t, db, TxOptions{LockTimeout: time.Millisecond})
	dHasty := waiting(t, db, func() error { return hasty.Put(tb, []byte("k"), []byte("hasty")) })
	inserts := mustBegin(t, db, TxOptions{})
	dInserts := waiting(t, db, func() error { return inserts.Insert(tb, []byte("k"), []byte("inserts")) })
	undoes := mustBegin(t, db, TxOptions{})
	undo, err := undoes.Savepoint()
	check(t, err)
	dUndoes := waiting(t, db, func() error { return undoes.Put(tb, []byte("k"), []byte("undoes")) })
	last := mustBegin(t, db, TxOptions{})
	dLast := waiting(t, db, func() error { return last.Put(tb, []byte("k"), []byte("last")) })

	wantErr(t, "put with a lock timeout", <-dHasty, ErrLockTimeout)
	cancel()
	wantErr(t, "put with a cancelled context", <-dCancelled, context.Canceled)
	gets(t, cancelled, tb, "k", "0") // it has ended nothing but the statement
	gets(t, hasty, tb, "k", "0")
	put(t, hasty, tb, "elsewhere", "1")
	commit(t, hasty)
	rollback(t, cancelled)
	check(t, owner.RollbackTo(sp))
	wantErr(t, "insert of what exists again", <-dInserts, ErrKeyExists)
	check(t, <-dUndoes)
	check(t, undoes.RollbackTo(undo))
	check(t, <-dLast)
	commit(t, undoes)
	commit(t, last)
	commit(t, inserts)
	commit(t, owner)
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "last", "mine", "1", "elsewhere", "1") })
	mustClose(t, db)
}

// A rollback to a savepoint takes versions out of their pages. Who has just seen one
// there, and comes to wait for it only when the rollback is over, must not sleep. It
// did, until the owner's end: nothing told it that the version was gone, since only
// versions that left memory leave a dead interval. Here the owner waits for it.
func TestNoWaitForWhatASavepointUndid(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	owner := mustBegin(t, db, TxOptions{})
	put(t, owner, tb, "mine", "1")
	sp, err := owner.Savepoint()
	check(t, err)
	for i := range 3000 {
		put(t, owner, tb, "k", "pending")
		done, ready := make(chan error, 1), make(chan struct{})
		go func() {
			tx, err := db.Begin(ctx, TxOptions{})
			if err != nil {
				done <- err
				return
			}
			close(ready)
			err = tx.Put(tb, []byte("k"), nil)
			done <- errors.Join(err, tx.Rollback())
		}()
		<-ready
		for range i % 100 {
			_ = db.m.Clock() // the two meet at another moment each time
		}
		check(t, owner.RollbackTo(sp))
		select {
		case err := <-done:
			check(t, err)
		case <-time.After(patience):
			t.Fatalf("round %d: it waits for a version that is gone", i)
		}
	}
	rollback(t, owner)
	mustClose(t, db)
}

// Cycles of two to five transactions, each behind others in the queue of the record
// that it wants: exactly the one that closes the cycle is the victim, and all the
// others go on when it rolls back.
func TestDeadlocksThroughQueues(t *testing.T) {
	for _, o := range []TxOptions{{}, readCommitted} {
		for n := 2; n <= 5; n++ {
			t.Run(fmt.Sprintf("%v, cycle of %d", o.Isolation, n), func(t *testing.T) {
				db := mustOpen(t, memOptions())
				tb := mustTable(t, db, "t")
				key := func(i int) []byte { return fmt.Appendf(nil, "k%d", i%n) }
				var txs, front []*Tx
				var dTxs, dFront []chan error
				for i := range n {
					txs = append(txs, mustBegin(t, db, o))
					check(t, txs[i].Put(tb, key(i), []byte("first")))
				}
				for i := range n { // one waits for each record, ahead of the cycle
					front = append(front, mustBegin(t, db, o))
					dFront = append(dFront, waiting(t, db, func() error {
						_, err := front[i].GetForUpdate(tb, key(i))
						return err
					}))
				}
				for i := range n - 1 {
					dTxs = append(dTxs, waiting(t, db, func() error { return txs[i].Put(tb, key(i+1), []byte("second")) }))
				}
				victim := txs[n-1]
				wantErr(t, "the put that closes the cycle", victim.Put(tb, key(0), nil), ErrDeadlock)
				gets(t, victim, tb, string(key(n-1)), "first")
				rollback(t, victim)
				// From the end of the chain: who waits ahead gets the record and lets go.
				end := (*Tx).Rollback // a commit would fail the next
				if o.Isolation == ReadCommitted {
					end = (*Tx).Commit
				}
				for i := n - 1; i >= 0; i-- {
					if err := <-dFront[i]; err != nil && !errors.Is(err, ErrNotFound) {
						t.Fatalf("the one that waited for record %d first: %v", i, err)
					}
					check(t, end(front[i]))
					if i > 0 {
						check(t, <-dTxs[i-1])
						check(t, end(txs[i-1]))
					}
				}
				if d := db.Metrics().Deadlocks; d != 1 {
					t.Errorf("%d deadlocks", d)
				}
				mustClose(t, db)
			})
		}
	}
}

// NOWAIT and a limit of the store's, which a transaction overrides.
func TestLockTimeout(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0")
		owner := s.begin()
		put(s, owner, s.tb, "k", "1")
		wantErr(s, "absent", func() error { _, err := owner.GetForUpdate(s.tb, []byte("absent")); return err }(), ErrNotFound)
		s.move()
		for _, iso := range []Isolation{Snapshot, ReadCommitted} {
			for _, limit := range []time.Duration{-1, time.Microsecond, time.Millisecond} {
				tx := mustBegin(s, s.db, TxOptions{Isolation: iso, LockTimeout: limit})
				put(s, tx, s.tb, "mine", "2")
				for _, key := range []string{"k", "absent"} {
					wantErr(s, "put", tx.Put(s.tb, []byte(key), []byte("2")), ErrLockTimeout)
					wantErr(s, "insert", tx.Insert(s.tb, []byte(key), []byte("2")), ErrLockTimeout)
					wantErr(s, "delete", tx.Delete(s.tb, []byte(key)), ErrLockTimeout)
					_, err := tx.GetForUpdate(s.tb, []byte(key))
					wantErr(s, "GetForUpdate", err, ErrLockTimeout)
				}
				s.want(tx, "k", "0", "mine", "2")
				rollback(s, tx)
			}
		}
		if IsRetryable(ErrLockTimeout) {
			s.Error("a lock timeout is retryable")
		}
		calls := 0
		err := s.db.UpdateWith(ctx, TxOptions{LockTimeout: -1}, func(tx *Tx) error {
			calls++
			return tx.Put(s.tb, []byte("k"), nil)
		})
		wantErr(s, "update", err, ErrLockTimeout)
		if calls != 1 {
			s.Errorf("Update ran %d times after a lock timeout", calls)
		}
		commit(s, owner)
		s.wantCommitted("k", "1")
	})
	o := memOptions()
	o.LockTimeout = time.Millisecond
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	owner, hasty := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	patient := mustBegin(t, db, TxOptions{LockTimeout: time.Hour})
	put(t, owner, tb, "k", "1")
	done := waiting(t, db, func() error { return patient.Put(tb, []byte("k"), []byte("2")) })
	wantErr(t, "put under the store's limit", hasty.Put(tb, []byte("k"), nil), ErrLockTimeout)
	rollback(t, owner)
	check(t, <-done)
	commit(t, patient)
	rollback(t, hasty)
	if n := db.Metrics().LockTimeouts; n != 1 {
		t.Errorf("%d lock timeouts counted", n)
	}
	mustClose(t, db)
}

// Close ends transactions that wait, in queues too: each statement gets ErrClosed.
func TestCloseEndsWaiters(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	owner := mustBegin(t, db, TxOptions{})
	put(t, owner, tb, "k", "1")
	var done []chan error
	for i := range 8 {
		tx := mustBegin(t, db, TxOptions{Isolation: Isolation(i % 2), LockTimeout: time.Duration(i%3) * time.Hour})
		done = append(done, waiting(t, db, func() error { return tx.Put(tb, []byte("k"), nil) }))
	}
	check(t, db.Close())
	for i, d := range done {
		if err := <-d; !errors.Is(err, ErrClosed) {
			t.Errorf("waiter %d: %v, want ErrClosed", i, err)
		}
	}
	wantErr(t, "commit of the owner", owner.Commit(), ErrClosed)
}

// Statements on a few records wait for each other in every way there is, and are
// cancelled, timed out, rolled back, whole and to savepoints, at random, in little
// memory. Whoever is forgotten hangs; what each counter says at the end is what was
// committed.
func TestWaitsAtRandom(t *testing.T) {
	for _, iso := range []Isolation{Snapshot, ReadCommitted} {
		t.Run(iso.String(), func(t *testing.T) { waitsAtRandom(t, iso) })
	}
}

func waitsAtRandom(t *testing.T, iso Isolation) {
	t.Helper()
	const keys, clients, rounds = 3, 10, 150
	o := tinyOptions()
	o.NoSync = true
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	var mu sync.Mutex
	var want [keys]int
	key := func(i int) string { return fmt.Sprintf("k%d", i) }
	movers := newCrew()
	movers.repeat(func(i int) {
		if i%2 == 0 {
			backlogAll(t, db)
			return
		}
		chillAll(t, db)
		pruneAll(t, db)
	})
	once := func(r *rand.Rand) error {
		cctx, cancel := context.WithCancel(ctx)
		defer cancel()
		limit := time.Duration(0)
		switch r.IntN(4) {
		case 0:
			limit = time.Duration(r.IntN(500)) * time.Microsecond
		case 1:
			limit = -1
		case 2:
			go func() { // at some moment, in whatever statement it is then
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
				cancel()
			}()
		}
		tx, err := db.Begin(cctx, TxOptions{Isolation: iso, LockTimeout: limit})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		var added [keys]int
		for range 1 + r.IntN(4) {
			sp, err := tx.Savepoint()
			if err != nil {
				return err
			}
			k := r.IntN(keys)
			if err := bump(tx, tb, key(k)); err != nil {
				return err
			}
			for range r.IntN(100) {
				runtime.Gosched() // to those who want the record too
			}
			if r.IntN(3) == 0 {
				if err := tx.RollbackTo(sp); err != nil {
					return err
				}
				continue
			}
			added[k]++
		}
		if r.IntN(4) == 0 {
			return tx.Rollback()
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for i, n := range added {
			want[i] += n
		}
		return nil
	}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), uint64(iso)))
			for range rounds {
				err := once(r)
				if err != nil && !IsRetryable(err) && !errors.Is(err, ErrLockTimeout) && !errors.Is(err, context.Canceled) {
					t.Errorf("client %d: %v", c, err)
				}
				if iso == ReadCommitted && errors.Is(err, ErrConflict) {
					t.Errorf("client %d: a conflict at read committed", c)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(4 * patience):
		t.Fatal("somebody waits for ever")
	}
	movers.stop()
	inView(t, db, func(tx *Tx) {
		for i, n := range want {
			if n == 0 {
				t.Fatalf("nobody changed record %d", i)
			}
			gets(t, tx, tb, key(i), strconv.Itoa(n))
		}
	})
	m := db.Metrics()
	if m.Waits == 0 || m.Deadlocks == 0 || m.LockTimeouts == 0 {
		t.Errorf("%d waits, %d deadlocks, %d lock timeouts: nothing was in the way", m.Waits, m.Deadlocks, m.LockTimeouts)
	}
	mustClose(t, db)
}

// A cancelled context ends the wait for the log's checkpoint (L9) as it ends that for
// another transaction; the transaction may go on, or roll back.
func TestContextEndsWaitForTheLog(t *testing.T) {
	o := memOptions()
	o.NoSync = true
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	check(t, db.ckpt.mu.lock(ctx)) // no checkpoint for now
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 2000, 1500) })
	if owed := db.m.Owed(); owed <= o.LogLimit {
		t.Fatalf("the log owes %d bytes", owed)
	}
	c := &switchCtx{Context: ctx}
	stays, err := db.Begin(c, TxOptions{})
	check(t, err)
	goes, err := db.Begin(c, readCommitted)
	check(t, err)
	for _, tx := range []*Tx{stays, goes} {
		wantErr(t, "first write", c.impatiently(func() error { return tx.Put(tb, []byte("k"), nil) }), context.Canceled)
		gets(t, tx, tb, "k", "")
	}
	rollback(t, goes)
	db.ckpt.mu.unlock()
	put(t, stays, tb, "k", "1")
	commit(t, stays)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", "1") })
	mustClose(t, db)
}
