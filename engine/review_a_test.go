package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// crashed returns options for what a crash would leave of o's file system.
func crashed(o *Options, unsynced int) *Options {
	c := *o
	c.FS = memFS(o.FS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(1, 2))})
	return &c
}

func crashOptions(t tester) *Options {
	o := memOptions()
	o.FS = newCrashFS(t)
	return o
}

// A reverse scan whose From lies below a leaf and does not share the leaf's
// common prefix.
func TestReviewReverseFrom(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range uint64(5000) {
			check(t, tx.Put(tb, u64(i), value(int(i), 200)))
		}
	})
	inView(t, db, func(tx *Tx) {
		for from := uint64(0); from < 5000; from += 111 {
			n := 0
			for _, err := range tx.Scan(tb, Range{From: u64(from), Reverse: true}) {
				check(t, err)
				n++
			}
			if n != 5000-int(from) {
				t.Fatalf("from %d: %d rows, want %d", from, n, 5000-from)
			}
		}
	})
	mustClose(t, db)
}

// One record whose versions do not fit into a page.
func TestReviewOneRecordFillsPage(t *testing.T) {
	t.Run("savepoints", func(t *testing.T) {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		tx := mustBegin(t, db, TxOptions{})
		for i := range 8 {
			_, err := tx.Savepoint()
			check(t, err)
			put(t, tx, tb, "k", string(value(i, 8000)))
			gets(t, tx, tb, "k", string(value(i, 8000)))
			checkStore(t, db)
		}
		commit(t, tx)
		inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", string(value(7, 8000))) })
		mustClose(t, db)
	})
	t.Run("snapshots", func(t *testing.T) {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		var readers []*Tx
		for i := range 8 {
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", string(value(i, 8000))) })
			readers = append(readers, mustBegin(t, db, TxOptions{ReadOnly: true}))
			for j, r := range readers {
				gets(t, r, tb, "k", string(value(j, 8000)))
			}
			checkStore(t, db)
		}
		for _, r := range readers {
			rollback(t, r)
		}
		mustClose(t, db)
	})
}

// A live owner's frame is shared by the halves of a split; the owner rolls back
// and is forgotten.
func TestReviewAbortedSharedFrame(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	a := mustBegin(t, db, TxOptions{})
	for i := range 40 {
		put(t, a, tb, fmt.Sprintf("k%03d", i*10), string(value(i, 50)))
	}
	backlogAll(t, db) // one frame of a's
	inUpdate(t, db, func(tx *Tx) {
		for i := range 400 {
			if i%10 != 0 {
				put(t, tx, tb, fmt.Sprintf("k%03d", i), string(value(i, 300)))
			}
		}
	})
	if db.cache.Leaves() < 2 {
		t.Skip("no split")
	}
	rollback(t, a)
	waitSwept(t, db)
	for range 3 {
		check(t, db.Checkpoint(ctx))
	}
	evictAll(t, db)
	inView(t, db, func(tx *Tx) {
		for i := range 400 {
			want := ""
			if i%10 != 0 {
				want = string(value(i, 300))
			}
			gets(t, tx, tb, fmt.Sprintf("k%03d", i), want)
		}
	})
	mustClose(t, db)
}

// Prune with a horizon that was taken a moment ago.
func TestReviewStaleHorizon(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "0") })
	h := db.snaps.Horizon() // as Settle, BacklogOwner or makeRoom take it, before the leaf's lock
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "1") })
	r := mustBegin(t, db, TxOptions{ReadOnly: true})
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "2") })
	gets(t, r, tb, "k", "1")
	check(t, db.cache.Settle(ctx, h))
	db.cache.Walk(func(l *recordcache.Leaf) bool {
		_, err := db.cache.Relieve(ctx, l, &recordcache.Request{Action: recordcache.Prune, Horizon: h})
		check(t, err)
		return true
	})
	gets(t, r, tb, "k", "1")
	rollback(t, r)
	mustClose(t, db)
}

// Versions that a settle dropped, but did not remove from the page, of a
// transaction that is forgotten.
func TestReviewDroppedVersionOfForgotten(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	a := mustBegin(t, db, TxOptions{})
	big := mustTable(t, db, "other")
	for i := range 40 { // makes a large
		put(t, a, big, fmt.Sprintf("x%03d", i), string(value(i, 100)))
	}
	sp, err := a.Savepoint()
	check(t, err)
	put(t, a, tb, "k5", string(value(1, 400)))
	check(t, a.RollbackTo(sp))
	b := mustBegin(t, db, TxOptions{})
	for i := range 4 {
		put(t, b, tb, fmt.Sprintf("k%d", 6+i), string(value(1, 500)))
	}
	rollback(t, b)
	commit(t, a)
	for range 2 {
		check(t, db.Checkpoint(ctx))
	}
	checkStore(t, db)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k5", "") })
	mustClose(t, db)
}

// A merge drops a large transaction's tombstone with what it hides; the log still
// has the insert.
func TestReviewMergedTombstoneComesBack(t *testing.T) {
	o := crashOptions(t)
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	check(t, db.Checkpoint(ctx))
	inUpdate(t, db, func(tx *Tx) { // small: its rows are in the log
		put(t, tx, tb, "k1", "gone")
		put(t, tx, tb, "k2", "stays")
	})
	backlogAll(t, db)
	inUpdate(t, db, func(tx *Tx) { // large: frames only
		for i := range 30 {
			put(t, tx, tb, fmt.Sprintf("z%03d", i), string(value(i, 100)))
		}
		del(t, tx, tb, "k1")
	})
	mergeAt(t, db, tb, []byte("k1"))
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k1", "") })
	check(t, db.Sync())
	_, err := db.space.Flush() // as Pebble does by itself when a memtable is full
	check(t, err)
	o2 := crashed(o, 0)
	o2.Events = &EventListener{Recovered: func(i RecoveryInfo) { t.Logf("%+v", i) }}
	db2 := mustOpen(t, o2)
	t.Log(db2.Tables())
	tb2 := mustTable(t, db2, "t")
	inView(t, db2, func(tx *Tx) {
		t.Log(all(t, tx, tb2))
		gets(t, tx, tb2, "k2", "stays")
		gets(t, tx, tb2, "k1", "")
	})
	mustClose(t, db2)
	mustClose(t, db)
}

// A dropped table with a number ceiling, replayed.
func TestReviewGhostTable(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		_, err := tx.Append(tb, []byte("v"))
		check(t, err)
	})
	check(t, db.DropTable(ctx, "t"))
	_, err := db.space.Flush()
	check(t, err)
	o2 := crashed(o, 0)
	db2 := mustOpen(t, o2)
	if n := db2.Tables(); len(n) != 0 {
		t.Fatalf("tables %q", n)
	}
	db3 := reopen(t, db2, o2)
	if n := db3.Tables(); len(n) != 0 {
		t.Fatalf("tables after the second opening: %q", n)
	}
	mustClose(t, db3)
	mustClose(t, db)
}

// A name that was dropped and used again while a checkpoint ran.
func TestReviewNameUsedAgain(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	mustTable(t, db, "t")
	check(t, db.DropTable(ctx, "t"))
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	_, err := db.removeDropped(ctx, db.log.End())
	check(t, err) // the end of a checkpoint that began before all this
	_, err = db.space.Flush()
	check(t, err)
	db2 := mustOpen(t, crashed(o, 0))
	tb2, err := db2.Table("t")
	check(t, err)
	inView(t, db2, func(tx *Tx) { gets(t, tx, tb2, "k", "v") })
	mustClose(t, db2)
	mustClose(t, db)
}

// A cursor over a gap is open when the store is closed.
func TestReviewCloseUnderCursor(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range uint64(3000) {
			check(t, tx.Put(tb, u64(i), value(int(i), 40)))
		}
	})
	evictAll(t, db)
	tx := mustBegin(t, db, TxOptions{})
	c := tx.Cursor(tb, Range{})
	for range 500 {
		if !c.Next() {
			t.Fatal(c.Err())
		}
	}
	if err := db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if c.Next() {
		t.Fatal("row after Close")
	}
	wantErr(t, "cursor", c.Err(), ErrClosed)
	check(t, c.Close())
}

// Many large values in one leaf.
func TestReviewManyLargeValues(t *testing.T) {
	o := memOptions()
	o.RecordMemory = 1 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	v := value(1, 9000)
	start := time.Now()
	for i := range 3000 {
		if i%500 == 0 {
			pruneAll(t, db)
			t.Logf("%d: %v leaves %d charged %d reserved %d", i, time.Since(start), db.cache.Leaves(), db.arena.Charged(), db.arena.Reserved())
		}
		inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, fmt.Appendf(nil, "k%06d", i*7919%3000), v)) })
	}
	t.Log(time.Since(start), db.arena.Charged(), db.cache.Leaves())
	checkStore(t, db)
	start = time.Now()
	inView(t, db, func(tx *Tx) {
		n := 0
		for row, err := range tx.Scan(tb, Range{}) {
			check(t, err)
			if string(row.Value) != string(v) {
				t.Fatal(string(row.Key))
			}
			n++
		}
		if n != 3000 {
			t.Fatal(n)
		}
	})
	t.Log("scan", time.Since(start))
	mustClose(t, db)
}

// A leaf full of chilled headers comes back at once.
func TestReviewThawWholeLeaf(t *testing.T) {
	o := memOptions()
	o.LogLimit = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	v := value(1, 8000)
	for i := range 400 {
		put(t, tx, tb, fmt.Sprintf("k%03d", i), string(v))
		chillAll(t, db)
	}
	t.Log("leaves", db.cache.Leaves(), db.space.Stats())
	backlogAll(t, db)
	t.Logf("%+v", db.space.Stats())
	commit(t, tx)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k007", string(v)) })
	mustClose(t, db)
}

var _ = strings.Repeat
