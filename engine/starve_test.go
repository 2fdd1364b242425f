package engine

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Small transactions keep redo and a list of what they wrote, charged to record
// memory, and nobody but they themselves could take it from them: a hundred and
// fifty idle ones held all of it, and the next writer waited for ever, without
// even ErrRecordMemory, since stubs came and went (M3, M6).
func TestIdleTransactionsGiveUpBuffers(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	const idle, rows = 250, 24
	var txs []*Tx
	for w := range idle {
		tx, err := db.Begin(limit, TxOptions{})
		check(t, err)
		txs = append(txs, tx)
		for i := range rows {
			if err := tx.Put(tb, fmt.Appendf(nil, "k%02d/%03d", i, w), value(i, 150)); err != nil {
				t.Fatalf("transaction %d, row %d: %v\n%s", w, i, err, db.Metrics())
			}
		}
		checkCap(t, db)
	}
	for i, tx := range txs {
		if i%3 == 0 {
			rollback(t, tx)
		} else {
			commit(t, tx)
		}
	}
	inView(t, db, func(tx *Tx) {
		if n, want := len(all(t, tx, tb)), (idle-(idle+2)/3)*rows; n != want {
			t.Fatalf("%d rows, want %d", n, want)
		}
	})
	mustClose(t, db)
}

// A leaf lists a frame or more of every live owner, and its descriptor must fit
// into record memory to become present. So a list that takes more than an eighth
// of it is made shorter in the leaf map: cut between records, since a record has
// one live owner at most (M3).
func TestLongListIsCutInTheMap(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const owners = 900
	var txs []*Tx
	key := func(w, i int) string { return fmt.Sprintf("k%d/%04d", i, w*7919%owners) }
	for w := range owners {
		tx := mustBegin(t, db, TxOptions{})
		txs = append(txs, tx)
		for i := range 3 { // each owner's rows lie far apart
			put(t, tx, tb, key(w, i), fmt.Sprint(w, " ", i))
		}
		if w%100 == 0 {
			sp, err := tx.Savepoint()
			check(t, err)
			put(t, tx, tb, key(w, 1), "later undone")
			backlogAll(t, db)
			check(t, tx.RollbackTo(sp))
		}
		if w%50 == 0 {
			evictAll(t, db)
		}
	}
	evictAll(t, db)
	for w, tx := range txs {
		put(t, tx, tb, key(w, 2), fmt.Sprint(w, " again"))
		gets(t, tx, tb, key(w, 0), fmt.Sprint(w, " 0"))
		gets(t, tx, tb, key(w, 1), fmt.Sprint(w, " 1"))
		checkCap(t, db)
	}
	// No page was ever full: it is their lists that the leaves were cut for.
	if m := db.Metrics(); m.LeafSplits != 0 || m.Leaves < 4 {
		t.Fatalf("the list was not cut:\n%s", m)
	}
	evictAll(t, db)
	for w, tx := range txs {
		if w%4 == 0 {
			rollback(t, tx)
		} else {
			commit(t, tx)
		}
	}
	look := func() {
		inView(t, db, func(tx *Tx) {
			if n, want := len(all(t, tx, tb)), owners/4*3*3; n != want {
				t.Fatalf("%d rows, want %d", n, want)
			}
			for w := 1; w < owners; w += 111 {
				want := fmt.Sprint(w, " again")
				if w%4 == 0 {
					want = ""
				}
				gets(t, tx, tb, key(w, 2), want)
			}
		})
	}
	look()
	db = reopen(t, db, o)
	if tb, _ = db.Table("t"); tb == nil {
		t.Fatal("the table is gone")
	}
	look()
	mustClose(t, db)
}

// A large value reserves buffers. When its leaf was full besides, and had to be
// backlogged first, that reserved more of them and waited for itself.
func TestLargeValueInFullLeafDoesNotWaitForItself(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tx, err := db.Begin(limit, TxOptions{})
	check(t, err)
	n := 0
	small := func() {
		n++
		check(t, tx.Put(tb, fmt.Appendf(nil, "k%05d", n*7919%10000), value(n, 10)))
	}
	large := value(1, 450<<10)
	for i := range 40 {
		for range 500 + i { // the leaf is full at some time
			small()
		}
		check(t, tx.Put(tb, fmt.Appendf(nil, "k%05d/%04000d", i*251, i), large))
	}
	commit(t, tx)
	inView(t, db, func(tx *Tx) {
		if rows := len(all(t, tx, tb)); rows < 10000+40 {
			t.Fatalf("%d rows", rows)
		}
	})
	mustClose(t, db)
}

// What live transactions log ahead of commit, no checkpoint can let go. It counted
// against the limit of the log all the same: once it filled that, nobody could
// begin to write until one of them committed, and each might wait for the other
// (L9).
func TestUncommittedLogDelaysNobody(t *testing.T) {
	o := memOptions()
	o.LogLimit = 1 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := 0; db.Metrics().LogBytesPending <= 2*o.LogLimit; i++ {
		put(t, tx, tb, fmt.Sprintf("k%06d", i), string(value(i, 1000)))
		if i%200 == 0 {
			chillAll(t, db)
		}
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for i := range 3 {
		other, err := db.Begin(limit, TxOptions{})
		check(t, err)
		check(t, other.Put(tb, fmt.Append(nil, "other", i), nil))
		commit(t, other)
	}
	commit(t, tx)
	mustClose(t, db)
}
