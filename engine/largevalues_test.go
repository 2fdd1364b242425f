package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// One transaction gives one record a large value over and over. Each is a frame of
// its own, and none left the list before the transaction ended: after some three
// thousand the list was all of record memory, and the statement went round for ever
// (M3, M5). Those of the same stretch hide each other, those of a stretch rolled back
// are nobody's; of what was committed at one timestamp the newest is enough.
func TestLargeValueRewrittenByOneTransaction(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 5*time.Minute) // against hanging
	defer cancel()
	tx, err := db.Begin(limit, TxOptions{})
	check(t, err)
	const rounds = 4000
	large := func(i int) string { return string(value(i, 9<<10)) }
	for i := range rounds {
		if err := tx.Put(tb, []byte("k"), []byte(large(i))); err != nil {
			t.Fatalf("round %d: %v\n%s", i, err, db.Metrics())
		}
		checkCap(t, db)
		if i%250 != 7 {
			continue
		}
		evictAll(t, db)
		outer, err := tx.Savepoint()
		check(t, err)
		for j := range 5 {
			put(t, tx, tb, "k", large(j))
			inner, err := tx.Savepoint()
			check(t, err)
			put(t, tx, tb, "k", large(j+10))
			mergeAt(t, db, tb, []byte("k"))
			if j%2 == 0 {
				check(t, tx.RollbackTo(inner))
				gets(t, tx, tb, "k", large(j))
			}
			check(t, tx.Release(inner))
		}
		mergeAt(t, db, tb, []byte("k"))
		gets(t, tx, tb, "k", large(4))
		check(t, tx.RollbackTo(outer))
		mergeAt(t, db, tb, []byte("k"))
		gets(t, tx, tb, "k", large(i))
		check(t, tx.Release(outer))
	}
	gets(t, tx, tb, "k", large(rounds-1))
	commit(t, tx)
	mergeAt(t, db, tb, []byte("k"))
	// A merge asks for the epochs of four frames of a record or more, not of fewer; how
	// many there were is the scavenger's doing.
	if n := listed(t, db, tb, []byte("k")); n > 3 {
		t.Errorf("%d frames of one value are listed", n)
	}
	db = reopen(t, db, o)
	inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "k", large(rounds-1)) })
	mustClose(t, db)
}

// Values that one transaction replaced by itself have all its timestamp. Space
// collection took none of them for superseded and copied each from run to run.
func TestCollectValuesReplacedByOneTransaction(t *testing.T) {
	for _, undone := range []bool{false, true} {
		t.Run(fmt.Sprint("undone=", undone), func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			const size = 200 << 10
			inUpdate(t, db, func(tx *Tx) {
				for i := range 20 {
					put(t, tx, tb, "k", string(value(i, size)))
				}
				if !undone {
					return
				}
				sp, err := tx.Savepoint()
				check(t, err)
				put(t, tx, tb, "k", string(value(20, size)))
				check(t, tx.RollbackTo(sp))
			})
			evictAll(t, db)
			check(t, db.Checkpoint(ctx))
			// A merge that was asked for meanwhile may hold the run during a pass.
			eventually(t, "fall of the run", func() bool {
				check(t, db.CollectSpace(ctx))
				return db.space.RunBytes() <= 5*size/2
			})
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", string(value(19, size))) })
			mustClose(t, db)
		})
	}
}

// listed returns how many frames the entry of a key lists in the leaf map.
func listed(t tester, db *DB, tb *Table, key []byte) int {
	t.Helper()
	en, found, _, _, err := db.space.Lookup(tb.ID, key)
	if err != nil {
		t.Fatalf("lookup: %v", err)
	}
	if found {
		defer db.space.ReleaseEntry(&en)
	}
	return len(en.Frames)
}

// Frames of large values keep their key in the list. Thirty-two long keys were more
// than all of record memory: the leaf never became present again, and the writer
// went round for ever (M3).
func TestLargeValuesOfLongKeys(t *testing.T) {
	for _, sorted := range []bool{true, false} {
		t.Run(fmt.Sprint("sorted=", sorted), func(t *testing.T) {
			db := mustOpen(t, tinyOptions())
			tb := mustTable(t, db, "t")
			limit, cancel := context.WithTimeout(ctx, 5*time.Minute) // against hanging
			defer cancel()
			tx, err := db.Begin(limit, TxOptions{})
			check(t, err)
			const rows = 61
			for i := range rows {
				n := i
				if !sorted {
					n = i * 17 % rows
				}
				if err := tx.Put(tb, fmt.Appendf(nil, "k%08180d", n), value(i, 9<<10)); err != nil {
					t.Fatalf("row %d: %v\n%s", i, err, db.Metrics())
				}
				checkCap(t, db)
			}
			commit(t, tx)
			inView(t, db, func(tx *Tx) {
				if n := len(all(t, tx, tb)); n != rows {
					t.Fatalf("%d rows", n)
				}
			})
			mustClose(t, db)
		})
	}
}

// A writer reads the visible value of what it updates, and kept it, however large,
// until its transaction ended: idle ones held their values in memory that nobody
// counts (M1).
func TestUpdateKeepsNoLargeValue(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const rows, size = 16, 2 << 20
	inUpdate(t, db, func(tx *Tx) {
		for i := range rows {
			put(t, tx, tb, fmt.Sprint("k", i), string(value(i, size)))
		}
	})
	evictAll(t, db)
	var txs []*Tx
	before := liveHeap(t)
	for i := range rows {
		tx := mustBegin(t, db, TxOptions{})
		check(t, tx.Update(tb, fmt.Append(nil, "k", i), []byte("small")))
		txs = append(txs, tx)
	}
	if grown := liveHeap(t) - before; grown > rows*size/4 {
		t.Errorf("%d idle writers keep %d KiB", rows, grown>>10)
	}
	for i, tx := range txs {
		gets(t, tx, tb, fmt.Sprint("k", i), "small")
		commit(t, tx)
	}
	mustClose(t, db)
}

// Every frame repeats the fences of its leaf. With long ones, and many owners in one
// page, they are more than was reserved for it; what was written gave all of that
// back, and the buffer had grown for ever (M1).
func TestBufferOfManyOwnersAndLongFences(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	long := func(c string) string { return c + strings.Repeat("x", 8000) }
	inUpdate(t, db, func(tx *Tx) { // leaves begin and end at long keys
		for _, c := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			put(t, tx, tb, long(c), string(value(1, 5000)))
		}
	})
	var txs []*Tx
	for i := range 60 {
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, fmt.Sprintf("d%04d", i), "x")
		put(t, tx, tb, fmt.Sprintf("f%04d", i), "x")
		txs = append(txs, tx)
	}
	backlogAll(t, db)
	for _, tx := range txs {
		commit(t, tx)
	}
	check(t, db.Checkpoint(ctx))
	if n := db.space.Stats().BufferUsed; n < 0 {
		t.Errorf("%d bytes of the buffer are in use", n)
	}
	mustClose(t, db)
}

// A leaf whose list is too long to become present is made short before space
// collection rewrites it. The collector was told that memory was short instead, and
// waited for no bytes at all, which nobody serves: it and everybody behind it in
// the line starved (M3, M7).
func TestCollectLeafOfLongList(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const owners = 500
	var txs []*Tx
	for w := range owners {
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, fmt.Sprintf("k%04d", w), fmt.Sprint(w))
		txs = append(txs, tx)
	}
	evictAll(t, db) // a frame of each owner, in one leaf
	for _, tx := range txs {
		commit(t, tx)
	}
	victims := map[base.RunID]bool{}
	for _, r := range db.space.RunInfos(nil) {
		if r.Owner != 0 { // merges add to the shared one at this moment
			victims[r.Run] = true
		}
	}
	if len(victims) < owners/2 {
		t.Fatalf("%d runs of owners", len(victims))
	}
	check(t, db.cache.Collect(ctx, tb, recordcache.Span{Low: []byte{}}, victims))
	for id := range victims {
		if r := db.space.Find(id); r != nil && r.Listed() != 0 {
			t.Fatalf("run %x is still listed %d times", uint64(id), r.Listed())
		}
	}
	inView(t, db, func(tx *Tx) {
		if rows := all(t, tx, tb); len(rows) != owners {
			t.Fatalf("%d rows", len(rows))
		}
	})
	mustClose(t, db)
}
