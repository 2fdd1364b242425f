package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

var readCommitted = TxOptions{Isolation: ReadCommitted}

// Each statement reads what is committed when it begins, wherever that is, by
// every access path; nothing that is not committed.
func TestReadCommittedStatements(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0", "gone", "0")
		tx := mustBegin(s, s.db, readCommitted)
		ro := mustBegin(s, s.db, TxOptions{Isolation: ReadCommitted, ReadOnly: true})
		old := s.begin()
		for i := range 3 {
			now := strconv.Itoa(i + 1)
			w := s.begin()
			put(s, w, s.tb, "a", now)
			put(s, w, s.tb, "new", now)
			del(s, w, s.tb, "gone")
			s.move()
			for _, tx := range []*Tx{tx, ro} {
				if i == 0 {
					s.want(tx, "a", "0", "b", "0", "gone", "0")
				} else {
					s.want(tx, "a", strconv.Itoa(i), "b", "0", "gone", "0", "new", strconv.Itoa(i))
				}
			}
			commit(s, w)
			s.move()
			for _, tx := range []*Tx{tx, ro} {
				s.want(tx, "a", now, "b", "0", "new", now)
			}
			inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "gone", "0") })
			s.want(old, "a", "0", "b", "0", "gone", "0")
		}
		put(s, tx, s.tb, "a", "mine")
		s.move()
		s.want(tx, "a", "mine", "b", "0", "gone", "0", "new", "3")
		s.want(ro, "a", "3", "b", "0", "gone", "0", "new", "3")
		wantErr(s, "put", ro.Put(s.tb, []byte("a"), nil), ErrReadOnly)
		rollback(s, old)
		rollback(s, ro)
		commit(s, tx)
		s.wantCommitted("a", "mine", "b", "0", "gone", "0", "new", "3")
	})
}

// A write works on the newest version: none that was committed since the
// transaction began is in its way, and whether the key exists is judged by it. It
// stands on that version when it is rolled back to a savepoint, and in recovery.
func TestReadCommittedWritesOnTheNewest(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("put", "0", "update", "0", "delete", "0", "lock", "0", "dropped", "0", "twice", "0")
		tx := mustBegin(s, s.db, readCommitted)
		s.want(tx, "put", "0", "update", "0", "delete", "0", "lock", "0", "dropped", "0", "twice", "0")
		put(s, tx, s.tb, "mine", "1")
		inUpdate(s, s.db, func(tx *Tx) {
			for _, k := range []string{"put", "update", "delete", "lock", "twice"} {
				put(s, tx, s.tb, k, "1")
			}
			del(s, tx, s.tb, "dropped")
			put(s, tx, s.tb, "came", "1")
		})
		s.move()
		key := func(k string) []byte { return []byte(k) }
		wantErr(s, "insert of what came", tx.Insert(s.tb, key("came"), nil), ErrKeyExists)
		wantErr(s, "update of what went", tx.Update(s.tb, key("dropped"), nil), ErrNotFound)
		wantErr(s, "delete of what went", tx.Delete(s.tb, key("dropped")), ErrNotFound)
		check(s, tx.Insert(s.tb, key("dropped"), []byte("2")))
		put(s, tx, s.tb, "put", "2")
		check(s, tx.Update(s.tb, key("update"), []byte("2")))
		del(s, tx, s.tb, "delete")
		got, err := tx.GetForUpdate(s.tb, key("lock"))
		if err != nil || string(got) != "1" {
			s.Fatalf("GetForUpdate: %q %v, want the newest value", got, err)
		}
		sp := s.savepoint(tx)
		put(s, tx, s.tb, "twice", "2")
		s.move()
		s.rollbackTo(tx, sp)
		inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "twice", "between") })
		s.move()
		gets(s, tx, s.tb, "twice", "between")
		put(s, tx, s.tb, "twice", "3")
		s.move()
		s.want(tx, "put", "2", "update", "2", "lock", "1", "dropped", "2", "twice", "3", "mine", "1", "came", "1")
		commit(s, tx)
		s.wantCommitted("put", "2", "update", "2", "lock", "1", "dropped", "2", "twice", "3", "mine", "1", "came", "1")
	})
}

// A cursor is one statement: it keeps the snapshot of when it was made, in both
// directions, while others commit, and sees its transaction's writes, even those
// on top of versions that it does not see; a rollback to a savepoint brings back
// what its snapshot has.
func TestReadCommittedCursorIsStable(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0", "c", "0", "d", "0")
		tx := mustBegin(s, s.db, readCommitted)
		c := tx.Cursor(s.tb, Range{})
		if !c.First() || string(c.Key()) != "a" {
			s.Fatalf("at %q: %v", c.Key(), c.Err())
		}
		inUpdate(s, s.db, func(tx *Tx) {
			put(s, tx, s.tb, "b", "1")
			del(s, tx, s.tb, "c")
			put(s, tx, s.tb, "new", "1")
		})
		s.move()
		rows := func() (got []string) {
			s.Helper()
			for ok := c.First(); ok; ok = c.Next() {
				got = append(got, string(c.Key())+string(c.Value()))
			}
			for i, ok := len(got), c.Last(); ok; ok = c.Prev() {
				if i--; i < 0 || got[i] != string(c.Key())+string(c.Value()) {
					s.Fatalf("%q in reverse", c.Key())
				}
			}
			check(s, c.Err())
			return got
		}
		want := func(want string) {
			s.Helper()
			if got := fmt.Sprint(rows()); got != want {
				s.Fatalf("rows %v, want %v", got, want)
			}
		}
		want("[a0 b0 c0 d0]")
		s.want(tx, "a", "0", "b", "1", "d", "0", "new", "1")
		sp := s.savepoint(tx)
		put(s, tx, s.tb, "b", "2") // above version 1, which the cursor does not see
		put(s, tx, s.tb, "own", "2")
		s.move()
		want("[a0 b2 c0 d0 own2]")
		s.rollbackTo(tx, sp)
		s.move()
		want("[a0 b0 c0 d0]")
		if h := s.db.snaps.Horizon(); len(h) != 2 {
			s.Fatalf("S1: the horizon is %v, want the cursor's snapshot and the clock", h)
		}
		check(s, c.Close())
		s.want(tx, "a", "0", "b", "1", "d", "0", "new", "1")
		if h := s.db.snaps.Horizon(); len(h) != 1 {
			s.Fatalf("S1: the horizon is %v, the statement's snapshots are closed", h)
		}
		open := tx.Cursor(s.tb, Range{}) // left to the end of the transaction
		open.First()
		put(s, tx, s.tb, "d", "3")
		commit(s, tx)
		if open.Next() || !errors.Is(open.Err(), ErrTxDone) {
			s.Fatalf("a cursor after the commit: %v", open.Err())
		}
		check(s, open.Close())
		s.wantCommitted("a", "0", "b", "1", "d", "3", "new", "1")
	})
}

// A writer waits for the owner of the record and then goes on, whatever the owner's
// outcome is: a commit is no conflict, and is what it goes on from.
func TestReadCommittedWaiterGoesOn(t *testing.T) {
	for _, how := range []string{"commit", "rollback", "savepoint"} {
		t.Run(how, func(t *testing.T) {
			eachMove(t, func(s *story) {
				s.seed("k", "0", "gone", "0")
				owner := s.begin()
				put(s, owner, s.tb, "mine", "1")
				sp := s.savepoint(owner)
				put(s, owner, s.tb, "k", "1")
				del(s, owner, s.tb, "gone")
				check(s, owner.Insert(s.tb, []byte("new"), []byte("1")))
				s.move()
				var txs [4]*Tx
				var done [4]chan error
				for i, op := range []func(tx *Tx) error{
					func(tx *Tx) error { return tx.Update(s.tb, []byte("k"), []byte("2")) },
					func(tx *Tx) error { return tx.Update(s.tb, []byte("gone"), []byte("2")) },
					func(tx *Tx) error { return tx.Insert(s.tb, []byte("new"), []byte("2")) },
					func(tx *Tx) error {
						got, err := tx.GetForUpdate(s.tb, []byte("mine"))
						if err == nil && string(got) != "1" {
							err = fmt.Errorf("got %q", got)
						}
						return err
					},
				} {
					txs[i] = mustBegin(s, s.db, readCommitted)
					done[i] = waiting(s.T, s.db, func() error { return op(txs[i]) })
				}
				want := [4]error{nil, nil, nil, ErrNotFound}
				switch how {
				case "commit":
					commit(s, owner)
					want = [4]error{nil, ErrNotFound, ErrKeyExists, nil}
				case "rollback":
					rollback(s, owner)
				case "savepoint":
					s.rollbackTo(owner, sp)
				}
				for i := range 3 {
					if err := <-done[i]; !errors.Is(err, want[i]) {
						s.Fatalf("waiter %d: %v, want %v", i, err, want[i])
					}
				}
				if how == "savepoint" {
					rollback(s, owner)
				}
				if err := <-done[3]; !errors.Is(err, want[3]) {
					s.Fatalf("waiter 3: %v, want %v", err, want[3])
				}
				for _, tx := range txs {
					commit(s, tx)
				}
				if how == "commit" {
					s.wantCommitted("k", "2", "new", "1", "mine", "1")
				} else {
					s.wantCommitted("k", "2", "gone", "2", "new", "2")
				}
			})
		})
	}
}

// Statements of a transaction that began before a drop do not see the table after
// it; a cursor that was made before it does.
func TestReadCommittedAndDrop(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "0") })
	tx := mustBegin(t, db, readCommitted)
	c := tx.Cursor(tb, Range{})
	check(t, db.DropTable(ctx, "t"))
	_, err := tx.Get(tb, []byte("k"))
	wantErr(t, "get after the drop", err, ErrTableNotFound)
	wantErr(t, "put after the drop", tx.Put(tb, []byte("k"), nil), ErrTableNotFound)
	check(t, db.Checkpoint(ctx)) // would remove the data if nobody read it
	if !c.First() || string(c.Value()) != "0" {
		t.Fatalf("the cursor is at %q: %v", c.Key(), c.Err())
	}
	late := tx.Cursor(tb, Range{})
	if late.First() {
		t.Fatal("a cursor made after the drop finds a row")
	}
	wantErr(t, "cursor made after the drop", late.Err(), ErrTableNotFound)
	rollback(t, tx)
	mustClose(t, db)
}

// Money moves between accounts that several transactions lock one after the other,
// with little record memory and transactions that become large at once: chains are
// chilled, backlogged and restored meanwhile. Increments are neither lost nor
// doubled, a cursor sums up to the same at any moment, and rolled back stretches
// leave nothing. Accounts are locked in order: no deadlock, and no conflict ever.
func TestReadCommittedSums(t *testing.T) {
	for _, threshold := range []int64{0, 1 << 10} {
		t.Run(fmt.Sprintf("threshold %d", threshold), func(t *testing.T) { readCommittedSums(t, threshold) })
	}
}

func readCommittedSums(t *testing.T, threshold int64) {
	t.Helper()
	const accounts, clients, rounds = 12, 6, 250
	o := tinyOptions()
	o.ChillThreshold, o.NoSync = threshold, true
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	key := func(i int) []byte { return fmt.Appendf(nil, "account%03d", i) }
	inUpdate(t, db, func(tx *Tx) {
		for i := range accounts {
			check(t, tx.Put(tb, key(i), value(1000, 600)))
			check(t, tx.Put(tb, fmt.Appendf(nil, "note%03d", i), value(0, 600)))
		}
	})
	amount := func(v []byte) int {
		n, err := strconv.Atoi(string(v[:indexDot(v)]))
		if err != nil {
			t.Errorf("value %.20q", v)
		}
		return n
	}
	add := func(tx *Tx, i, n int) error {
		v, err := tx.GetForUpdate(tb, key(i))
		if err != nil {
			return err
		}
		return tx.Put(tb, key(i), value(amount(v)+n, 600))
	}
	transfer := func(r *rand.Rand) error {
		from, to, n := r.IntN(accounts-1), 0, r.IntN(9)
		to = from + 1 + r.IntN(accounts-1-from)
		return db.UpdateWith(ctx, readCommitted, func(tx *Tx) error {
			if err := add(tx, from, -n); err != nil {
				return err
			}
			sp, err := tx.Savepoint()
			if err != nil {
				return err
			}
			if err := add(tx, to, 7); err != nil {
				return err
			}
			if err := tx.RollbackTo(sp); err != nil {
				return err
			}
			if err := tx.Update(tb, fmt.Appendf(nil, "note%03d", to), value(n, 600)); err != nil {
				return err
			}
			return add(tx, to, n)
		})
	}
	movers, others := newCrew(), newCrew()
	others.repeat(func(i int) {
		if i%2 == 0 {
			relieveAll(t, db, 0)
			backlogAll(t, db)
			return
		}
		chillAll(t, db)
	})
	others.repeat(func(int) {
		inUpdate(t, db, func(tx *Tx) {
			for range 20 {
				check(t, tx.Put(tb, u64(rand.Uint64N(500)), value(1, 500)))
			}
		})
	})
	sum := func() (sum int) {
		tx := mustBegin(t, db, TxOptions{Isolation: ReadCommitted, ReadOnly: true})
		defer rollback(t, tx)
		for row, err := range tx.Scan(tb, Range{From: []byte("account"), To: []byte("b"), Reverse: rand.N(2) == 0}) {
			check(t, err)
			sum += amount(row.Value)
		}
		return sum
	}
	others.repeat(func(int) {
		if got := sum(); got != accounts*1000 {
			t.Errorf("the sum is %d, want %d", got, accounts*1000)
		}
	})
	var left atomic.Int64
	left.Store(clients)
	for c := range clients {
		r := rand.New(rand.NewPCG(uint64(c), 5))
		movers.wg.Go(func() {
			defer left.Add(-1)
			for range rounds {
				if err := transfer(r); err != nil {
					t.Errorf("transfer: %v", err)
					return
				}
			}
		})
	}
	for until := time.Now().Add(4 * patience); left.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d clients hang", left.Load())
		}
	}
	movers.stop()
	others.stop()
	if got := sum(); got != accounts*1000 {
		t.Errorf("the sum is %d at the end, want %d", got, accounts*1000)
	}
	if m := db.Metrics(); m.Conflicts != 0 || m.BackloggedChains == 0 || m.RestoredChains == 0 || m.ChilledRecords == 0 {
		t.Errorf("%d conflicts; %d chains backlogged, %d restored, %d records chilled", m.Conflicts, m.BackloggedChains, m.RestoredChains, m.ChilledRecords)
	}
	mustClose(t, db)
}

func indexDot(v []byte) int {
	for i, b := range v {
		if b == '.' {
			return i
		}
	}
	return 0
}
