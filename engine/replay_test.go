package engine

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
)

// replayedRow is a row as the log has it.
type replayedRow struct {
	key, value string
	kind       base.Kind
	ord        base.Order
}

// loggedRows returns the rows of key that work leaves in the log, in the order
// of the log.
func loggedRows(t *testing.T, key string, work func(tx *Tx, tb *Table)) (rows []replayedRow) {
	t.Helper()
	fs := vfs.NewMem()
	o := memOptions()
	o.FS = fs
	db := mustOpen(t, o)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	tx := mustBegin(t, db, TxOptions{})
	work(tx, tb)
	commit(t, tx)
	lg, err := seriallog.Open(seriallog.Options{FS: fs, Dir: "db/log", SegmentSize: 16 << 20, BufferSize: 1 << 20, Incarnation: 99})
	check(t, err)
	check(t, lg.Replay(0, func(rec seriallog.Record) error {
		for body := rec.Body; rec.Type != seriallog.TypeDDL && len(body) > 0; {
			row, n, err := seriallog.DecodeRow(body)
			check(t, err)
			if body = body[n:]; string(row.Key) == key {
				rows = append(rows, replayedRow{key, string(row.Value), row.Kind, base.Order{TS: 7, Epoch: row.Epoch, Leave: row.Leave}})
			}
		}
		return nil
	}))
	check(t, lg.Close())
	mustClose(t, db)
	return rows
}

// replayBesideBacklog replays rows into an empty store that is so short of memory
// that each is in a frame before the next one comes. With last the last one goes
// there too, and all are merged.
func replayBesideBacklog(t *testing.T, key string, rows []replayedRow, last bool) string {
	t.Helper()
	db := mustOpen(t, memOptions())
	defer mustClose(t, db)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	var w recordcache.Writer
	w.Reg = db.reg
	read := func() (got string) {
		inView(t, db, func(tx *Tx) {
			if v, err := tx.Get(tb, []byte(key)); err == nil {
				got = string(v)
			}
		})
		return got
	}
	for _, r := range rows {
		evictAll(t, db)
		check(t, tb.Replay(&w, []byte(r.key), []byte(r.value), r.kind, r.ord))
	}
	if last {
		evictAll(t, db)
		mergeAt(t, db, tb, []byte(key))
	}
	return read()
}

// L6: a transaction wrote a row twice; both rows came into its commit record with
// the same Order. Recovery ran out of memory between them: the first was in a
// frame when the second was replayed, then that was in a frame too, nothing told
// which of them was newer, and a merge took the older one. Found by bench/crash.
func TestReplayOfRowWrittenTwice(t *testing.T) {
	rows := loggedRows(t, "k", func(tx *Tx, tb *Table) {
		for _, v := range []string{"1", "2", "3"} {
			put(t, tx, tb, "k", v)
		}
		del(t, tx, tb, "k")
		for _, v := range []string{"4", "5", "6", "7", "8", "9", "10", "11"} {
			put(t, tx, tb, "k", v)
		}
	})
	if len(rows) != 12 {
		t.Fatalf("%d rows in the log", len(rows))
	}
	for i := 1; i < len(rows); i++ {
		if !rows[i].ord.Newer(rows[i-1].ord) {
			t.Errorf("row %d of the log, %+v, is not newer than the one before, %+v", i, rows[i].ord, rows[i-1].ord)
		}
	}
	for _, last := range []bool{false, true} {
		if got := replayBesideBacklog(t, "k", rows, last); got != "11" {
			t.Errorf("after recovery k is %q, want the last value", got)
		}
	}
}

// Writing a row again is no departure: a rollback to a savepoint undoes it in
// memory, and leaves no dead interval behind (M5).
func TestWrittenTwiceIsNoDeparture(t *testing.T) {
	db := mustOpen(t, memOptions())
	defer mustClose(t, db)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", "0")
	for range 3 {
		sp, err := tx.Savepoint()
		check(t, err)
		put(t, tx, tb, "k", "1")
		put(t, tx, tb, "k", "2")
		check(t, tx.RollbackTo(sp))
	}
	o := db.reg.Get(txnOf(t, db))
	if n := len(o.Dead()); n != 0 || o.Left.Load() {
		t.Errorf("%d dead intervals, left %v", n, o.Left.Load())
	}
	gets(t, tx, tb, "k", "0")
	commit(t, tx)
}

// P1: a chilled copy of an older version may come later in the log than a newer
// one of its transaction. Recovery had that one in a frame already, did not ask
// frames of an equal timestamp, and the older one stood.
func TestReplayOfOlderRowAfterBacklog(t *testing.T) {
	rows := []replayedRow{
		{"k", "old", base.KindValue, base.Order{TS: 7, Epoch: 1}},
		{"k", "new", base.KindValue, base.Order{TS: 7, Epoch: 2}},
		{"k", "old", base.KindValue, base.Order{TS: 7, Epoch: 1}},
	}
	for _, last := range []bool{false, true} {
		if got := replayBesideBacklog(t, "k", rows, last); got != "new" {
			t.Errorf("after recovery k is %q, want new", got)
		}
	}
}

// A merge drops a large transaction's tombstone with what it hides; the log still
// has the insert.
func TestReplayOfRowBelowMergedTombstone(t *testing.T) {
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
	db2 := mustOpen(t, crashed(o, 0))
	tb2 := mustTable(t, db2, "t")
	inView(t, db2, func(tx *Tx) {
		gets(t, tx, tb2, "k2", "stays")
		gets(t, tx, tb2, "k1", "")
	})
	mustClose(t, db2)
	mustClose(t, db)
}
