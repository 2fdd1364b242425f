package engine

import (
	"bytes"
	"testing"
	"time"
)

// watched is a store whose watcher wakes at the test's command.
func watched(t *testing.T, o *Options) (db *DB, at func(time.Duration) []LongTransactionInfo) {
	t.Helper()
	var told []LongTransactionInfo
	o.Events = &EventListener{LongTransaction: func(i LongTransactionInfo) { told = append(told, i) }}
	db = mustOpen(t, o)
	db.watch.close()
	ticks, seen := make(chan time.Time), make(chan struct{})
	db.watch.start(db, ticks, func() {}, seen)
	begun := time.Unix(0, 0)
	at = func(d time.Duration) []LongTransactionInfo {
		told = nil
		ticks <- begun.Add(d)
		<-seen
		return told
	}
	at(0)
	return db, at
}

// A transaction that stays open past the limit is told of, once, with what it is and,
// on demand, with the stack that began it. The clock is the test's.
func TestLongTransaction(t *testing.T) {
	o := memOptions()
	o.TxAgeLimit, o.DebugTransactions = time.Hour, true
	db, at := watched(t, o)
	tb := mustTable(t, db, "t")
	if told := at(24 * time.Hour); len(told) != 0 {
		t.Fatalf("nothing is open, and %v is told", told)
	}
	reader := mustBegin(t, db, TxOptions{ReadOnly: true, Isolation: ReadCommitted})
	if told := at(25*time.Hour - 1); len(told) != 0 {
		t.Fatalf("too early: %v", told)
	}
	writer := mustBegin(t, db, TxOptions{})
	put(t, writer, tb, "k", "1")
	told := at(25 * time.Hour)
	if len(told) != 1 || told[0].Age != time.Hour || !told[0].ReadOnly || told[0].Wrote || told[0].Isolation != ReadCommitted {
		t.Fatalf("told %+v, want the reader", told)
	}
	if !bytes.Contains(told[0].Stack, []byte("TestLongTransaction")) {
		t.Errorf("the stack does not say who began it:\n%s", told[0].Stack)
	}
	if age := db.Metrics().OldestTransaction; age != time.Hour {
		t.Errorf("the oldest is %v old", age)
	}
	rollback(t, reader)
	told = at(30 * time.Hour)
	if len(told) != 1 || told[0].Age != 5*time.Hour+1 || told[0].ReadOnly || !told[0].Wrote || told[0].Isolation != Snapshot {
		t.Fatalf("told %+v, want the writer", told)
	}
	if told := at(40 * time.Hour); len(told) != 0 {
		t.Fatalf("told again: %v", told)
	}
	commit(t, writer)
	next := mustBegin(t, db, TxOptions{}) // uses the state of one that was told of
	if told := at(41 * time.Hour); len(told) != 1 || told[0].Age != time.Hour {
		t.Fatalf("told %+v, want the new one", told)
	}
	rollback(t, next)
	if age := db.Metrics().OldestTransaction; age != 0 {
		t.Errorf("nothing is open, and the oldest is %v old", age)
	}
	mustClose(t, db)
}

// Without DebugTransactions there is no stack, below zero nothing is told; a limit
// below a millisecond is refused.
func TestLongTransactionOptions(t *testing.T) {
	o := memOptions()
	db, at := watched(t, o)
	tx := mustBegin(t, db, TxOptions{})
	if told := at(59 * time.Second); len(told) != 0 {
		t.Fatalf("below the default: %v", told)
	}
	if told := at(time.Minute); len(told) != 1 || told[0].Stack != nil {
		t.Fatalf("told %+v at the default limit", told)
	}
	rollback(t, tx)
	mustClose(t, db)

	o = memOptions()
	o.TxAgeLimit = -1
	db, at = watched(t, o)
	tx = mustBegin(t, db, TxOptions{})
	if told := at(1000 * time.Hour); len(told) != 0 {
		t.Fatalf("told %+v without a limit", told)
	}
	rollback(t, tx)
	mustClose(t, db)

	o = memOptions()
	o.TxAgeLimit = time.Microsecond
	_, err := Open("db", o)
	wantErr(t, "open", err, ErrInvalidOptions)
}

// The watcher of an open store runs by itself, and calls from its own goroutine.
func TestLongTransactionIsTold(t *testing.T) {
	o := memOptions()
	told := make(chan LongTransactionInfo, 1)
	o.TxAgeLimit = time.Millisecond
	o.Events = &EventListener{LongTransaction: func(i LongTransactionInfo) { told <- i }}
	db := mustOpen(t, o)
	tx := mustBegin(t, db, TxOptions{})
	select {
	case i := <-told:
		if i.Age < o.TxAgeLimit {
			t.Errorf("told at an age of %v", i.Age)
		}
	case <-time.After(patience):
		t.Fatal("it is not told")
	}
	rollback(t, tx)
	mustClose(t, db)
}
