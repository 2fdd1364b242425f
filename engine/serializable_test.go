package engine

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/versionchain"
)

// Serializable, anomaly by anomaly, wherever the versions are (eachMove), and then
// what happens between looking through the reads and taking the timestamp.

// serial begins a serializable transaction.
func serial(t tester, db *DB) *Tx {
	t.Helper()
	tx, err := db.Begin(ctx, TxOptions{Isolation: Serializable})
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return tx
}

// wantSkew checks that the commit fails, that it may be retried, and that nothing of
// it is left.
func wantSkew(t tester, tx *Tx) {
	t.Helper()
	err := tx.Commit()
	wantErr(t, "commit", err, ErrConflict)
	if !IsRetryable(err) {
		t.Fatal("not retryable")
	}
	wantErr(t, "rollback", tx.Rollback(), ErrTxDone)
}

// reads are the ways to read the records of keys a to c.
var reads = map[string]func(t tester, tx *Tx, tb *Table){
	"get": func(t tester, tx *Tx, tb *Table) {
		t.Helper()
		for _, k := range []string{"a", "b", "c"} {
			if _, err := tx.Get(tb, []byte(k)); err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
	},
	"scan": func(t tester, tx *Tx, tb *Table) {
		t.Helper()
		scanAll(t, tx, tb, Range{From: []byte("a"), To: []byte("d")})
	},
	"reverse scan": func(t tester, tx *Tx, tb *Table) {
		t.Helper()
		scanAll(t, tx, tb, Range{From: []byte("a"), To: []byte("d"), Reverse: true})
	},
	"open cursor": func(t tester, tx *Tx, tb *Table) {
		t.Helper()
		c := tx.Cursor(tb, Range{From: []byte("a"), To: []byte("d")})
		for ok := c.First(); ok; ok = c.Next() {
		}
		if c.Err() != nil {
			t.Fatal(c.Err())
		}
	},
	"statements": func(t tester, tx *Tx, tb *Table) {
		t.Helper()
		for _, k := range []string{"a", "b", "c"} {
			if _, err := tx.Get(tb, []byte(k)); err == nil {
				wantErr(t, "insert", tx.Insert(tb, []byte(k), nil), ErrKeyExists)
			} else {
				wantErr(t, "delete", tx.Delete(tb, []byte(k)), ErrNotFound)
			}
		}
	},
}

func scanAll(t tester, tx *Tx, tb *Table, r Range) (n int) {
	t.Helper()
	for _, err := range tx.Scan(tb, r) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// eachRead runs fn with each way to read and each way to move versions.
func eachRead(t *testing.T, fn func(s *story, read func(tx *Tx))) {
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			eachMove(t, func(s *story) { fn(s, func(tx *Tx) { t.Helper(); read(s, tx, s.tb) }) })
		})
	}
}

// G2-item, write skew: each reads both rows and writes one of them.
func TestSerializableWriteSkew(t *testing.T) {
	eachRead(t, func(s *story, read func(tx *Tx)) {
		s.seed("a", "1", "c", "1", "z", "0")
		t1, t2 := serial(s, s.db), serial(s, s.db)
		read(t1)
		read(t2)
		put(s, t1, s.tb, "a", "0")
		put(s, t2, s.tb, "c", "0")
		s.move()
		commit(s, t1)
		s.move()
		wantSkew(s, t2)
		inView(s, s.db, func(tx *Tx) { s.want(tx, "a", "0", "c", "1", "z", "0") })
	})
}

// G2, phantom: each reads a range, or keys that are absent, and inserts into what
// the other one has read.
func TestSerializablePhantom(t *testing.T) {
	eachRead(t, func(s *story, read func(tx *Tx)) {
		s.seed("b", "1")
		t1, t2 := serial(s, s.db), serial(s, s.db)
		read(t1)
		read(t2)
		check(s, t1.Insert(s.tb, []byte("a"), []byte("t1")))
		check(s, t2.Insert(s.tb, []byte("c"), []byte("t2")))
		s.move()
		commit(s, t1)
		s.move()
		wantSkew(s, t2)
		inView(s, s.db, func(tx *Tx) { s.want(tx, "a", "t1", "b", "1") })
	})
}

// A row that was deleted is as much of a change, though nothing of it may be left.
func TestSerializableDeleted(t *testing.T) {
	eachRead(t, func(s *story, read func(tx *Tx)) {
		s.seed("b", "1")
		t1 := serial(s, s.db)
		read(t1)
		put(s, t1, s.tb, "z", "b is there")
		inUpdate(s, s.db, func(tx *Tx) { del(s, tx, s.tb, "b") })
		s.move()
		mergeAt(s, s.db, s.tb, []byte("b"))
		pruneAll(s, s.db)
		wantSkew(s, t1)
	})
}

// G-single, read skew: what is read is of one moment, and a write that depends on it
// is refused.
func TestSerializableReadSkew(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("x", "1", "y", "1")
		t1, reader := serial(s, s.db), serial(s, s.db)
		gets(s, t1, s.tb, "x", "1")
		inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "x", "2"); put(s, tx, s.tb, "y", "2") })
		s.move()
		gets(s, t1, s.tb, "y", "1")
		gets(s, reader, s.tb, "y", "1")
		put(s, t1, s.tb, "z", "x+y=2")
		wantSkew(s, t1)
		gets(s, reader, s.tb, "x", "1")
		commit(s, reader) // wrote nothing: it takes place before
	})
}

// P4, lost update.
func TestSerializableLostUpdate(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("x", "1")
		t1, t2 := serial(s, s.db), serial(s, s.db)
		gets(s, t1, s.tb, "x", "1")
		gets(s, t2, s.tb, "x", "1")
		put(s, t1, s.tb, "x", "2")
		s.move()
		commit(s, t1)
		s.move()
		wantErr(s, "put", t2.Put(s.tb, []byte("x"), []byte("2")), ErrConflict)
		put(s, t2, s.tb, "y", "x was 1")
		wantSkew(s, t2) // a failed statement is no excuse
	})
}

// The read-only anomaly of Fekete, O'Neil and O'Neil: a withdrawal that overdraws, a
// deposit, and a report that sees the deposit without the withdrawal. Without the
// report either order would do; with it the withdrawal must fail. The report, which
// writes nothing, does not, declared read-only or not.
func TestSerializableReadOnlyAnomaly(t *testing.T) {
	for _, declared := range []bool{false, true} {
		eachMove(t, func(s *story) {
			s.seed("savings", "0", "checking", "0")
			withdrawal := serial(s, s.db)
			gets(s, withdrawal, s.tb, "savings", "0")
			gets(s, withdrawal, s.tb, "checking", "0")
			deposit := serial(s, s.db)
			gets(s, deposit, s.tb, "savings", "0")
			put(s, deposit, s.tb, "savings", "20")
			commit(s, deposit)
			s.move()
			report := mustBegin(s, s.db, TxOptions{Isolation: Serializable, ReadOnly: declared})
			gets(s, report, s.tb, "savings", "20")
			gets(s, report, s.tb, "checking", "0")
			put(s, withdrawal, s.tb, "checking", "-11")
			s.move()
			commit(s, report)
			wantSkew(s, withdrawal)
		})
	}
}

// What was read is known to the row: a scan that ends early has not read what lies
// behind its last row, and beside a range everything may change.
func TestSerializablePrecise(t *testing.T) {
	limits := map[string]func(s *story, tx *Tx){
		"limit":         func(s *story, tx *Tx) { scanAll(s, tx, s.tb, Range{From: []byte("c"), Limit: 2}) },
		"reverse limit": func(s *story, tx *Tx) { scanAll(s, tx, s.tb, Range{To: []byte("e\x00"), Reverse: true, Limit: 2}) },
		"break": func(s *story, tx *Tx) {
			for row, err := range tx.Scan(s.tb, Range{From: []byte("c")}) {
				if check(s, err); string(row.Key) == "e" {
					break
				}
			}
		},
		"cursor": func(s *story, tx *Tx) {
			c := tx.Cursor(s.tb, Range{})
			if !c.Seek([]byte("c")) || !c.Next() || !c.Prev() || string(c.Key()) != "c" {
				s.Fatalf("cursor at %q", c.Key())
			}
		},
		"range": func(s *story, tx *Tx) { scanAll(s, tx, s.tb, Range{From: []byte("c"), To: []byte("e\x00")}) },
	}
	for name, scan := range limits {
		t.Run(name, func(t *testing.T) {
			eachMove(t, func(s *story) {
				s.seed("a", "1", "c", "1", "e", "1", "g", "1")
				for _, k := range []string{"a", "b", "f", "g", "h", "e\x00", "e", "c", "d"} {
					tx := serial(s, s.db)
					scan(s, tx)
					put(s, tx, s.tb, "z", "read c to e")
					inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, k, "2") })
					s.move()
					if k == "c" || k == "d" || k == "e" {
						wantSkew(s, tx)
					} else {
						commit(s, tx)
					}
				}
			})
		})
	}
}

// What others lock, roll back, or have not committed yet is no change.
func TestSerializableNoChange(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "1", "b", "1")
		t1 := serial(s, s.db)
		reads["scan"](s, t1, s.tb)
		put(s, t1, s.tb, "z", "read a to c")
		lock := s.begin()
		_, err := lock.GetForUpdate(s.tb, []byte("a"))
		check(s, err)
		commit(s, lock)
		part := s.begin()
		put(s, part, s.tb, "y", "1")
		sp := s.savepoint(part)
		put(s, part, s.tb, "b", "2")
		put(s, part, s.tb, "c", "2")
		s.move()
		s.rollbackTo(part, sp)
		commit(s, part)
		gone, live := s.begin(), s.begin()
		put(s, gone, s.tb, "b", "3")
		s.move()
		rollback(s, gone)
		put(s, live, s.tb, "c", "3")
		s.move()
		commit(s, t1)
		commit(s, live)
	})
}

// A rollback to a savepoint gives back what first updater wins has protected. What
// the statements have told stays told.
func TestSerializableRolledBackStatements(t *testing.T) {
	for name, learn := range map[string]func(s *story, tx *Tx){
		"update": func(s *story, tx *Tx) { check(s, tx.Update(s.tb, []byte("a"), nil)) },
		"delete": func(s *story, tx *Tx) { check(s, tx.Delete(s.tb, []byte("a"))) },
		"lock": func(s *story, tx *Tx) {
			_, err := tx.GetForUpdate(s.tb, []byte("a"))
			check(s, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachMove(t, func(s *story) {
				s.seed("a", "1", "b", "1")
				t1 := serial(s, s.db)
				put(s, t1, s.tb, "z", "a is there")
				sp := s.savepoint(t1)
				learn(s, t1)
				put(s, t1, s.tb, "b", "blind") // tells nothing
				s.move()
				s.rollbackTo(t1, sp)
				inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "b", "2") })
				inUpdate(s, s.db, func(tx *Tx) { del(s, tx, s.tb, "a") })
				s.move()
				wantSkew(s, t1)
			})
		})
	}
}

// A transaction of which no write remains takes place at its snapshot: it has only
// tried to write, has locked, or has taken all back. One that wrote beside that does
// not.
func TestSerializableWroteNothing(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "1", "b", "1")
		back := func(tx *Tx, fn func()) {
			sp := s.savepoint(tx)
			fn()
			s.move()
			s.rollbackTo(tx, sp)
		}
		lock := func(tx *Tx) {
			_, err := tx.GetForUpdate(s.tb, []byte("b"))
			check(s, err)
		}
		for name, c := range map[string]struct {
			fn    func(tx *Tx)
			wrote bool
		}{
			"refused":          {fn: func(tx *Tx) { wantErr(s, "insert", tx.Insert(s.tb, []byte("a"), nil), ErrKeyExists) }},
			"locked":           {fn: lock},
			"taken back":       {fn: func(tx *Tx) { back(tx, func() { put(s, tx, s.tb, "z", "1"); del(s, tx, s.tb, "b") }) }},
			"large taken back": {fn: func(tx *Tx) { back(tx, func() { put(s, tx, s.tb, "z", string(value(1, 20000))) }) }},
			"locked, and taken back": {fn: func(tx *Tx) {
				lock(tx)
				back(tx, func() { put(s, tx, s.tb, "b", "2") })
			}},
			"released": {wrote: true, fn: func(tx *Tx) {
				sp := s.savepoint(tx)
				put(s, tx, s.tb, "z", "1")
				check(s, tx.Release(sp))
				back(tx, func() { del(s, tx, s.tb, "b") })
			}},
			"written over": {wrote: true, fn: func(tx *Tx) {
				put(s, tx, s.tb, "z", "1")
				back(tx, func() { put(s, tx, s.tb, "z", "2") })
			}},
			"after taking back": {wrote: true, fn: func(tx *Tx) {
				back(tx, func() { put(s, tx, s.tb, "z", "1") })
				put(s, tx, s.tb, "z", "2")
			}},
			"deleted again": {wrote: true, fn: func(tx *Tx) { put(s, tx, s.tb, "z", "1"); del(s, tx, s.tb, "z") }},
		} {
			inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "a", "1") })
			t1 := serial(s, s.db)
			gets(s, t1, s.tb, "a", "1")
			c.fn(t1)
			inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "a", "2") })
			s.move()
			if c.wrote {
				wantSkew(s, t1)
			} else if err := t1.Commit(); err != nil {
				s.Fatalf("%s: %v", name, err)
			}
		}
		// The lock counts for writers, as an update does.
		old, t1 := s.begin(), serial(s, s.db)
		lock(t1)
		commit(s, t1)
		wantErr(s, "put", old.Put(s.tb, []byte("b"), nil), ErrConflict)
		rollback(s, old)
	})
}

// underWay counts the commits that have a timestamp and are not published.
func underWay(db *DB) (n int) {
	db.reg.Each(func(o *versionchain.Outcome) {
		if st, ts := o.Status(); st == versionchain.Committing && ts > 0 {
			n++
		}
	})
	return n
}

// skewUnderWay checks that the commit fails while the log cannot be synced. One that
// succeeds would wait for that.
func skewUnderWay(t *testing.T, db *DB, tx *Tx) {
	t.Helper()
	n := underWay(db)
	done := make(chan error, 1)
	go func() { done <- tx.Commit() }()
	for {
		select {
		case err := <-done:
			if !errors.Is(err, ErrConflict) {
				t.Errorf("commit: %v", err)
			}
			return
		default:
		}
		if underWay(db) > n {
			t.Error("missed what has a timestamp and is not published")
			return
		}
		runtime.Gosched()
	}
}

// Whoever has taken a timestamp and is not published yet, because the log is being
// synced, has changed what it wrote; nobody waits for it.
func TestSerializableCommitUnderWay(t *testing.T) {
	for _, threshold := range []int64{0, 1} {
		o := memOptions()
		o.ChillThreshold = threshold
		o.FS = vfs.NewMem()
		h := &syncHookFS{FS: o.FS}
		o.FS = h
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "1") })
		t1, t2 := serial(t, db), serial(t, db)
		gets(t, t1, tb, "a", "1")
		put(t, t1, tb, "b", "a is 1")
		put(t, t2, tb, "a", "2")
		// The syncer, or an edit, may sync before t2 has its timestamp.
		h.hookWhen(func() bool { return underWay(db) > 0 }, func() { skewUnderWay(t, db, t1) })
		commit(t, t2)
		if h.hook.Load() != nil {
			t.Fatal("nothing was synced")
		}
		mustClose(t, db)
	}
}

// hookWhen calls fn once, before the next sync for which ready says yes.
func (h *syncHookFS) hookWhen(ready func() bool, fn func()) {
	var hook func()
	hook = func() {
		if ready() {
			fn()
		} else {
			h.hook.Store(&hook)
		}
	}
	h.hook.Store(&hook)
}

// A dropped table conflicts with whoever has read it and not written it, from when
// the drop has its timestamp on.
func TestSerializableDropTable(t *testing.T) {
	o := memOptions()
	h := &syncHookFS{FS: vfs.NewMem()}
	o.FS = h
	db := mustOpen(t, o)
	tb, other := mustTable(t, db, "t"), mustTable(t, db, "other")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "1") })
	t1, t2, reader := serial(t, db), serial(t, db), serial(t, db)
	for _, tx := range []*Tx{t1, t2} {
		gets(t, tx, tb, "a", "1")
		put(t, tx, other, fmt.Sprintf("%p", tx), "a is 1")
	}
	gets(t, reader, tb, "a", "1")
	h.hookWhen(func() bool { return tb.Dropped.Load() != 0 }, func() { skewUnderWay(t, db, t1) })
	check(t, db.DropTable(ctx, "t"))
	if h.hook.Load() != nil {
		t.Fatal("nothing was synced")
	}
	wantSkew(t, t2)
	commit(t, reader)
	mustClose(t, db)
}

// Values that are frames of their own: a change is found without reading them, one
// that was rolled back is none.
func TestSerializableLargeValues(t *testing.T) {
	for _, undone := range []bool{false, true} {
		eachRead(t, func(s *story, read func(tx *Tx)) {
			s.seed("a", "1", "c", "1")
			t1, t2 := serial(s, s.db), s.begin()
			read(t1)
			put(s, t1, s.tb, "z", "read a to c")
			put(s, t2, s.tb, "y", string(value(1, 20000)))
			sp := s.savepoint(t2)
			put(s, t2, s.tb, "b", string(value(2, 20000)))
			s.move()
			if undone {
				s.rollbackTo(t2, sp)
			}
			commit(s, t2)
			s.move()
			if undone {
				commit(s, t1)
			} else {
				wantSkew(s, t1)
			}
		})
	}
}
