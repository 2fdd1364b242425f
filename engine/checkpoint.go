package engine

import (
	"context"
	"errors"
	"sync"
	"time"
)

// checkpointer writes committed rows from memory to runs, so that the log can be
// reused. One checkpoint runs at a time.
type checkpointer struct {
	mu   sync.Mutex // held by a running checkpoint
	kick chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

func (c *checkpointer) start(db *DB) {
	c.kick = make(chan struct{}, 1)
	c.stop = make(chan struct{})
	c.done.Add(1)
	go func() {
		defer c.done.Done()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-c.kick:
			case <-tick.C:
				// NoSync commits become durable within a bounded time.
				if db.log.Synced() < db.log.End() && db.failed() == nil {
					_ = db.log.Sync(db.log.End())
				}
			}
			if db.log.SinceCheckpoint() > db.o.LogLimit/2 && db.failed() == nil {
				_ = c.run(context.Background(), db)
			}
		}
	}()
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

// run makes a checkpoint. The position is taken first, what it relies on is
// captured afterwards (L6); it is an edit behind those that it vouches for, and
// the log is let go only when the map is flushed with it.
func (c *checkpointer) run(ctx context.Context, db *DB) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	defer func() {
		db.checkpointed(CheckpointInfo{Duration: time.Since(start), Err: err})
	}()
	if err := db.failed(); err != nil {
		return err
	}
	pos, clock := db.m.Published()
	retired := db.m.TakeRetired()
	if err := db.cache.CheckpointLeaves(ctx, db.snaps.Horizon); err != nil {
		db.m.ReturnRetired(retired)
		return err
	}
	if err := db.space.ReserveEdits(ctx, 1); err != nil {
		db.m.ReturnRetired(retired)
		return err
	}
	e := db.space.BeginEdit()
	e.SetCheckpoint(pos, clock)
	e.NeedSync()
	e.End()
	_, err = db.space.Flush()
	if err != nil {
		db.m.ReturnRetired(retired)
		return errors.Join(db.failed(), err)
	}
	db.log.Checkpointed(pos)
	db.m.Checkpointed(pos)
	db.m.Forget(retired)
	db.m.Relaxed()
	return db.removeDropped(ctx)
}
