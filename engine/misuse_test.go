package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Misuse is answered by one clear error and changes nothing.

// Every method of a transaction, by name; the key and value are legal.
var statements = []struct {
	name  string
	write bool
	fn    func(tx *Tx, tb *Table, key, value []byte) error
}{
	{"Get", false, func(tx *Tx, tb *Table, k, _ []byte) error { _, err := tx.Get(tb, k); return err }},
	{"AppendGet", false, func(tx *Tx, tb *Table, k, _ []byte) error { _, err := tx.AppendGet(nil, tb, k); return err }},
	{"GetForUpdate", true, func(tx *Tx, tb *Table, k, _ []byte) error { _, err := tx.GetForUpdate(tb, k); return err }},
	{"Put", true, func(tx *Tx, tb *Table, k, v []byte) error { return tx.Put(tb, k, v) }},
	{"Insert", true, func(tx *Tx, tb *Table, k, v []byte) error { return tx.Insert(tb, k, v) }},
	{"Update", true, func(tx *Tx, tb *Table, k, v []byte) error { return tx.Update(tb, k, v) }},
	{"Delete", true, func(tx *Tx, tb *Table, k, _ []byte) error { return tx.Delete(tb, k) }},
}

var tableStatements = []struct {
	name  string
	write bool
	fn    func(tx *Tx, tb *Table) error
}{
	{"Append", true, func(tx *Tx, tb *Table) error { _, err := tx.Append(tb, nil); return err }},
	{"Scan", false, func(tx *Tx, tb *Table) error {
		for _, err := range tx.Scan(tb, Range{}) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"Cursor", false, func(tx *Tx, tb *Table) error {
		c := tx.Cursor(tb, Range{})
		defer func() { _ = c.Close() }()
		if c.First() || c.Last() || c.Seek([]byte("k")) || c.SeekBefore([]byte("z")) {
			return nil
		}
		return c.Err()
	}},
}

// misuse runs every statement and wants the same error of each.
func misuse(t *testing.T, what string, tx *Tx, tb *Table, readsToo bool, want error) {
	t.Helper()
	for _, s := range statements {
		if s.write || readsToo {
			wantErr(t, what+": "+s.name, s.fn(tx, tb, []byte("k"), []byte("v")), want)
		}
	}
	for _, s := range tableStatements {
		if s.write || readsToo {
			wantErr(t, what+": "+s.name, s.fn(tx, tb), want)
		}
	}
}

func misuseStore(t *testing.T) (*DB, *Table) {
	t.Helper()
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "0") })
	return db, tb
}

func TestMisuseOfTables(t *testing.T) {
	db, tb := misuseStore(t)
	foreign, foreignTable := misuseStore(t)
	dropped := mustTable(t, db, "dropped")
	check(t, db.DropTable(ctx, "dropped"))
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", "1")
	misuse(t, "nil table", tx, nil, true, ErrTableNotFound)
	misuse(t, "table of another store", tx, foreignTable, true, ErrTableNotFound)
	misuse(t, "dropped table", tx, dropped, true, ErrTableNotFound)
	misuse(t, "zero table", tx, &Table{}, true, ErrTableNotFound)
	wantKV(t, tx, tb, "k", "1")
	commit(t, tx)
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "1") })
	inView(t, foreign, func(tx *Tx) { wantKV(t, tx, foreignTable, "k", "0") })

	_, err := db.CreateTable(ctx, "t")
	wantErr(t, "create", err, ErrTableExists)
	for _, name := range []string{"", strings.Repeat("x", 256)} {
		_, err = db.CreateTable(ctx, name)
		wantErr(t, fmt.Sprintf("create with a name of %d bytes", len(name)), err, ErrInvalidName)
	}
	_, err = db.CreateTable(canceled, "u")
	wantErr(t, "create with an ended context", err, context.Canceled)
	_, err = db.Table("u")
	wantErr(t, "table", err, ErrTableNotFound)
	wantErr(t, "drop", db.DropTable(ctx, "u"), ErrTableNotFound)
	wantErr(t, "drop again", db.DropTable(ctx, "dropped"), ErrTableNotFound)
	if got := db.Tables(); len(got) != 1 {
		t.Errorf("tables %v", got)
	}
	mustClose(t, db)
	mustClose(t, foreign)
}

// DropTable waits for writers, honours its context, and leaves the table usable
// when it gives up; older snapshots read on.
func TestDropTableAndItsUsers(t *testing.T) {
	db, tb := misuseStore(t)
	writer := mustBegin(t, db, TxOptions{})
	put(t, writer, tb, "l", "1")
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	wantErr(t, "drop under a writer", db.DropTable(short, "t"), context.DeadlineExceeded)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "m", "1") })
	old := mustBegin(t, db, TxOptions{})
	gone := make(chan error, 1)
	go func() { gone <- db.DropTable(ctx, "t") }()
	eventually(t, "drop", func() bool { return tb.Dropped.Load() != 0 })
	late := mustBegin(t, db, TxOptions{})
	wantErr(t, "write while it is being dropped", late.Put(tb, []byte("n"), nil), ErrTableNotFound)
	put(t, writer, tb, "l", "2") // who was there goes on
	commit(t, writer)
	check(t, <-gone)
	check(t, db.Checkpoint(ctx))
	wantKV(t, old, tb, "k", "0", "m", "1")
	wantErr(t, "write to a dropped table", old.Put(tb, []byte("n"), nil), ErrTableNotFound)
	rollback(t, old)
	rollback(t, late)
	inView(t, db, func(tx *Tx) { misuse(t, "dropped", tx, tb, false, ErrTableNotFound) })
	again, err := db.CreateTable(ctx, "t")
	check(t, err)
	inView(t, db, func(tx *Tx) { wantKV(t, tx, again) })
	db2 := reopen(t, db, db.o.optionsOf())
	inView(t, db2, func(tx *Tx) { wantKV(t, tx, mustTable(t, db2, "t")) })
	mustClose(t, db2)
}

func (r *resolved) optionsOf() *Options { o := r.Options; return &o }

func TestMisuseOfKeysAndValues(t *testing.T) {
	db, tb := misuseStore(t)
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "l", "1")
	for _, s := range statements {
		wantErr(t, s.name+" without key", s.fn(tx, tb, nil, nil), ErrKeyEmpty)
		wantErr(t, s.name+" with an empty key", s.fn(tx, tb, []byte{}, nil), ErrKeyEmpty)
		wantErr(t, s.name+" with a long key", s.fn(tx, tb, make([]byte, MaxKeySize+1), nil), ErrKeyTooLarge)
	}
	large := make([]byte, MaxValueSize+1)
	wantErr(t, "put", tx.Put(tb, []byte("k"), large), ErrValueTooLarge)
	wantErr(t, "insert", tx.Insert(tb, []byte("n"), large), ErrValueTooLarge)
	wantErr(t, "update", tx.Update(tb, []byte("k"), large), ErrValueTooLarge)
	_, err := tx.Append(tb, large)
	wantErr(t, "append", err, ErrValueTooLarge)
	wantKV(t, tx, tb, "k", "0", "l", "1")
	// The greatest that is allowed.
	key := bytes.Repeat([]byte{0xff}, MaxKeySize)
	check(t, tx.Put(tb, key, []byte("long key")))
	commit(t, tx)
	evictAll(t, db)
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "0", "l", "1", string(key), "long key") })
	mustClose(t, db)
}

// The greatest value takes part in a transaction like any other.
func TestGreatestValue(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	v := bytes.Repeat([]byte("0123456789abcdef"), MaxValueSize/16)
	tx := mustBegin(t, db, TxOptions{})
	check(t, tx.Put(tb, []byte("k"), v))
	sp, err := tx.Savepoint()
	check(t, err)
	put(t, tx, tb, "k", "small")
	check(t, tx.RollbackTo(sp))
	commit(t, tx)
	db = reopen(t, db, o)
	inView(t, db, func(tx *Tx) {
		got, err := tx.Get(mustTable(t, db, "t"), []byte("k"))
		if err != nil || !bytes.Equal(got, v) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
	mustClose(t, db)
}

func TestMisuseOfEndedTransactions(t *testing.T) {
	db, tb := misuseStore(t)
	for _, how := range []string{"commit", "rollback"} {
		for _, readOnly := range []bool{false, true} {
			tx := mustBegin(t, db, TxOptions{ReadOnly: readOnly})
			sp, err := tx.Savepoint()
			check(t, err)
			c := tx.Cursor(tb, Range{})
			if !c.First() {
				t.Fatal(c.Err())
			}
			if how == "commit" {
				commit(t, tx)
			} else {
				rollback(t, tx)
			}
			misuse(t, "after "+how, tx, tb, true, ErrTxDone)
			wantErr(t, "commit after "+how, tx.Commit(), ErrTxDone)
			wantErr(t, "rollback after "+how, tx.Rollback(), ErrTxDone)
			_, err = tx.Savepoint()
			wantErr(t, "savepoint after "+how, err, ErrTxDone)
			wantErr(t, "rollback to after "+how, tx.RollbackTo(sp), ErrTxDone)
			wantErr(t, "release after "+how, tx.Release(sp), ErrTxDone)
			if c.Next() || c.First() || !errors.Is(c.Err(), ErrTxDone) {
				t.Errorf("cursor after %s: %v", how, c.Err())
			}
			check(t, c.Close())
		}
	}
	inView(t, db, func(tx *Tx) { wantKV(t, tx, tb, "k", "0") })
	mustClose(t, db)
}

func TestMisuseOfReadOnly(t *testing.T) {
	db, tb := misuseStore(t)
	tx := mustBegin(t, db, TxOptions{ReadOnly: true})
	misuse(t, "read-only transaction", tx, tb, false, ErrReadOnly)
	wantKV(t, tx, tb, "k", "0")
	commit(t, tx)
	o := db.o.optionsOf()
	mustClose(t, db)

	o.ReadOnly = true
	db = mustOpen(t, o)
	tb, err := db.Table("t")
	check(t, err)
	tx = mustBegin(t, db, TxOptions{})
	misuse(t, "read-only store", tx, tb, false, ErrReadOnly)
	wantKV(t, tx, tb, "k", "0")
	commit(t, tx)
	_, err = db.CreateTable(ctx, "u")
	wantErr(t, "create", err, ErrReadOnly)
	wantErr(t, "drop", db.DropTable(ctx, "t"), ErrReadOnly)
	check(t, db.Close())
}

func TestMisuseOfSavepoints(t *testing.T) {
	db, tb := misuseStore(t)
	tx := mustBegin(t, db, TxOptions{})
	other := mustBegin(t, db, TxOptions{})
	a, err := tx.Savepoint()
	check(t, err)
	put(t, tx, tb, "k", "a")
	b, err := tx.Savepoint()
	check(t, err)
	put(t, tx, tb, "k", "b")
	c, err := tx.Savepoint()
	check(t, err)
	foreign, err := other.Savepoint()
	check(t, err)
	check(t, tx.Release(b))
	for name, sp := range map[string]Savepoint{"released": b, "inside a released one": c, "of another transaction": foreign, "zero": {}} {
		wantErr(t, "rollback to a savepoint "+name, tx.RollbackTo(sp), ErrSavepointNotFound)
		wantErr(t, "release of a savepoint "+name, tx.Release(sp), ErrSavepointNotFound)
	}
	wantKV(t, tx, tb, "k", "b")
	check(t, tx.RollbackTo(a))
	check(t, tx.RollbackTo(a))
	wantKV(t, tx, tb, "k", "0")
	rollback(t, other)
	commit(t, tx)
	mustClose(t, db)
}

func TestMisuseOfOpen(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	_, err := Open("db", o)
	wantErr(t, "open twice", err, ErrLocked)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, mustTable(t, db, "t"), "k", "0") })
	mustClose(t, db)
	wantErr(t, "close twice", db.Close(), ErrClosed)
	_, err = db.Begin(ctx, TxOptions{})
	wantErr(t, "begin after close", err, ErrClosed)
	_, err = db.Table("t")
	wantErr(t, "table after close", err, ErrClosed)
	_, err = db.CreateTable(ctx, "u")
	wantErr(t, "create after close", err, ErrClosed)
	wantErr(t, "drop after close", db.DropTable(ctx, "t"), ErrClosed)
	wantErr(t, "sync after close", db.Sync(), ErrClosed)
	wantErr(t, "checkpoint after close", db.Checkpoint(ctx), ErrClosed)
	wantErr(t, "verify after close", db.Verify(ctx), ErrClosed)
	wantErr(t, "view after close", db.View(ctx, func(*Tx) error { return nil }), ErrClosed)
	wantErr(t, "update after close", db.Update(ctx, func(*Tx) error { return nil }), ErrClosed)
	_ = db.Metrics()
	_ = db.Tables()

	// On the operating system's file system too.
	dir := t.TempDir()
	db, err = Open(dir, nil)
	check(t, err)
	_, err = Open(dir, nil)
	wantErr(t, "open twice", err, ErrLocked)
	mustTable(t, db, "t")
	mustClose(t, db)
	db, err = Open(dir, nil)
	check(t, err)
	if got := db.Tables(); len(got) != 1 {
		t.Errorf("tables %v", got)
	}
	mustClose(t, db)
}

func TestMisuseOfOptions(t *testing.T) {
	bad := &Options{
		Memory: 1, RecordMemory: 1, ChillThreshold: -1, LogLimit: 1, LogSegmentSize: 1, MapMemTable: 1, RunSize: 1, FS: vfs.NewMem(),
	}
	_, err := Open("db", bad)
	wantErr(t, "open", err, ErrInvalidOptions)
	for _, name := range []string{"Memory", "RecordMemory", "ChillThreshold", "LogLimit", "LogSegmentSize", "MapMemTable", "RunSize"} {
		if !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not named in %q", name, err)
		}
	}
	for _, o := range []*Options{{Memory: -1}, {Memory: 1 << 60}, {RecordMemory: -5}, {ChillThreshold: -1}, {LogSegmentSize: 2 << 30}} {
		o.FS = bad.FS
		_, err := Open("db", o)
		wantErr(t, fmt.Sprintf("open with %+v", o), err, ErrInvalidOptions)
	}
	if names, err := bad.FS.List("db"); err == nil {
		t.Errorf("a refused Open left %v", names)
	}
	db := mustOpen(t, memOptions())
	for _, iso := range []Isolation{Serializable + 1, 77} {
		if tx, err := db.Begin(ctx, TxOptions{Isolation: iso}); err == nil {
			t.Errorf("begin with %v", iso)
			rollback(t, tx)
		} else {
			wantErr(t, "begin with "+iso.String(), err, ErrNotSupported)
		}
	}
	_, err = db.Begin(canceled, TxOptions{})
	wantErr(t, "begin with an ended context", err, context.Canceled)
	wantErr(t, "update with an ended context", db.Update(canceled, func(*Tx) error { return nil }), context.Canceled)
	mustClose(t, db)
}

// What the caller passes in and gets back is its own.
func TestBuffersBelongToTheCaller(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		key, val := []byte("key"), []byte("a value that is long enough")
		check(s, tx.Put(s.tb, key, val))
		clear(key)
		clear(val)
		s.move()
		got, err := tx.Get(s.tb, []byte("key"))
		check(s, err)
		clear(got)
		s.want(tx, "key", "a value that is long enough")
		dst := append(make([]byte, 0, 100), "prefix "...)
		out, err := tx.AppendGet(dst, s.tb, []byte("key"))
		if err != nil || string(out) != "prefix a value that is long enough" || &out[0] != &dst[0] {
			s.Fatalf("%q %v", out, err)
		}
		out, err = tx.AppendGet(dst, s.tb, []byte("absent"))
		if !errors.Is(err, ErrNotFound) || string(out) != "prefix " {
			s.Fatalf("%q %v", out, err)
		}
		from, to := []byte("key"), []byte("kez")
		c := tx.Cursor(s.tb, Range{From: from, To: to})
		clear(from)
		clear(to)
		if !c.First() || string(c.Key()) != "key" || c.Next() {
			s.Fatalf("cursor %q %v", c.Key(), c.Err())
		}
		check(s, c.Close())
		commit(s, tx)
		s.wantCommitted("key", "a value that is long enough")
	})
}

// Ranges at their limits.
func TestRanges(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		for _, k := range []string{"\x00", "a", "b", "c", "\xff", "\xff\xff"} {
			put(s, tx, s.tb, k, "v")
		}
		s.move()
		for _, c := range []struct {
			r    Range
			want string
		}{
			{Range{}, "00 61 62 63 ff ffff"},
			{Range{Reverse: true}, "ffff ff 63 62 61 00"},
			{Range{From: []byte("a")}, "61 62 63 ff ffff"},
			{Range{From: []byte("a"), Reverse: true}, "ffff ff 63 62 61"},
			{Range{From: []byte{}, To: []byte("a")}, "00"},
			{Range{From: []byte("a"), To: []byte("c")}, "61 62"},
			{Range{From: []byte("a"), To: []byte("c"), Reverse: true}, "62 61"},
			{Range{From: []byte("aa"), To: []byte("bb"), Reverse: true}, "62"},
			{Range{From: []byte("c"), To: []byte("a")}, ""},
			{Range{From: []byte("a"), To: []byte("a")}, ""},
			{Range{To: []byte{}}, ""},
			{Range{To: []byte{}, Reverse: true}, ""},
			{Range{To: []byte("\x00")}, ""},
			{Range{From: []byte("\xff\xff\xff")}, ""},
			{Range{Limit: 2}, "00 61"},
			{Range{Limit: 2, Reverse: true}, "ffff ff"},
			{Range{Limit: 99}, "00 61 62 63 ff ffff"},
			{Range{Limit: -1}, "00 61 62 63 ff ffff"},
		} {
			var got []string
			for row, err := range tx.Scan(s.tb, c.r) {
				check(s, err)
				got = append(got, fmt.Sprintf("%x", row.Key))
			}
			if strings.Join(got, " ") != c.want {
				s.Errorf("%+v: %v, want %s", c.r, got, c.want)
			}
		}
		for _, err := range tx.Scan(s.tb, Range{}) {
			check(s, err)
			break // an early end is no harm
		}
		rollback(s, tx)
	})
}

// A store of a newer format, and damaged ones, are refused.
func TestFormatFile(t *testing.T) {
	for content, want := range map[string]error{
		"saker format 1\nincarnation 3\n":                            nil,
		(&format{2, "0.1.0", 3}).encode():                            nil,
		(&format{2, "", 3}).encode():                                 &CorruptionError{},
		(&format{2, "0.1.0", 0}).encode():                            &CorruptionError{},
		(&format{2, "0.1.0", 4194305}).encode():                      &CorruptionError{},
		(&format{1, "0.1.0", 3}).encode():                            &CorruptionError{},
		(&format{4, "0.4.0", 3}).encode():                            ErrFormatTooNew,
		(&format{3, "0.3.0", 3}).encode():                            nil,
		"saker format 4\nwhatever comes later":                       ErrFormatTooNew,
		"saker format 2\nincarnation 3\n":                            &CorruptionError{},
		(&format{2, "0.1.0", 3}).encode() + "\n":                     &CorruptionError{},
		(&format{2, "0.1.0", 3}).encode()[1:]:                        &CorruptionError{},
		"":                                                           &CorruptionError{},
		"saker format 1":                                             &CorruptionError{},
		"saker format 1\n":                                           &CorruptionError{},
		"saker format 01\nincarnation 3\n":                           &CorruptionError{},
		"saker format x\nincarnation 3\n":                            &CorruptionError{},
		"saker format 1\nincarnation 0\n":                            &CorruptionError{},
		"saker format 1\nincarnation 99999999999\n":                  &CorruptionError{},
		"saker format 1\nincarnation 4194304\n":                      &CorruptionError{},
		"saker format 1\nincarnation 3\nmore\n":                      &CorruptionError{},
		"saker format 1\nincarnation 3\n" + strings.Repeat("x", 300): &CorruptionError{},
	} {
		o := memOptions()
		check(t, o.FS.MkdirAll("db", 0o755))
		f, err := o.FS.Create("db/FORMAT", vfs.WriteCategoryUnspecified)
		check(t, err)
		_, err = f.Write([]byte(content))
		check(t, err)
		check(t, f.Close())
		db, err := Open("db", o)
		var ce *CorruptionError
		switch {
		case want == nil:
			check(t, err)
			mustClose(t, db)
		case errors.As(want, &ce):
			if !errors.As(err, &ce) {
				t.Errorf("%q: %v, want corruption", content, err)
			}
		default:
			wantErr(t, fmt.Sprintf("%q", content), err, want)
		}
	}
}
