package engine

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// At ReadCommitted a statement that waits for another one that gives the very same
// row the very same unique key goes on when that has committed: the key is the row's
// own. It was told ErrKeyExists, since it had read the row before it waited.
func TestIndexReadCommittedSameKey(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, then func(tx *Tx, tb *Table) error
		want        error
		shows       string
	}{
		{
			"put",
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("k")) },
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("k l")) },
			nil, "k:1 l:1",
		},
		{
			"insert",
			func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("2"), []byte("k")) },
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("2"), []byte("k")) },
			nil, "a:1 k:2",
		},
		{
			"another row",
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("2"), []byte("k")) },
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("k")) },
			ErrKeyExists, "a:1 k:2",
		},
		{
			"two inserts",
			func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("2"), []byte("k")) },
			func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("2"), []byte("k")) },
			ErrKeyExists, "a:1 k:2",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "words", true)
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
			a, b := mustBegin(t, db, TxOptions{}), mustBegin(t, db, readCommitted)
			check(t, c.first(a, tb))
			done := waiting(t, db, func() error { return c.then(b, tb) })
			commit(t, a)
			wantErr(t, c.name, <-done, c.want)
			sameIndex(t, b, ix)
			commit(t, b)
			wantShow(t, db, ix, c.shows)
			mustClose(t, db)
		})
	}
}

// A statement at ReadCommitted that waits for a row while an index is created, from
// one whose indexes have changed since, keeps that up: the row that it then works on
// may have been written by who did. It went on with the indexes of when it began, and
// left the entries of the row's other writer behind, before the builder came.
func TestIndexReadCommittedWaitsAcrossCreate(t *testing.T) {
	for name, then := range map[string]func(tx *Tx, tb *Table) error{
		"put":    func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("1"), []byte("t")) },
		"delete": func(tx *Tx, tb *Table) error { return tx.Delete(tb, []byte("1")) },
		"insert": func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("2"), []byte("t")) },
		"lock": func(tx *Tx, tb *Table) error {
			if _, err := tx.GetForUpdate(tb, []byte("1")); err != nil {
				return err
			}
			return tx.Put(tb, []byte("1"), []byte("t"))
		},
	} {
		for _, indexed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, another index %v", name, indexed), func(t *testing.T) {
				db := mustOpen(t, memOptions())
				tb := mustTable(t, db, "t")
				var other *Index
				if indexed {
					other = mustIndex(t, db, tb, "other", true)
				}
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a"); put(t, tx, tb, "2", "z") })
				owner, late := mustBegin(t, db, TxOptions{}), mustBegin(t, db, readCommitted)
				put(t, owner, tb, "1", "b")
				put(t, owner, tb, "2", "y")
				done := waiting(t, db, func() error { return then(late, tb) })
				built := make(chan *Index, 1)
				go func() {
					ix, err := db.CreateIndex(ctx, tb, "words", false, byWords)
					if err != nil {
						t.Errorf("create: %v", err)
					}
					built <- ix
				}()
				eventually(t, "index", func() bool { return findIndex(tb, "words") != nil })
				put(t, owner, tb, "1", "c")
				del(t, owner, tb, "2")
				commit(t, owner)
				check(t, <-done)
				commit(t, late)
				ix := <-built
				inView(t, db, func(tx *Tx) {
					sameIndex(t, tx, ix)
					if indexed {
						sameIndex(t, tx, other)
					}
				})
				mustClose(t, db)
			})
		}
	}
}

// Who waits for a row holds no unique key that he wants for it: the row's owner may
// want the same one. The owner was the victim of a deadlock.
func TestIndexWaitsForRowEmptyHanded(t *testing.T) {
	for iso, want := range map[Isolation]error{Snapshot: ErrConflict, ReadCommitted: nil, Serializable: ErrConflict} {
		t.Run(iso.String(), func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "unique", true)
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
			owner, other := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{Isolation: iso})
			hasty := mustBegin(t, db, TxOptions{LockTimeout: -1, Isolation: iso})
			put(t, owner, tb, "1", "b")
			done := waiting(t, db, func() error { return other.Put(tb, []byte("1"), []byte("c d")) })
			wantErr(t, "put that does not wait", hasty.Put(tb, []byte("1"), []byte("c e")), ErrLockTimeout)
			put(t, owner, tb, "1", "c e") // nobody has them
			commit(t, owner)
			wantErr(t, "put", <-done, want)
			rollback(t, hasty)
			shows := "c:1 e:1"
			if want == nil {
				commit(t, other)
				shows = "c:1 d:1"
			} else {
				rollback(t, other)
			}
			wantShow(t, db, ix, shows)
			mustClose(t, db)
		})
	}
}

// At ReadCommitted a cursor over an index sees the transaction's writes on top of
// versions that its snapshot does not have: entries that somebody else took away
// since are not to lead it to a row that the transaction has deleted or changed.
// Such an entry was reported as corruption, or showed the row under a key that it
// did not have any more.
func TestIndexReadCommittedCursor(t *testing.T) {
	set := func(t tester, tx *Tx, tb *Table, val string) {
		t.Helper()
		if val == "" {
			del(t, tx, tb, "1")
			return
		}
		put(t, tx, tb, "1", val)
	}
	for name, c := range map[string]struct {
		other, own string // values that row 1 gets; "" deletes it
		want       string // what the cursor shows behind its first row, a1:1
	}{
		"row deleted":                  {"a1 x1", "", "a2:2 z2:2"},
		"row changed":                  {"a1 x1", "a1 y1", "a2:2 y1:1 z2:2"},
		"entries as they are":          {"a1 x1", "x1 a1", "a2:2 x1:1 z2:2"},
		"entry comes back":             {"a1 x1", "c1", "a2:2 c1:1 z2:2"},
		"row inserted anew":            {"", "b1 c1", "a2:2 b1:1 c1:1 z2:2"},
		"row deleted, more entries":    {"a1 c1 x1", "", "a2:2 z2:2"},
		"row changed, another's entry": {"a1 b1 c1", "b1", "a2:2 b1:1 z2:2"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMove(t, func(s *story) {
				ix := mustIndex(s, s.db, s.tb, "words", false)
				s.seed("1", "a1 c1", "2", "a2 z2")
				tx := mustBegin(s, s.db, readCommitted)
				ahead, back := tx.IndexCursor(ix, Range{}), tx.IndexCursor(ix, Range{})
				if !ahead.First() || string(ahead.IndexKey()) != "a1" || !back.Last() || string(back.IndexKey()) != "z2" {
					s.Fatalf("first row %q, last row %q", ahead.IndexKey(), back.IndexKey())
				}
				inUpdate(s, s.db, func(tx *Tx) { set(s, tx, s.tb, c.other) })
				s.move()
				set(s, tx, s.tb, c.own)
				s.move()
				var got []string
				for ahead.Next() {
					got = append(got, string(ahead.IndexKey())+":"+string(ahead.Key()))
				}
				check(s, ahead.Err())
				if fmt.Sprint(got) != "["+c.want+"]" {
					s.Fatalf("ahead: %q, want %q", got, c.want)
				}
				got = got[:0]
				for ok := true; ok; ok = back.Prev() {
					got = append(got, string(back.IndexKey())+":"+string(back.Key()))
				}
				check(s, back.Err())
				slices.Reverse(got)
				if i := slices.Index(got, "a2:2"); i < 0 || fmt.Sprint(got[i:]) != "["+c.want+"]" {
					s.Fatalf("back: %q, want it to end with %q", got, c.want)
				}
				check(s, ahead.Close())
				check(s, back.Close())
				sameIndex(s, tx, ix)
				commit(s, tx)
			})
		})
	}
}

// The transaction of a builder is none that conflicts: whoever changes or deletes a
// row whose entry the builder has put since its snapshot, commits, at Serializable, too.
func TestIndexSerializableBesideBuild(t *testing.T) {
	for _, unique := range []bool{false, true} {
		t.Run(fmt.Sprintf("unique %v", unique), func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "1", "a")
				put(t, tx, tb, "2", "b")
			})
			tx := mustBegin(t, db, TxOptions{Isolation: Serializable})
			ix := mustIndex(t, db, tb, "words", unique)
			put(t, tx, tb, "1", "c")
			del(t, tx, tb, "2")
			commit(t, tx)
			wantShow(t, db, ix, "c:1")
			mustClose(t, db)
		})
	}
}

// A function that ends its goroutine, as t.FailNow does, ends the build.
func TestIndexFuncGoexit(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = db.CreateIndex(ctx, tb, "i", false, func(Row, func([]byte)) { runtime.Goexit() })
	}()
	<-ended
	if n := db.Indexes(tb); len(n) != 0 {
		t.Fatalf("indexes %q", n)
	}
	mustClose(t, db)
}

// A key that two rows have while the index is being built: a transaction whose
// snapshot is older than the one row's, and that takes the key from the other row,
// cannot then give it to a third one. It could, and the first one's entry was gone.
func TestIndexBuildTakesNoKeyOfOther(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	putMoreThanABatch(t, db, tb)
	var got error
	ix, err := db.CreateIndex(ctx, tb, "i", true, func(row Row, emit func([]byte)) {
		byWords(row, emit)
		if string(row.Key) == "k1499" && got == nil { // of the second batch; the first is done
			tx := mustBegin(t, db, TxOptions{})
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k0000x", "w1400") })
			put(t, tx, tb, "k1400", "-")
			got = tx.Put(tb, []byte("k0000y"), []byte("w1400"))
			commit(t, tx)
		}
	})
	wantErr(t, "put of the key", got, ErrKeyExists)
	check(t, err)
	inView(t, db, func(tx *Tx) { sameIndex(t, tx, ix) })
	mustClose(t, db)
}

// A large transaction at ReadCommitted, beside others that commit all the time,
// repeats no statement for that alone: each time left a dead interval.
func TestIndexReadCommittedLeavesNoDeadIntervals(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1
	db := mustOpen(t, o)
	tb, other := mustTable(t, db, "t"), mustTable(t, db, "other")
	n, done := 0, false
	ix, err := db.CreateIndex(ctx, tb, "i", true, func(row Row, emit func([]byte)) {
		if emit(row.Value); done {
			return
		}
		n++
		inUpdate(t, db, func(tx *Tx) { put(t, tx, other, "n", fmt.Sprint(n)) })
	})
	check(t, err)
	tx := mustBegin(t, db, readCommitted)
	for i := range 50 {
		put(t, tx, tb, fmt.Sprintf("k%03d", i), fmt.Sprintf("v%03d", i))
	}
	if o := db.reg.Get(txnOf(t, db)); len(o.Dead()) > 0 {
		t.Errorf("%d dead intervals", len(o.Dead()))
	}
	if n != 50 {
		t.Errorf("the function was called %d times", n)
	}
	done = true
	commit(t, tx)
	if rows := strings.Fields(show(t, db, ix)); len(rows) != 50 {
		t.Errorf("%d rows", len(rows))
	}
	mustClose(t, db)
}

// The lock timeout counts the waits of a statement together, those for its entries,
// too: eight waits of a quarter of it each are too long.
func TestIndexLockTimeoutCountsAllWaits(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	mustIndex(t, db, tb, "unique", true)
	words := strings.Fields("a b c d e f g h")
	holders := map[string]*Tx{}
	for _, w := range words {
		holders[w] = mustBegin(t, db, TxOptions{})
		put(t, holders[w], tb, "row "+w, w)
	}
	const limit = 100 * time.Millisecond
	tx := mustBegin(t, db, TxOptions{LockTimeout: limit})
	done := make(chan error, 1)
	before := db.Metrics().Waits
	go func() { done <- tx.Put(tb, []byte("x"), []byte(strings.Join(words, " "))) }()
	for i, w := range words {
		ended := func() bool { return len(done) > 0 }
		eventually(t, "wait", func() bool { return ended() || db.Metrics().Waits > before+uint64(i) })
		since := time.Now()
		eventually(t, "a quarter of the limit", func() bool { return ended() || time.Since(since) > limit/4 })
		rollback(t, holders[w])
	}
	wantErr(t, "put", <-done, ErrLockTimeout)
	commit(t, tx)
	mustClose(t, db)
}
