package engine

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

// The loss window of NoSync: before a tick a crash may take the commit, after it no
// longer, and a tick is all it takes. The clock is the test's.
func TestNoSyncLossWindow(t *testing.T) {
	fs := newCrashFS(t)
	o := memOptions()
	o.FS, o.SyncInterval = fs, time.Hour
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	db.syncer.close()
	ticks, synced := make(chan time.Time), make(chan struct{})
	db.syncer.start(db, ticks, func() {}, synced)
	has := func(key string) bool {
		c := *o
		c.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		db := mustOpen(t, &c)
		defer func() { mustClose(t, db) }()
		n := 0
		inView(t, db, func(tx *Tx) {
			if _, err := tx.Get(mustTable(t, db, "t"), []byte(key)); err == nil {
				n++
			}
		})
		return n == 1
	}
	for _, key := range []string{"a", "b"} {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, key, "x")
		commit(t, tx)
		inView(t, db, func(tx *Tx) { gets(t, tx, tb, key, "x") }) // published at once
		if has(key) {
			t.Errorf("%s is durable before any sync", key)
		}
		ticks <- time.Time{}
		<-synced
		if !has(key) {
			t.Errorf("%s is lost after the tick", key)
		}
	}
	before := db.Metrics().LogSyncs
	ticks <- time.Time{}
	<-synced
	if n := db.Metrics().LogSyncs; n != before {
		t.Errorf("a tick with nothing to sync made %d syncs", n-before)
	}
	mustClose(t, db)
}

// A checkpoint that takes long does not stretch the window: the syncer had shared
// its goroutine.
func TestNoSyncWindowUnderCheckpoint(t *testing.T) {
	fs := newCrashFS(t)
	h := &hookFS{FS: fs}
	o := memOptions()
	o.FS, o.SyncInterval = h, time.Hour
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	db.syncer.close()
	ticks, synced := make(chan time.Time), make(chan struct{})
	db.syncer.start(db, ticks, func() {}, synced)
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 100, 100) })
	during(t, h, db, func() {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, "k", "x")
		commit(t, tx)
		ticks <- time.Time{}
		<-synced
		if db.log.Synced() < db.log.End() {
			t.Error("the tick during a checkpoint synced nothing")
		}
	})
	mustClose(t, db)
}

// When Sync has returned, no NoSync commit before it can be lost, whatever it left to
// be written: rows in the log, rows chilled ahead of it, frames in runs.
func TestSyncKeepsWhatWasCommitted(t *testing.T) {
	o := crashOptions(t)
	o.SyncInterval, o.ChillThreshold = time.Hour, 64<<10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const each = 1500
	kept := 0
	commits := []func(tx *Tx){
		func(*Tx) {},                    // small
		func(*Tx) { chillAll(t, db) },   // chilled
		func(*Tx) { backlogAll(t, db) }, // in frames
		func(tx *Tx) { backlogAll(t, db); put(t, tx, tb, "k000000", string(value(0, 100))) },
	}
	for i, then := range commits {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		rows := 5
		if i > 0 {
			rows = each
		}
		fillRows(t, tx, tb, kept, kept+rows, 100)
		then(tx)
		commit(t, tx)
		lost := mustOpen(t, crashed(o, 0))
		inView(t, lost, func(tx *Tx) {
			// As a rule the commit is not there: but somebody else, such as a merge,
			// may have synced the log meanwhile.
			tb := mustTable(t, lost, "t")
			n := kept
			if len(all(t, tx, tb)) > kept {
				n += rows
			}
			wantRows(t, tx, tb, 0, n, 100)
		})
		mustClose(t, lost)
		kept += rows
		check(t, db.Sync())
		db2 := mustOpen(t, crashed(o, 0))
		inView(t, db2, func(tx *Tx) { wantRows(t, tx, mustTable(t, db2, "t"), 0, kept, 100) })
		mustClose(t, db2)
	}
	mustClose(t, db)
}

// No goroutine outlives Close, with transactions still open too.
func TestNoGoroutineOutlivesClose(t *testing.T) {
	before := append(ofAbandonedMaps(), goleak.IgnoreCurrent())
	db := mustOpen(t, faultOptions(newCrashFS(t)))
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 3000, 100) })
	open := mustBegin(t, db, TxOptions{})
	fillRows(t, open, tb, 0, 3000, 100)
	mustBegin(t, db, TxOptions{ReadOnly: true})
	check(t, db.Close())
	if err := goleak.Find(before...); err != nil {
		t.Error(err)
	}
}
