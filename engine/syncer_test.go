package engine

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
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
