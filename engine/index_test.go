package engine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// show is what an index shows to a new transaction: index key and key.
func show(t tester, db *DB, ix *Index) string {
	t.Helper()
	var out []string
	inView(t, db, func(tx *Tx) { out = keysOf(t, tx, ix, Range{}) })
	return strings.Join(out, " ")
}

func keysOf(t tester, tx *Tx, ix *Index, r Range) (out []string) {
	t.Helper()
	for row, err := range tx.ScanIndex(ix, r) {
		if err != nil {
			t.Fatalf("scan of index: %v", err)
		}
		out = append(out, string(row.IndexKey)+":"+string(row.Key))
	}
	return out
}

func wantShow(t tester, db *DB, ix *Index, want string) {
	t.Helper()
	if got := show(t, db, ix); got != want {
		t.Fatalf("index %q shows %q, want %q", ix.Name(), got, want)
	}
}

func TestIndex(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "1", "b a")
		put(t, tx, tb, "2", "a a a") // an entry each once
		put(t, tx, tb, "3", "-")
	})
	ix := mustIndex(t, db, tb, "words", false)
	wantShow(t, db, ix, "a:1 a:2 b:1")
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "3", "c _")
		put(t, tx, tb, "1", "b d")
		del(t, tx, tb, "2")
		check(t, tx.Insert(tb, []byte("4"), []byte("b")))
		check(t, tx.Update(tb, []byte("4"), []byte("bb")))
		_, err := tx.Append(tb, []byte("z"))
		check(t, err)
		sameIndex(t, tx, ix)
	})
	wantShow(t, db, ix, ":3 b:1 bb:4 c:3 d:1 z:\x00\x00\x00\x00\x00\x00\x00\x01")
	if got := fmt.Sprintln(db.Indexes(tb), db.Tables(), ix.Name(), ix.Unique(), ix.Table() == tb); got != "[words] [t] words false true\n" {
		t.Errorf("got %s", got)
	}
	checkStore(t, db)
	db2 := reopen(t, db, o)
	tb2 := mustTable(t, db2, "t")
	ix2, err := db2.Index(tb2, "words")
	check(t, err)
	wantShow(t, db2, ix2, ":3 b:1 bb:4 c:3 d:1 z:\x00\x00\x00\x00\x00\x00\x00\x01")
	mustClose(t, db2)
}

// Bounds are index keys: of keys that begin with each other, with zero bytes, and
// of primary keys that look like the ends of index keys.
func TestIndexRanges(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	ix, err := db.CreateIndex(ctx, tb, "value", false, func(r Row, emit func([]byte)) { emit(r.Value) })
	check(t, err)
	keys := []string{"", "\x00", "\x00\x01", "\x00\xff", "a", "a\x00", "a\x00\x01", "a\x01", "aa", "b", "\xff", "\xff\xff"}
	pks := []string{"\x00", "\x00\x01", "\x01", "\xff"}
	inUpdate(t, db, func(tx *Tx) {
		for i, k := range keys {
			for _, pk := range pks {
				put(t, tx, tb, pk+string(rune('A'+i)), k)
			}
		}
	})
	tx := mustBegin(t, db, TxOptions{ReadOnly: true})
	c := tx.IndexCursor(ix, Range{})
	for i, from := range keys {
		for j, to := range keys {
			var got []string
			for row, err := range tx.ScanIndex(ix, Range{From: []byte(from), To: []byte(to)}) {
				check(t, err)
				if n := len(got); n == 0 || got[n-1] != string(row.IndexKey) {
					got = append(got, string(row.IndexKey))
				}
			}
			if want := keys[min(i, j):j]; !slices.Equal(got, want) {
				t.Fatalf("[%q, %q): %q, want %q", from, to, got, want)
			}
		}
		if !c.Seek([]byte(from)) || string(c.IndexKey()) != from || string(c.Key()) != "\x00\x01"+string(rune('A'+i)) || string(c.Value()) != from {
			t.Fatalf("seek %q: %q %q %q", from, c.IndexKey(), c.Key(), c.Value())
		}
		if i == 0 {
			if c.SeekBefore([]byte(from)) || c.SeekBefore(nil) {
				t.Fatalf("before %q is %q", from, c.IndexKey())
			}
			continue
		}
		if !c.SeekBefore([]byte(from)) || string(c.IndexKey()) != keys[i-1] || string(c.Key()) != "\xff"+string(rune('A'+i-1)) {
			t.Fatalf("before %q is %q %q", from, c.IndexKey(), c.Key())
		}
		if !c.Next() || string(c.IndexKey()) != from || !c.Prev() || string(c.IndexKey()) != keys[i-1] {
			t.Fatalf("next and previous at %q: %q", from, c.IndexKey())
		}
	}
	if n := len(scanned(t, tx, ix, Range{Limit: 5})); n != 5 {
		t.Errorf("limit 5: %d rows", n)
	}
	if !c.Last() || c.Next() || c.Err() != nil || c.Key() != nil || c.IndexKey() != nil || c.Value() != nil {
		t.Error("behind the last row")
	}
	check(t, c.Close())
	rollback(t, tx)
	mustClose(t, db)
}

func TestIndexErrors(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb, other := mustTable(t, db, "t"), mustTable(t, db, "other")
	ix := mustIndex(t, db, tb, "i", false)
	create := func(tb *Table, name string, unique bool) error {
		_, err := db.CreateIndex(ctx, tb, name, unique, byWords)
		return err
	}
	wantErr(t, "same name", create(tb, "i", false), ErrIndexExists)
	wantErr(t, "same name, unique", create(tb, "i", true), ErrIndexExists)
	wantErr(t, "no name", create(tb, "", true), ErrInvalidName)
	wantErr(t, "long name", create(tb, strings.Repeat("n", 256), true), ErrInvalidName)
	wantErr(t, "no table", create(nil, "x", true), ErrTableNotFound)
	wantErr(t, "the entries", create(ix.Entries(), "x", true), ErrTableNotFound)
	_, err := db.CreateIndex(ctx, tb, "x", true, nil)
	wantErr(t, "no function", err, ErrIndexFunc)
	_, err = db.CreateIndex(canceled, tb, "x", true, byWords)
	wantErr(t, "cancelled", err, canceled.Err())
	check(t, create(other, "i", true)) // of another table
	check(t, create(tb, strings.Repeat("n", 255), true))
	check(t, create(tb, "a/b", true))

	hidden := ix.Entries().Name
	_, err = db.CreateTable(ctx, hidden)
	wantErr(t, "create entries", err, ErrInvalidName)
	_, err = db.CreateTable(ctx, entriesPrefix)
	wantErr(t, "create with prefix", err, ErrInvalidName)
	_, err = db.Table(hidden)
	wantErr(t, "open entries", err, ErrTableNotFound)
	wantErr(t, "drop entries", db.DropTable(ctx, hidden), ErrTableNotFound)
	_, err = db.Index(tb, "none")
	wantErr(t, "no such index", err, ErrIndexNotFound)
	_, err = db.Index(nil, "i")
	wantErr(t, "index of no table", err, ErrTableNotFound)
	wantErr(t, "drop no index", db.DropIndex(ctx, tb, "none"), ErrIndexNotFound)
	inView(t, db, func(tx *Tx) {
		c := tx.IndexCursor(nil, Range{})
		if c.First() || !errors.Is(c.Err(), ErrIndexNotFound) {
			t.Errorf("cursor of no index: %v", c.Err())
		}
		check(t, c.Close())
	})

	// Of another store.
	db2 := mustOpen(t, memOptions())
	inView(t, db2, func(tx *Tx) {
		for _, err := range tx.ScanIndex(ix, Range{}) {
			wantErr(t, "index of another store", err, ErrIndexNotFound)
		}
	})
	_, err = db2.CreateIndex(ctx, tb, "x", false, byWords)
	wantErr(t, "table of another store", err, ErrTableNotFound)
	mustClose(t, db2)
	mustClose(t, db)
	_, err = db.Index(tb, "i")
	wantErr(t, "after close", err, ErrClosed)
	_, err = db.CreateIndex(ctx, tb, "x", false, byWords)
	wantErr(t, "create after close", err, ErrClosed)

	o.ReadOnly = true
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	_, err = db.CreateIndex(ctx, tb, "i", false, byWords)
	wantErr(t, "read only", err, ErrReadOnly)
	check(t, db.Close())
}

// A statement on an indexed table that fails changes nothing: neither rows nor
// entries, locks neither, whatever the transaction has done before.
func TestIndexFailedStatement(t *testing.T) {
	for _, large := range []bool{false, true} {
		t.Run(fmt.Sprintf("large %v", large), func(t *testing.T) {
			o := memOptions()
			if large {
				o.ChillThreshold = 1
			}
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "words", false)
			one := mustIndex(t, db, tb, "unique", true)
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "1", "a")
				put(t, tx, tb, "2", "b")
			})
			long := strings.Repeat("x", MaxKeySize)
			tx := mustBegin(t, db, TxOptions{})
			put(t, tx, tb, "1", "c")
			put(t, tx, tb, "3", "d")
			sp, err := tx.Savepoint()
			check(t, err)
			put(t, tx, tb, "3", "e")
			fails := func(what string, err, want error) {
				t.Helper()
				wantErr(t, what, err, want)
				if got, want := strings.Join(keysOf(t, tx, one, Range{}), " "), "b:2 c:1 e:3"; got != want {
					t.Fatalf("after %s: %q, want %q", what, got, want)
				}
				sameIndex(t, tx, ix)
			}
			fails("taken", tx.Put(tb, []byte("1"), []byte("f b")), ErrKeyExists)
			fails("taken by its own", tx.Put(tb, []byte("2"), []byte("g e")), ErrKeyExists)
			fails("taken, new row", tx.Insert(tb, []byte("9"), []byte("f b")), ErrKeyExists)
			_, err = tx.Append(tb, []byte("f b"))
			fails("taken, appended", err, ErrKeyExists)
			fails("long", tx.Put(tb, []byte("1"), []byte("f "+long)), ErrKeyTooLarge)
			fails("row exists", tx.Insert(tb, []byte("1"), []byte("f")), ErrKeyExists)
			fails("no row to update", tx.Update(tb, []byte("9"), []byte("f")), ErrNotFound)
			fails("no row to delete", tx.Delete(tb, []byte("9")), ErrNotFound)
			fails("long key", tx.Put(tb, []byte(long+"y"), []byte("f")), ErrKeyTooLarge)

			// What the failed statements locked for a moment is free.
			other := mustBegin(t, db, TxOptions{})
			check(t, other.Insert(tb, []byte("9"), []byte("f")))
			check(t, other.Update(tb, []byte("2"), []byte("g")))
			rollback(t, other)

			check(t, tx.RollbackTo(sp))
			if got, want := strings.Join(keysOf(t, tx, one, Range{}), " "), "b:2 c:1 d:3"; got != want {
				t.Fatalf("after rollback to: %q, want %q", got, want)
			}
			put(t, tx, tb, "4", "e") // free again
			commit(t, tx)
			wantShow(t, db, one, "b:2 c:1 d:3 e:4")
			wantShow(t, db, ix, "b:2 c:1 d:3 e:4")
			mustClose(t, db)
		})
	}
}

// A panic in the function of an index is the error of the statement.
func TestIndexFuncPanics(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	broken := func(r Row, emit func([]byte)) {
		emit(r.Value)
		if bytes.HasPrefix(r.Value, []byte("bad")) {
			panic("no such thing")
		}
	}
	ix, err := db.CreateIndex(ctx, tb, "i", false, broken)
	check(t, err)
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "1", "good")
	err = tx.Put(tb, []byte("1"), []byte("bad"))
	wantErr(t, "put", err, ErrIndexFunc)
	if !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("it says %q", err)
	}
	wantErr(t, "insert", tx.Insert(tb, []byte("2"), []byte("bad one")), ErrIndexFunc)
	commit(t, tx)
	wantShow(t, db, ix, "good:1")
	check(t, db.DropIndex(ctx, tb, "i"))
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "2", "bad") })
	_, err = db.CreateIndex(ctx, tb, "i", false, broken)
	wantErr(t, "create", err, ErrIndexFunc)
	if n := db.Indexes(tb); len(n) != 0 {
		t.Errorf("indexes %q", n)
	}
	mustClose(t, db)
}

// lockThenRead reads by an index without function in a transaction that has locked a
// row since its cursor was made, and while others committed: the cursor asked for the
// function, to tell old entries from new ones. TestModel found it.
func lockThenRead(t *testing.T, db *DB, tb *Table, ix *Index) {
	t.Helper()
	tx := mustBegin(t, db, TxOptions{Isolation: ReadCommitted})
	c := tx.IndexCursor(ix, Range{})
	other := mustTable(t, db, "other")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, other, "k", "v") })
	_, err := tx.GetForUpdate(tb, []byte("1"))
	check(t, err)
	for ok := c.First(); ok; ok = c.Next() {
	}
	check(t, c.Err())
	commit(t, tx)
}

// After a reopening an index is read, but its table is not written, until it has its
// function again.
func TestIndexDetached(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	mustIndex(t, db, tb, "words", false)
	mustIndex(t, db, tb, "unique", true)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a b") })
	for range 2 {
		db = reopen(t, db, o)
		tb = mustTable(t, db, "t")
		ix, err := db.Index(tb, "words")
		check(t, err)
		if ix.Attached() {
			t.Fatal("it has a function")
		}
		tx := mustBegin(t, db, TxOptions{})
		for what, err := range map[string]error{
			"put":    tx.Put(tb, []byte("1"), []byte("c")),
			"insert": tx.Insert(tb, []byte("2"), []byte("c")),
			"update": tx.Update(tb, []byte("1"), []byte("c")),
			"delete": tx.Delete(tb, []byte("1")),
		} {
			wantErr(t, what, err, ErrIndexDetached)
		}
		_, err = tx.Append(tb, []byte("c"))
		wantErr(t, "append", err, ErrIndexDetached)
		sameIndex(t, tx, ix)
		commit(t, tx)
		lockThenRead(t, db, tb, ix)
		checkStore(t, db) // entries without rows would be found
		_, err = db.CreateIndex(ctx, tb, "words", true, byWords)
		wantErr(t, "attach, unique", err, ErrIndexExists)
		same := mustIndex(t, db, tb, "words", false)
		if same != ix {
			t.Error("attached is another handle")
		}
		tx = mustBegin(t, db, TxOptions{})
		wantErr(t, "put, one detached", tx.Put(tb, []byte("1"), []byte("c")), ErrIndexDetached)
		rollback(t, tx)
		mustIndex(t, db, tb, "unique", true)
		wantErr(t, "twice", func() error {
			_, err := db.CreateIndex(ctx, tb, "unique", true, byWords)
			return err
		}(), ErrIndexExists)
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a b") })
		wantShow(t, db, ix, "a:1 b:1")
	}
	mustClose(t, db)
}

// A dropped index is gone for who begins later, and stays for older snapshots that do
// not write the table; its name is free, and so is its space.
func TestDropIndex(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "words", false)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	reader := mustBegin(t, db, TxOptions{ReadOnly: true})
	early, late := mustBegin(t, db, TxOptions{}), mustBegin(t, db, TxOptions{})
	put(t, early, tb, "2", "b")
	check(t, db.DropIndex(ctx, tb, "words"))
	wantErr(t, "again", db.DropIndex(ctx, tb, "words"), ErrIndexNotFound)
	put(t, early, tb, "4", "d")
	if got := keysOf(t, late, ix, Range{}); fmt.Sprint(got) != "[a:1]" {
		t.Errorf("older snapshot: %q", got)
	}
	put(t, late, tb, "3", "c")
	for what, tx := range map[string]*Tx{"wrote before": early, "wrote after": late} {
		for _, err := range tx.ScanIndex(ix, Range{}) {
			wantErr(t, what, err, ErrIndexNotFound)
		}
	}
	commit(t, early)
	commit(t, late)
	inView(t, db, func(tx *Tx) {
		c := tx.IndexCursor(ix, Range{})
		if c.First() || !errors.Is(c.Err(), ErrIndexNotFound) {
			t.Errorf("newer snapshot: %v", c.Err())
		}
		check(t, c.Close())
	})
	again := mustIndex(t, db, tb, "words", true)
	wantShow(t, db, again, "a:1 b:2 c:3 d:4")
	check(t, db.Checkpoint(ctx))
	if got := keysOf(t, reader, ix, Range{}); fmt.Sprint(got) != "[a:1]" {
		t.Errorf("older snapshot: %q", got)
	}
	for _, err := range reader.ScanIndex(again, Range{}) {
		wantErr(t, "younger index", err, ErrIndexNotReady)
	}
	rollback(t, reader)
	check(t, db.Checkpoint(ctx))
	if db.cache.Table(ix.Entries().ID) != nil {
		t.Error("the entries are there still")
	}
	check(t, db.DropTable(ctx, "t"))
	if n := len(db.tables); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	db = reopen(t, db, o)
	if n := len(db.tables); n != 0 {
		t.Errorf("%d tables are left after reopening", n)
	}
	mustClose(t, db)
}

// A million updates of three rows in one transaction take the memory of three rows
// with their entries: a statement's own savepoint keeps no versions (S6).
func TestIndexUpdatesInOneTransaction(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 40
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	ix := mustIndex(t, db, tb, "words", false)
	tx := mustBegin(t, db, TxOptions{})
	write := func(n int) {
		for i := range n {
			put(t, tx, tb, string(rune('a'+i%3)), fmt.Sprintf("w%d x", i%7))
		}
	}
	write(2000)
	before := db.arena.Blocks()
	write(20000)
	if after := db.arena.Blocks(); after > before {
		t.Errorf("blocks grew from %d to %d bytes", before, after)
	}
	sameIndex(t, tx, ix)
	sp, err := tx.Savepoint()
	check(t, err)
	want := indexOf(t, tx, tb)
	write(100)
	check(t, tx.RollbackTo(sp))
	if got := indexOf(t, tx, tb); !slices.Equal(got, want) {
		t.Errorf("after rollback to: %q, want %q", got, want)
	}
	sameIndex(t, tx, ix)
	commit(t, tx)
	mustClose(t, db)
}
