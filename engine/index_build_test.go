package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
)

// fillWords puts n rows of a few words each.
func fillWords(t tester, db *DB, tb *Table, n int) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		inUpdate(t, db, func(tx *Tx) {
			for i := from; i < min(n, from+500); i++ {
				put(t, tx, tb, fmt.Sprintf("k%06d", i), fmt.Sprintf("w%d w%d", i%97, i%13))
			}
		})
	}
}

// An index is built while transactions insert, change and delete what is being
// built, some of them with snapshots from before the index, and none of them ever
// has a conflict that is not of its rows. Then every entry has its row, and every row
// its entries.
func TestIndexBuildBesideWriters(t *testing.T) {
	for _, unique := range []bool{false, true} {
		t.Run(fmt.Sprintf("unique %v", unique), func(t *testing.T) {
			o := memOptions()
			o.RecordMemory = 2 << 20
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			const rows, writers = 6000, 4
			fillWords(t, db, tb, rows)
			fn := byWords
			if unique { // the row's key makes each its own
				fn = func(row Row, emit func([]byte)) {
					byWords(row, func(w []byte) { emit(append(append([]byte(nil), w...), row.Key...)) })
				}
			}
			var olds []*Tx // with snapshots from before the index, rows of their own
			for range 3 {
				olds = append(olds, mustBegin(t, db, TxOptions{}))
			}
			churn := newCrew()
			var conflicts atomic.Int64
			for g := range writers {
				rng := rand.New(rand.NewPCG(uint64(g), 9))
				churn.repeat(func(int) {
					err := db.UpdateWith(ctx, TxOptions{Isolation: Isolation(g % 2)}, func(tx *Tx) error {
						for range 1 + rng.IntN(5) { // rows that no other writer has
							k := fmt.Appendf(nil, "k%06d", rng.IntN(rows/8)*8+g)
							var err error
							switch rng.IntN(3) {
							case 0:
								err = tx.Delete(tb, k)
							default:
								err = tx.Put(tb, k, fmt.Appendf(nil, "w%d w%d", rng.IntN(97), rng.IntN(13)))
							}
							if errors.Is(err, ErrConflict) {
								conflicts.Add(1)
							}
							if err != nil && !errors.Is(err, ErrNotFound) {
								return err
							}
						}
						return nil
					})
					if err != nil {
						t.Errorf("update: %v", err)
					}
				})
			}
			old := newCrew()
			for i, tx := range olds {
				rng := rand.New(rand.NewPCG(uint64(i), 8))
				old.repeat(func(n int) {
					if n >= 300 {
						return
					}
					k := fmt.Appendf(nil, "k%06d", rng.IntN(rows/8)*8+4+i)
					err := tx.Put(tb, k, fmt.Appendf(nil, "w%d", rng.IntN(200)))
					if n%3 == 0 {
						err = tx.Delete(tb, k)
					}
					if err != nil && !errors.Is(err, ErrNotFound) {
						t.Errorf("old transaction: %v", err)
					}
					if n == 299 {
						if err := tx.Commit(); err != nil {
							t.Errorf("old transaction: %v", err)
						}
					}
				})
			}
			ix, err := db.CreateIndex(ctx, tb, "words", unique, fn)
			check(t, err)
			churn.stop()
			eventually(t, "end of the old transactions", func() bool { return db.m.Active() == 0 })
			old.stop()
			if n := conflicts.Load(); n > 0 {
				t.Errorf("%d conflicts, though nobody shares rows", n)
			}
			if !unique {
				inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
			}
			mustClose(t, db) // verifies
		})
	}
}

// Who had written the table before the index, the builder waits for; who writes it
// from then on, it does not wait for, unless for a record at hand.
func TestIndexBuildWaits(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	before, reader := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	put(t, before, tb, "2", "b")
	gets(t, reader, tb, "1", "a")
	built := make(chan *Index, 1)
	go func() {
		ix, err := db.CreateIndex(ctx, tb, "words", false, byWords)
		if err != nil {
			t.Errorf("create: %v", err)
		}
		built <- ix
	}()
	eventually(t, "index", func() bool { return len(db.Indexes(tb)) == 1 })
	ix, err := db.Index(tb, "words")
	check(t, err)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "3", "c") }) // nobody waits
	for what, err := range map[string]error{
		"create again": func() error { _, err := db.CreateIndex(ctx, tb, "words", false, byWords); return err }(),
	} {
		wantErr(t, what, err, ErrIndexExists)
	}
	wantErr(t, "drop", db.DropIndex(ctx, tb, "words"), ErrIndexNotReady)
	wantErr(t, "drop table", db.DropTable(ctx, "t"), ErrIndexNotReady)
	inView(t, db, func(tx *Tx) {
		for _, err := range tx.ScanIndex(ix, Range{}) {
			wantErr(t, "read", err, ErrIndexNotReady)
		}
	})
	put(t, before, tb, "1", "d") // it is kept up by who was there before
	commit(t, before)
	if got := <-built; got != ix {
		t.Fatal("another handle")
	}
	wantShow(t, db, ix, "b:2 c:3 d:1")
	for _, err := range reader.ScanIndex(ix, Range{}) {
		wantErr(t, "older snapshot", err, ErrIndexNotReady)
	}
	wantErr(t, "older snapshot, changed row", reader.Put(tb, []byte("1"), []byte("e")), ErrConflict)
	put(t, reader, tb, "4", "f")
	commit(t, reader)
	wantShow(t, db, ix, "b:2 c:3 d:1 f:4")
	mustClose(t, db)
}

// A build that fails, or is ended, leaves nothing.
func TestIndexBuildFails(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "1", "a")
		put(t, tx, tb, "2", "b\x01\xffx a")
		put(t, tx, tb, "3", "c "+strings.Repeat("y", 100))
	})
	nothing := func(what string) {
		t.Helper()
		if n := db.Indexes(tb); len(n) != 0 {
			t.Fatalf("%s: indexes %q", what, n)
		}
		if len(db.tables) != 1 {
			t.Fatalf("%s: %d tables", what, len(db.tables))
		}
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
		checkStore(t, db)
	}
	_, err := db.CreateIndex(ctx, tb, "i", true, byWords)
	wantErr(t, "duplicate", err, ErrKeyExists)
	if !strings.Contains(err.Error(), "key 61:") {
		t.Errorf("it says %q", err)
	}
	nothing("duplicate")
	_, err = db.CreateIndex(ctx, tb, "i", true, func(_ Row, emit func([]byte)) { emit([]byte(strings.Repeat("z", 5000))) })
	wantErr(t, "long duplicate", err, ErrKeyExists)
	if len(err.Error()) > 200 {
		t.Errorf("it says %q", err)
	}
	nothing("long duplicate")
	_, err = db.CreateIndex(ctx, tb, "i", false, func(_ Row, emit func([]byte)) { emit(make([]byte, MaxKeySize/2)) })
	wantErr(t, "too large", err, ErrKeyTooLarge)
	nothing("too large")
	_, err = db.CreateIndex(ctx, tb, "i", false, func(_ Row, emit func([]byte)) {
		for i := range 1 << 20 {
			emit(fmt.Appendf(nil, "%d", i))
		}
	})
	wantErr(t, "too many", err, ErrKeyTooLarge)
	nothing("too many")

	w := mustBegin(t, db, TxOptions{})
	put(t, w, tb, "9", "z")
	cctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	start := func(ctx context.Context) {
		go func() {
			_, err := db.CreateIndex(ctx, tb, "i", false, byWords)
			done <- err
		}()
		eventually(t, "index", func() bool { return len(db.Indexes(tb)) == 1 })
	}
	start(cctx)
	cancel()
	wantErr(t, "cancelled", <-done, context.Canceled)
	nothing("cancelled")
	start(ctx)
	check(t, db.Close())
	wantErr(t, "closed", <-done, ErrClosed)
	db = mustOpen(t, o)
	if len(db.tables) != 1 {
		t.Fatalf("%d tables after closing", len(db.tables))
	}
	mustClose(t, db)
}

// Two rows get the same unique key while the index is being built, from a writer or
// before it: that is found, whoever comes first. And a row that loses the key to
// another one in time is none of both.
func TestIndexBuildFindsDuplicates(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, db *DB, tb *Table) // between the beginning and the first batch
		want error
	}{
		{"writer takes a key that is not built yet", func(t *testing.T, db *DB, tb *Table) {
			t.Helper()
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "a") })
		}, ErrKeyExists},
		{"writer takes it and gives it back", func(t *testing.T, db *DB, tb *Table) {
			t.Helper()
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "a") })
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "-") })
		}, nil},
		{"writer takes it and the row gives it up", func(t *testing.T, db *DB, tb *Table) {
			t.Helper()
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "a") })
			inUpdate(t, db, func(tx *Tx) { del(t, tx, tb, "1") })
		}, nil},
		{"the row gives it up and a writer takes it", func(t *testing.T, db *DB, tb *Table) {
			t.Helper()
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "b") })
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "a") })
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
			hold := mustBegin(t, db, TxOptions{})
			put(t, hold, tb, "3", "c")
			done := make(chan error, 1)
			go func() {
				_, err := db.CreateIndex(ctx, tb, "i", true, byWords)
				done <- err
			}()
			eventually(t, "index", func() bool { return len(db.Indexes(tb)) == 1 })
			c.do(t, db, tb)
			commit(t, hold)
			if err := <-done; !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if c.want == nil {
				ix, err := db.Index(tb, "i")
				check(t, err)
				inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
			}
			mustClose(t, db)
		})
	}
}

// interleaved runs fn between the moment in which the builder has read a batch and
// that in which it puts the entries: from the index's function, which it calls for
// each row, and for the last one last.
func interleaved(t *testing.T, unique bool, last string, fn func(db *DB, tb *Table)) {
	t.Helper()
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for _, k := range []string{"1", "2", "3", "4"} {
			put(t, tx, tb, k, "a"+k+" b"+k)
		}
	})
	var once atomic.Bool
	ix, err := db.CreateIndex(ctx, tb, "i", unique, func(row Row, emit func([]byte)) {
		byWords(row, emit)
		if string(row.Key) == last && !once.Swap(true) {
			done := make(chan struct{})
			go func() { defer close(done); fn(db, tb) }()
			<-done
		}
	})
	check(t, err)
	inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
	checkStore(t, db)
	check(t, db.DropIndex(ctx, tb, "i"))
	mustClose(t, db)
}

// Whatever a writer does to a row that the builder has read, and not yet put: the
// writer is right.
func TestIndexBuildInterleaved(t *testing.T) {
	for _, unique := range []bool{false, true} {
		for name, fn := range map[string]func(db *DB, tb *Table){
			"delete":     func(db *DB, tb *Table) { inUpdate(t, db, func(tx *Tx) { del(t, tx, tb, "2") }) },
			"change":     func(db *DB, tb *Table) { inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "b2 c2") }) },
			"change all": func(db *DB, tb *Table) { inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "c2") }) },
			"insert":     func(db *DB, tb *Table) { inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "5", "a5") }) },
			"there and back": func(db *DB, tb *Table) {
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "c2") })
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "b2 a2") })
			},
			"rolled back": func(db *DB, tb *Table) {
				tx := mustBegin(t, db, TxOptions{})
				put(t, tx, tb, "2", "c2")
				del(t, tx, tb, "3")
				rollback(t, tx)
			},
			"handed over": func(db *DB, tb *Table) {
				inUpdate(t, db, func(tx *Tx) {
					put(t, tx, tb, "2", "-")
					put(t, tx, tb, "1", "a2 b2")
				})
			},
			"pruned": func(db *DB, tb *Table) {
				inUpdate(t, db, func(tx *Tx) { del(t, tx, tb, "2") })
				pruneAll(t, db)
				evictAll(t, db)
				check(t, db.Checkpoint(ctx))
			},
		} {
			t.Run(fmt.Sprintf("unique %v/%s", unique, name), func(t *testing.T) { interleaved(t, unique, "4", fn) })
		}
	}
}

// A writer that is in the builder's way, and stays there: the builder waits with
// nothing held, so the writer has everything, and ends as it likes.
func TestIndexBuildGivesWay(t *testing.T) {
	for _, end := range []func(*Tx) error{(*Tx).Commit, (*Tx).Rollback} {
		var w *Tx
		var tb *Table
		held := make(chan struct{})
		go func() {
			<-held
			// The builder may have put entries of rows 1 and 3 by now.
			for _, k := range []string{"1", "3", "4"} {
				if err := w.Put(tb, []byte(k), []byte("z"+k)); err != nil {
					t.Errorf("put: %v", err)
				}
			}
			if err := end(w); err != nil {
				t.Errorf("end: %v", err)
			}
		}()
		interleaved(t, true, "4", func(db *DB, of *Table) {
			w, tb = mustBegin(t, db, TxOptions{}), of
			put(t, w, tb, "2", "c2")
			close(held)
		})
	}
}

// A key that a row not yet put has, and that a writer takes after the batch was read:
// the conflict that the builder gets is no reason to pass over the entry.
func TestIndexBuildFindsDuplicateInBatch(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	var once atomic.Bool
	_, err := db.CreateIndex(ctx, tb, "i", true, func(row Row, emit func([]byte)) {
		byWords(row, emit)
		if !once.Swap(true) {
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "a") })
		}
	})
	wantErr(t, "create", err, ErrKeyExists)
	mustClose(t, db)
}

// Two rows have one key for a while. The one that the builder has not come to gives
// it up: the entry is the other's, and stays.
func TestIndexBuildKeepsEntryOfOther(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	putMoreThanABatch(t, db, tb)
	ix, err := db.CreateIndex(ctx, tb, "i", true, func(row Row, emit func([]byte)) {
		byWords(row, emit)
		if string(row.Key) == "k1499" { // of the second batch; the first is done
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k0000x", "w1400") })
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k1400", "-") })
		}
	})
	check(t, err)
	inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
	mustClose(t, db)
}

// A key that a transaction sees in a row, whose entry the builder has added after its
// snapshot, exists; running it again would not help.
func TestIndexKeyOlderThanEntry(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	old := mustBegin(t, db, TxOptions{})
	ix := mustIndex(t, db, tb, "i", true)
	err := old.Put(tb, []byte("2"), []byte("b a"))
	wantErr(t, "taken", err, ErrKeyExists)
	put(t, old, tb, "2", "b")
	put(t, old, tb, "1", "c")
	put(t, old, tb, "2", "a")
	commit(t, old)
	wantShow(t, db, ix, "a:2 c:1")
	// One that it cannot see is a conflict.
	old = mustBegin(t, db, TxOptions{})
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "3", "d") })
	wantErr(t, "late", old.Put(tb, []byte("4"), []byte("d")), ErrConflict)
	rollback(t, old)
	mustClose(t, db)
}

// A row that is older than an index has an entry that is too large for it, in a
// transaction that the builder waits for, or to a snapshot that is too old to know that
// the row is gone. It may be changed and deleted; statements that took the row out of
// the index's way were refused as if they had brought it there.
func TestIndexRowTooLargeGoes(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	long := strings.Repeat("x", MaxKeySize)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "0", long) })
	old, tx := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	del(t, tx, tb, "0")
	put(t, tx, tb, "1", "a "+long)
	put(t, tx, tb, "2", "b "+long)
	done := make(chan error, 1)
	go func() {
		_, err := db.CreateIndex(ctx, tb, "i", true, byWords)
		done <- err
	}()
	eventually(t, "index", func() bool { return len(db.Indexes(tb)) == 1 })
	del(t, tx, tb, "1")
	put(t, tx, tb, "2", "c")
	wantErr(t, "put", tx.Put(tb, []byte("2"), []byte(long)), ErrKeyTooLarge)
	commit(t, tx)
	check(t, <-done)
	wantErr(t, "old snapshot", old.Put(tb, []byte("0"), []byte("d")), ErrConflict)
	rollback(t, old)
	ix, err := db.Index(tb, "i")
	check(t, err)
	wantShow(t, db, ix, "c:2")
	mustClose(t, db)
}
