package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// One transaction gives one record a large value over and over.
func TestLargeValueRewrittenByOneTransaction(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tx, err := db.Begin(limit, TxOptions{})
	check(t, err)
	const rounds = 4000
	for i := range rounds {
		if err := tx.Put(tb, []byte("k"), value(i, 9<<10)); err != nil {
			t.Fatalf("round %d: %v\n%s", i, err, db.Metrics())
		}
		checkCap(t, db)
	}
	gets(t, tx, tb, "k", string(value(rounds-1, 9<<10)))
	describeMap(t, db, tb)
	commit(t, tx)
	mustClose(t, db)
}

func TestLargeValuesOfLongKeys(t *testing.T) {
	for _, sorted := range []bool{true, false} {
		t.Run(fmt.Sprint("sorted=", sorted), func(t *testing.T) {
			db := mustOpen(t, tinyOptions())
			tb := mustTable(t, db, "t")
			limit, cancel := context.WithTimeout(ctx, 5*time.Minute)
			defer cancel()
			tx, err := db.Begin(limit, TxOptions{})
			check(t, err)
			const rows = 60
			key := func(i int) []byte {
				if !sorted {
					i = i * 7919 % rows
				}
				return fmt.Appendf(nil, "k%08180d", i)
			}
			for i := range rows {
				if err := tx.Put(tb, key(i), value(i, 9<<10)); err != nil {
					t.Fatalf("row %d: %v\n%s", i, err, db.Metrics())
				}
				checkCap(t, db)
			}
			describeMap(t, db, tb)
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
		victims[r.Run] = true
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
