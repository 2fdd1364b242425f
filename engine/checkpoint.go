package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/internal/base"
)

// checkpointer writes committed rows from memory to runs, so that the log can be
// reused. One checkpoint runs at a time.
type checkpointer struct {
	mu   mutex // held by a running checkpoint
	kick chan struct{}
	stop chan struct{}
	done sync.WaitGroup

	failed atomic.Pointer[failed]
}

// failed says how many checkpoints have failed, how many of them one after the other up
// to now, and why the last did.
type failed struct {
	all, row int
	err      error
}

func (c *checkpointer) start(db *DB) {
	c.kick = make(chan struct{}, 1)
	c.poke() // recovery may have left much to do
	c.stop = make(chan struct{})
	c.done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-c.stop:
				return
			case <-c.kick:
			case <-tick.C:
			}
			if (c.due(db) || n%dropTicks == 0 && db.droppable()) && db.failed() == nil {
				_ = c.run(context.Background(), db)
			}
		}
	})
}

// due reports whether a checkpoint is worth it: the log has grown, transactions wait
// to be forgotten, or a store that is opened and killed again and again has begun
// many segments in which nothing is.
func (c *checkpointer) due(db *DB) bool {
	if db.m.Owed() > db.o.LogLimit/2 || db.m.Retired() > maxRetired {
		return true
	}
	pos, _ := db.m.Published()
	return int64(db.log.Passed(pos)) > maxPassed+db.o.LogLimit/db.log.SegmentSize()
}

// poke asks for a look at the log; it never blocks.
func (c *checkpointer) poke() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *checkpointer) close() {
	close(c.stop)
	c.done.Wait()
}

// dropTicks is after how many ticks the checkpointer looks for dropped tables whose
// data can go: about once a second.
const dropTicks = 5

// maxRetired is how many decided transactions may stay known only because no
// checkpoint has passed, before one is made on their account.
const maxRetired = 1024

// maxPassed is how many log segments beyond LogLimit a checkpoint may be able to pass
// before one is made on their account.
const maxPassed = 8

// run makes a checkpoint and tells of it.
func (c *checkpointer) run(ctx context.Context, db *DB) error {
	if err := c.mu.lock(ctx); err != nil {
		return err
	}
	start := time.Now()
	pos, err := c.checkpoint(ctx, db)
	c.count(ctx, err)
	if err == nil {
		err = db.tidy(ctx, pos)
	}
	c.mu.unlock()
	db.collect.checkpointed(db)
	db.checkpointed(CheckpointInfo{Duration: time.Since(start), Err: err})
	return err
}

// count notes what became of a checkpoint. REQUIRES: c.mu is held.
func (c *checkpointer) count(ctx context.Context, err error) {
	f := failed{}
	if last := c.failed.Load(); last != nil {
		f = *last
	}
	switch {
	case err == nil:
		f.row, f.err = 0, nil
	case ctx.Err() == nil: // else it is its caller's affair
		f.row, f.all, f.err = f.row+1, f.all+1, err
	}
	c.failed.Store(&f)
}

// maxFailures is how many checkpoints may fail, one after the other, before whoever
// waits for one is told why.
const maxFailures = 8

// stuck returns how many checkpoints have failed, and nil, or why none succeeds now: a
// row that must be written cannot be read, say. They are tried again all the same.
func (c *checkpointer) stuck() (n int, err error) {
	f := c.failed.Load()
	if f == nil {
		return 0, nil
	}
	if f.row >= maxFailures {
		err = fmt.Errorf("saker: the log is full, and %d checkpoints have failed: %w", f.row, f.err)
	}
	return f.all, err
}

// checkpoint makes a checkpoint, up to a position in the log. The position is taken
// first, what it relies on is captured afterwards (L6); it is an edit behind those that it
// vouches for, and the log is let go only when the map is flushed with it. REQUIRES: c.mu
// is held.
func (c *checkpointer) checkpoint(ctx context.Context, db *DB) (base.LSN, error) {
	if err := db.failed(); err != nil {
		return 0, err
	}
	pos, clock := db.m.Published()
	retired := db.m.TakeRetired()
	// What it writes whole supersedes old runs, which can go meanwhile.
	db.collect.beside.Store(0)
	if err := db.cache.CheckpointLeaves(ctx, db.snaps.Horizon, db.pokeCollector); err != nil {
		db.m.ReturnRetired(retired)
		return 0, err
	}
	if err := db.space.ReserveEdits(ctx, 1); err != nil {
		db.m.ReturnRetired(retired)
		return 0, err
	}
	e := db.space.BeginEdit()
	e.SetCheckpoint(pos, clock)
	e.NeedSync()
	e.End()
	db.temps.SealFull()
	if _, err := db.space.Flush(); err != nil {
		db.m.ReturnRetired(retired)
		return 0, errors.Join(db.failed(), err)
	}
	db.cache.SetCheckpoint(clock)
	db.log.Checkpointed(pos)
	db.m.Checkpointed(pos)
	db.m.Forget(retired)
	db.m.Relaxed()
	db.pokeCollector()
	return pos, nil
}

// tidy removes what nobody needs any more behind a checkpoint up to pos. REQUIRES:
// db.ckpt.mu is held.
func (db *DB) tidy(ctx context.Context, pos base.LSN) error {
	if err := db.forgetOwners(ctx); err != nil {
		return err
	}
	removed, err := db.removeDropped(ctx, pos)
	if removed {
		_, ferr := db.space.Flush() // which unlinks what only they listed
		err = errors.Join(err, ferr)
	}
	return err
}

// forgetOwners deletes the outcomes of transactions all of whose frames have been
// replaced, and durably so (L7).
func (db *DB) forgetOwners(ctx context.Context) error {
	for _, id := range db.cache.Unnamed() {
		if err := db.space.ReserveEdits(ctx, 1); err != nil {
			return err
		}
		e := db.space.BeginEdit()
		e.DeleteOutcome(id)
		e.End()
		db.cache.ForgetOwner(id)
	}
	return nil
}
