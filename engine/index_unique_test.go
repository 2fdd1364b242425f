package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Two transactions want one key of a unique index, for different rows: one has it,
// the other waits, and then goes on or fails, as the first one ends.
func TestIndexUniqueWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*Tx) error
		want error
	}{
		{"commit", (*Tx).Commit, ErrConflict},
		{"rollback", (*Tx).Rollback, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "unique", true)
			a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
			put(t, a, tb, "1", "x")
			done := waiting(t, db, func() error { return b.Put(tb, []byte("2"), []byte("y x")) })
			check(t, c.end(a))
			err := <-done
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if got := keysOf(t, b, ix, Range{}); len(got) != 0 {
					t.Errorf("after the conflict: %q", got)
				}
				rollback(t, b)
				b = mustBegin(t, db, TxOptions{}) // sees the winner
				wantErr(t, "put", b.Put(tb, []byte("2"), []byte("y x")), ErrKeyExists)
				put(t, b, tb, "2", "y")
			}
			commit(t, b)
			want := "x:1 y:2"
			if c.want == nil {
				want = "x:2 y:2"
			}
			wantShow(t, db, ix, want)
			mustClose(t, db)
		})
	}
}

// A key taken under a savepoint is free when that is rolled back: who waits for it
// goes on.
func TestIndexUniqueSavepoint(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "unique", true)
	a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	sp, err := a.Savepoint()
	check(t, err)
	put(t, a, tb, "1", "x")
	done := waiting(t, db, func() error { return b.Put(tb, []byte("2"), []byte("x")) })
	check(t, a.RollbackTo(sp))
	check(t, <-done)
	ends := waiting(t, db, func() error { return a.Put(tb, []byte("1"), []byte("x")) })
	rollback(t, b)
	check(t, <-ends)
	commit(t, a)
	wantShow(t, db, ix, "x:1")
	mustClose(t, db)
}

// A key moves between rows within a transaction; two rows swap theirs.
func TestIndexUniqueMoves(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "unique", true)
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "1", "x")
		put(t, tx, tb, "2", "y")
	})
	tx := mustBegin(t, db, TxOptions{})
	wantErr(t, "taken", tx.Put(tb, []byte("2"), []byte("x")), ErrKeyExists)
	put(t, tx, tb, "1", "z")
	put(t, tx, tb, "2", "x")
	put(t, tx, tb, "1", "y") // swapped
	sp, err := tx.Savepoint()
	check(t, err)
	del(t, tx, tb, "1")
	check(t, tx.Insert(tb, []byte("3"), []byte("y")))
	check(t, tx.RollbackTo(sp))
	wantErr(t, "taken again", tx.Insert(tb, []byte("3"), []byte("y")), ErrKeyExists)
	old := mustBegin(t, db, TxOptions{})
	commit(t, tx)
	wantShow(t, db, ix, "x:2 y:1")
	if got := strings.Join(keysOf(t, old, ix, Range{}), " "); got != "x:1 y:2" {
		t.Errorf("older snapshot: %s", got)
	}
	// It sees keys that have moved since: it is late.
	wantErr(t, "late", old.Put(tb, []byte("4"), []byte("x")), ErrConflict)
	rollback(t, old)
	mustClose(t, db)
}

// Many transactions take, leave and hand over few unique keys: no key is ever of two
// rows, whoever looks, and nothing but conflicts and taken keys comes in the way.
func TestIndexUniqueConcurrent(t *testing.T) {
	o := memOptions()
	o.RecordMemory = 1 << 20
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "unique", true)
	var wg sync.WaitGroup
	var taken, done atomic.Int64
	for g := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 150 * *scale {
				err := db.UpdateWith(ctx, TxOptions{Isolation: Isolation(g % 3)}, func(tx *Tx) error {
					for range 1 + rng.IntN(4) {
						key := fmt.Appendf(nil, "row%02d", rng.IntN(20))
						val := fmt.Appendf(nil, "u%d v%d", rng.IntN(8), rng.IntN(8))
						var err error
						switch rng.IntN(4) {
						case 0:
							err = tx.Delete(tb, key)
						case 1:
							err = tx.Insert(tb, key, val)
						default:
							err = tx.Put(tb, key, val)
						}
						switch {
						case errors.Is(err, ErrKeyExists):
							taken.Add(1)
						case err != nil && !errors.Is(err, ErrNotFound):
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Errorf("update: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	watch := newCrew()
	watch.repeat(func(int) {
		inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
		backlogAll(t, db)
	})
	wg.Wait()
	watch.stop()
	inView(t, db, func(tx *Tx) {
		rows := scanned(t, tx, ix, Range{})
		if len(slices.Compact(keysAlone(t, tx, ix))) != len(rows) {
			t.Errorf("a key is there twice: %q", rows)
		}
		sameIndex(t, tx, ix)
	})
	if taken.Load() == 0 || done.Load() == 0 {
		t.Errorf("%d keys were taken, %d transactions done", taken.Load(), done.Load())
	}
	mustClose(t, db)
}

func keysAlone(t tester, tx *Tx, ix *Index) (keys []string) {
	t.Helper()
	for row, err := range tx.ScanIndex(ix, Range{}) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		keys = append(keys, string(row.IndexKey))
	}
	return keys
}

// What ends a wait for a unique key, ends the statement, and nothing else.
func TestIndexUniqueWaitEnds(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "unique", true)
	a := mustBegin(t, db, TxOptions{})
	put(t, a, tb, "1", "x")
	bctx, cancel := context.WithCancel(ctx)
	b, err := db.Begin(bctx, TxOptions{})
	check(t, err)
	put(t, b, tb, "3", "z")
	done := waiting(t, db, func() error { return b.Put(tb, []byte("3"), []byte("x y")) })
	cancel()
	wantErr(t, "cancelled", <-done, context.Canceled)
	put(t, a, tb, "2", "y") // nobody has it
	commit(t, a)
	commit(t, b)
	wantShow(t, db, ix, "x:1 y:2 z:3")

	// Close ends a statement that waits.
	a, b = mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	put(t, a, tb, "4", "w")
	done = waiting(t, db, func() error { return b.Put(tb, []byte("3"), []byte("v w")) })
	check(t, db.Close())
	wantErr(t, "closed", <-done, ErrClosed)

	// A cycle through a unique key and a row.
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	mustIndex(t, db, tb, "unique", true)
	a, b = mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	put(t, a, tb, "4", "w")
	put(t, b, tb, "5", "u")
	done = waiting(t, db, func() error { return b.Put(tb, []byte("6"), []byte("w")) })
	wantErr(t, "cycle", a.Put(tb, []byte("5"), []byte("-")), ErrDeadlock)
	rollback(t, a)
	check(t, <-done)
	commit(t, b)
	mustClose(t, db)
}

// At ReadCommitted a statement waits for who changes the row, and works on what that
// one leaves: the entries that it takes away are those of the newest version.
func TestIndexReadCommitted(t *testing.T) {
	for name, c := range map[string]struct {
		first, then func(tx *Tx, tb *Table) error
		want        string
	}{
		"put": {
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("b")) },
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("c")) },
			"c:1",
		},
		"insert after delete": {
			func(tx *Tx, tb *Table) error { return tx.Delete(tb, []byte("1")) },
			func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("1"), []byte("c")) },
			"c:1",
		},
		"delete": {
			func(tx *Tx, tb *Table) error { return tx.Update(tb, []byte("1"), []byte("b")) },
			func(tx *Tx, tb *Table) error { return tx.Delete(tb, []byte("1")) },
			"",
		},
		"update after insert": {
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("2"), []byte("b")) },
			func(tx *Tx, tb *Table) error { return tx.Update(tb, []byte("2"), []byte("c")) },
			"a:1 c:2",
		},
		"taken key that is given back": {
			func(tx *Tx, tb *Table) error { return tx.Delete(tb, []byte("1")) },
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("3"), []byte("a")) },
			"a:3",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, unique := range []bool{false, true} {
				db := mustOpen(t, memOptions())
				tb := mustTable(t, db, "t")
				ix := mustIndex(t, db, tb, "words", unique)
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
				a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{Isolation: ReadCommitted})
				check(t, c.first(a, tb))
				want := c.want
				if name == "taken key that is given back" && !unique {
					check(t, c.then(b, tb)) // nobody is in its way
					commit(t, a)
				} else {
					done := waiting(t, db, func() error { return c.then(b, tb) })
					commit(t, a)
					check(t, <-done)
				}
				sameIndex(t, b, ix)
				commit(t, b)
				wantShow(t, db, ix, want)
				mustClose(t, db)
			}
		})
	}
}

// A statement that does not wait, or not for long, leaves rows and entries as they
// were.
func TestIndexLockTimeout(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "unique", true)
	other := mustIndex(t, db, tb, "words", false)
	a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{LockTimeout: -1})
	put(t, a, tb, "1", "x")
	put(t, b, tb, "2", "y")
	wantErr(t, "taken", b.Put(tb, []byte("2"), []byte("u v x")), ErrLockTimeout)
	wantErr(t, "locked", b.Put(tb, []byte("1"), []byte("w")), ErrLockTimeout)
	sameIndex(t, b, ix)
	sameIndex(t, b, other)
	put(t, a, tb, "3", "w")
	commit(t, a)
	commit(t, b)
	wantShow(t, db, ix, "w:3 x:1 y:2")
	wantShow(t, db, other, "w:3 x:1 y:2")
	mustClose(t, db)
}

// A serializable transaction that has read a range of an index, or a row through it,
// cannot commit when somebody has changed what it read.
func TestIndexSerializable(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, tx *Tx, tb *Table){
		"entry in the range":     func(t *testing.T, tx *Tx, tb *Table) { t.Helper(); put(t, tx, tb, "9", "b") },
		"entry out of the range": func(t *testing.T, tx *Tx, tb *Table) { t.Helper(); put(t, tx, tb, "9", "z") },
		"row, not its entry":     func(t *testing.T, tx *Tx, tb *Table) { t.Helper(); put(t, tx, tb, "1", "a a") },
		"row leaves the range":   func(t *testing.T, tx *Tx, tb *Table) { t.Helper(); put(t, tx, tb, "1", "z") },
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "words", false)
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
			tx := mustBegin(t, db, TxOptions{Isolation: Serializable})
			for _, err := range tx.ScanIndex(ix, Range{From: []byte("a"), To: []byte("c")}) {
				check(t, err)
			}
			put(t, tx, tb, "5", "y")
			inUpdate(t, db, func(tx *Tx) { change(t, tx, tb) })
			err := tx.Commit()
			if name == "entry out of the range" {
				check(t, err)
			} else {
				wantErr(t, "commit", err, ErrConflict)
			}
			mustClose(t, db)
		})
	}
}

// A serializable transaction that is older than an index updates a row whose entry the
// builder has added since: nobody has changed what it read, so it commits. It was
// refused: to take an entry away counted as a read of the entry.
func TestIndexSerializableOlderThanIndex(t *testing.T) {
	for _, unique := range []bool{false, true} {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
		tx := mustBegin(t, db, TxOptions{Isolation: Serializable})
		ix := mustIndex(t, db, tb, "words", unique)
		put(t, tx, tb, "1", "b")
		commit(t, tx)
		wantShow(t, db, ix, "b:1")
		mustClose(t, db)
	}
}

// A cursor at ReadCommitted is older than what others made of a row, which its own
// transaction changes then. It shows the row as that one left it, under the keys that
// it has by now; it found the old entry without a row, and called that corruption.
func TestIndexCursorOlderThanRow(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "words", false)
	inUpdate(t, db, func(tx *Tx) {
		for _, k := range []string{"1", "2", "3", "4"} {
			put(t, tx, tb, k, "a")
		}
	})
	tx := mustBegin(t, db, TxOptions{Isolation: ReadCommitted})
	c := tx.IndexCursor(ix, Range{})
	inUpdate(t, db, func(tx *Tx) {
		for _, k := range []string{"1", "2", "3", "4"} {
			put(t, tx, tb, k, "b")
		}
	})
	del(t, tx, tb, "1")
	put(t, tx, tb, "2", "c")
	put(t, tx, tb, "3", "b d")
	got := ""
	for ok := c.First(); ok; ok = c.Next() {
		got += fmt.Sprintf("%s:%s=%s ", c.IndexKey(), c.Key(), c.Value())
	}
	check(t, c.Err())
	if want := "a:4=a b:3=b d c:2=c d:3=b d "; got != want {
		t.Errorf("forward: %q, want %q", got, want)
	}
	got = ""
	for ok := c.Last(); ok; ok = c.Prev() {
		got += fmt.Sprintf("%s:%s ", c.IndexKey(), c.Key())
	}
	check(t, c.Err())
	if want := "d:3 c:2 b:3 a:4 "; got != want {
		t.Errorf("in reverse: %q, want %q", got, want)
	}
	check(t, c.Close())
	sameIndex(t, tx, ix)
	commit(t, tx)
	wantShow(t, db, ix, "b:3 b:4 c:2 d:3")
	mustClose(t, db)
}
