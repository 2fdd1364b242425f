package engine

import (
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
)

// L11: once recovery has ended, edits of this life count as survived when they have:
// the prefix that the leaf map tells the next opening moves on. Else each recovery
// would list frames again that were replaced since.
func TestSurvivingPrefixMovesOn(t *testing.T) {
	o := memOptions()
	for life := range 3 {
		db := mustOpen(t, o)
		first := db.space.LastSeq()
		if got := db.space.Loaded().LastSeq; (got != 0) != (life > 0) {
			t.Fatalf("life %d: the prefix ends at %d", life, got)
		}
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, mustTable(t, db, "t"), 0, 50, 100) })
		mustClose(t, db)
		if db = mustOpen(t, o); db.space.Loaded().LastSeq <= first {
			t.Fatalf("life %d: the prefix ends at %d, before the edits of the last life, from %d on", life, db.space.Loaded().LastSeq, first)
		}
		mustClose(t, db)
	}
}

// L7: a timestamp of a commit that a crash took back is not handed out again.
func TestTimestampsDoNotRepeat(t *testing.T) {
	o := crashOptions(t)
	o.SyncInterval = time.Hour
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "durable") })
	check(t, db.Checkpoint(ctx)) // no edit is left that would sync the log later
	for range 100 {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, "k", "lost")
		commit(t, tx)
	}
	last := db.m.Clock()
	db2 := mustOpen(t, crashed(o, 0))
	inView(t, db2, func(tx *Tx) { gets(t, tx, mustTable(t, db2, "t"), "k", "durable") })
	if now := db2.m.Clock(); now < last {
		t.Errorf("the clock goes on at %d, %d was handed out before the crash", now, last)
	}
	mustClose(t, db2)
	mustClose(t, db)
}

// L7 again: with a long SyncInterval more commits could be lost than the clock
// skips, and a crash before the first sync of an opening took the skip itself
// back, so that the next opening handed out the same timestamps.
func TestTimestampsDoNotRepeatWhateverIsLost(t *testing.T) {
	o := crashOptions(t)
	o.SyncInterval, o.clockGap = time.Hour, 16
	db := mustOpen(t, o)
	mustTable(t, db, "t")
	mustClose(t, db)
	last := base.CommitTS(0)
	for _, n := range []int{100, 1, 7, 8, 9, 15, 16, 17} {
		o = crashed(o, 0)
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		if now := db.m.Clock(); now < last {
			t.Errorf("the clock goes on at %d, %d was handed out before the crash", now, last)
		}
		for range n {
			tx := mustBegin(t, db, TxOptions{NoSync: true})
			put(t, tx, tb, "k", "lost")
			commit(t, tx)
		}
		last = db.m.Clock()
		next := crashed(o, 0)
		mustClose(t, db)
		o = next
	}
}

// L5: log segments with groups of a transaction stay until a checkpoint has passed
// its commit record. One that was under way when it committed has not.
func TestGroupsOutliveCheckpointUnderWay(t *testing.T) {
	o := crashOptions(t)
	fs := o.FS
	h := &hookFS{FS: fs}
	o.FS = h
	o.LogSegmentSize, o.LogLimit = 64<<10, 64<<20 // no checkpoint but ours
	db := mustOpen(t, o)
	tb, other := mustTable(t, db, "t"), mustTable(t, db, "other")
	tx := mustBegin(t, db, TxOptions{}) // small, but with groups in the log
	fillRows(t, tx, tb, 0, 2000, 100)
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, other, 0, 2000, 100) })
	during(t, h, db, func() { commit(t, tx) })
	if n := db.log.Stats().PinnedSegments; n == 0 {
		t.Error("the checkpoint let go of groups whose commit record it has not passed")
	}
	o.FS = fs
	db2 := mustOpen(t, crashed(o, 0))
	inView(t, db2, func(tx *Tx) { wantRows(t, tx, mustTable(t, db2, "t"), 0, 2000, 100) })
	mustClose(t, db2)
	check(t, db.Checkpoint(ctx))
	if n := db.log.Stats().PinnedSegments; n != 0 {
		t.Errorf("%d segments are pinned after the checkpoint", n)
	}
	mustClose(t, db)
}
