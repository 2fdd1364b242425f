package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// paceStore is a store of which much is dead, where tests make the passes. Its gate
// is shut. The test has ckpt.mu, and a table was dropped: a pass waits for a checkpoint
// when it has made its survey.
func paceStore(t *testing.T) *DB {
	t.Helper()
	db, write := besideStore(t)
	c := &db.collect
	c.close(db) // no pass but ours
	_, err := db.CreateTable(ctx, "dropped")
	check(t, err)
	check(t, db.ckpt.mu.lock(ctx)) // nor a checkpoint
	check(t, db.DropTable(ctx, "dropped"))
	for i := range 4 {
		write(i)
		evictAll(t, db)
	}
	db.temps.Rollover()
	n := db.space.RunBytes()
	c.live.Store(n / 4)
	c.soft, c.left = n/2, n/4
	c.setGate(db, c.soft)
	return db
}

// heldPass begins a pass that has made a survey and waits for a checkpoint.
func heldPass(ctx context.Context, t *testing.T, db *DB) (ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	n := db.collect.surveys.Load()
	go func() { ended <- db.collect.run(ctx, db) }()
	eventually(t, "a survey", func() bool { return db.collect.surveys.Load() > n })
	return ended
}

func isOpen(gate <-chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}

// Each batch of a pass began with a gate at what runs had then, however far beyond
// the limit that was: whoever waited went on, 64 times a pass. A table updated whole by
// one transaction after the other came to four times its live bytes, and to three
// before the transaction wrote.
func TestGateStaysShutBeyondLimit(t *testing.T) {
	db := paceStore(t)
	gate := db.crowded()
	ended := heldPass(ctx, t, db)
	if n, limit := db.space.RunBytes(), db.collect.limit(db.collect.live.Load()); gate == nil || isOpen(gate) || db.crowded() == nil {
		t.Errorf("a pass lets writers go on at %d bytes in runs; its limit is %d", n, limit)
	}
	db.ckpt.mu.unlock()
	check(t, <-ended)
	if !isOpen(gate) || db.crowded() != nil {
		t.Error("the pass has ended, and the gate is shut")
	}
	mustClose(t, db)
}

// A batch made room for all that it read, though it writes what is live of that.
// Writers took the rest.
func TestRoomForCopies(t *testing.T) {
	db := paceStore(t)
	c := &db.collect
	c.least = 1
	db.temps.Rollover()
	check(t, c.mu.lock(ctx))
	sv, err := c.survey(ctx, db, pace{}, false)
	check(t, err)
	p := c.plan(db, sv)
	before := db.space.RunBytes()
	check(t, c.rewrite(ctx, db, p.victims, pace{}))
	added := db.space.RunBytes() - before
	c.mu.unlock()
	db.ckpt.mu.unlock()
	if len(p.victims) == 0 || added == 0 || p.copied > 2*added {
		t.Errorf("room for %d bytes, %d were written, of %d victims", p.copied, added, len(p.victims))
	}
	mustClose(t, db)
}

// A pass that its caller cancelled ended like one that can do no more: the gate rose
// by a sixteenth, and the next survey came when runs had grown by as much. Calls of
// CollectSpace that timed out let a store grow to eleven times its live bytes.
func TestCancelledPassStaysDue(t *testing.T) {
	db := paceStore(t)
	c := &db.collect
	c.due.Store(0)
	soft := c.soft
	limited, cancel := context.WithCancel(ctx)
	ended := heldPass(limited, t, db)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the pass ended with %v", err)
	}
	db.ckpt.mu.unlock()
	if !c.isDue(db) || c.hard.Load() > soft {
		t.Errorf("a survey is due: %v; the gate is at %d, it was at %d", c.isDue(db), c.hard.Load(), soft)
	}
	check(t, c.run(ctx, db))
	if db.crowded() != nil {
		t.Error("a whole pass leaves the gate shut")
	}
	mustClose(t, db)
}

// Gate and survey stood where they were for a table that had been dropped: the others
// could grow to its size. So could a store after a large transaction was rolled back.
func TestGateAfterFall(t *testing.T) {
	db := mustOpen(t, memOptions())
	c := &db.collect
	tb, small := mustTable(t, db, "large"), mustTable(t, db, "small")
	for i := range 64 {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, string(u64(uint64(i))), string(value(i, 512<<10))) })
	}
	evictAll(t, db)
	check(t, db.CollectSpace(ctx))
	was := c.hard.Load()
	if n := db.space.RunBytes(); n < 32<<20 {
		t.Fatalf("%d bytes in runs", n)
	}
	check(t, db.DropTable(ctx, "large"))
	eventually(t, "fall of the runs", func() bool { // a pass may be reading one
		check(t, db.Checkpoint(ctx))
		return db.space.RunBytes() < 2<<20
	})
	eventually(t, "fall of the gate", func() bool {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, small, "k", "v") })
		return c.hard.Load() < was/8 && c.due.Load() < was/8
	})
	mustClose(t, db)
}

// With one checkpoint behind the other there was always one when the collector looked:
// it unlinked, and who stood at the gate waited until they ended.
func TestSurveyBetweenCheckpoints(t *testing.T) {
	db, write := besideStore(t)
	c := &db.collect
	check(t, db.ckpt.mu.lock(ctx)) // the next one runs already
	check(t, c.mu.lock(ctx))
	for i := range 4 {
		write(i)
		evictAll(t, db)
	}
	c.surveys.Store(1) // not the first
	n := db.space.RunBytes()
	c.left, c.soft = n/4, n/2
	c.setGate(db, c.soft)
	gate := db.crowded()
	c.checkpointed(db) // one has ended
	c.mu.unlock()
	eventually(t, "a survey", func() bool { return c.surveys.Load() > 1 })
	eventually(t, "who waits at the gate goes on", func() bool { return isOpen(gate) })
	db.ckpt.mu.unlock()
	mustClose(t, db)
}

// The end of a checkpoint removes runs. Nobody told those at the gate.
func TestGateOpensAfterCheckpoint(t *testing.T) {
	db, write := besideStore(t)
	c := &db.collect
	c.close(db) // it would tell them in its next pass
	for i := range 2 {
		write(i)
		relieveAll(t, db, recordcache.Checkpoint)
	}
	db.temps.Rollover()
	n := db.space.RunBytes()
	c.setGate(db, n-1)
	gate := db.crowded()
	check(t, db.Checkpoint(ctx))
	if now := db.space.RunBytes(); gate == nil || now >= n || !isOpen(gate) {
		t.Errorf("%d bytes in runs that were %d; the gate was shut: %v", now, n, gate != nil)
	}
	mustClose(t, db)
}

// What a transaction has written counted as live until its commit, and went on to count:
// the gate stood where one pass had left both the rows and what was to replace them.
// Transactions that each updated a whole table came to 378 % of its live bytes.
func TestSurveyDueAfterLargeCommit(t *testing.T) {
	db := mustOpen(t, memOptions())
	c := &db.collect
	c.close(db) // no pass but ours
	c.least = 1
	tb := mustTable(t, db, "t")
	write := func(g int) *Tx {
		tx := mustBegin(t, db, TxOptions{})
		for i := range 1000 {
			put(t, tx, tb, string(u64(uint64(i))), string(value(i+g, 100)))
		}
		evictAll(t, db)
		return tx
	}
	commit(t, write(0))
	large := write(1)
	check(t, c.run(ctx, db))
	if n := db.space.RunBytes(); c.isDue(db) || c.undecided.Load() == 0 || c.left > n/4*3 {
		t.Errorf("a survey is due: %v; %d bytes left, %d in runs, most of %d", c.isDue(db), c.left, n, c.undecided.Load())
	}
	commit(t, large)
	if !c.isDue(db) {
		t.Error("no survey is due, and half of all is dead")
	}
	check(t, c.run(ctx, db))
	if c.isDue(db) || c.undecided.Load() != 0 {
		t.Error("a survey is due still")
	}
	mustClose(t, db)
}
