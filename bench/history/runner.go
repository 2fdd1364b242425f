package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/history"
)

// maxList is how many elements a list gets before another key takes its place.
const maxList = 24

// runner is one run.
type runner struct {
	c      *config
	dir    string
	store  command.Store
	lists  *engine.Table
	filler *engine.Table
	res    *result

	clock   atomic.Int64
	left    atomic.Int64 // transactions of the round not yet begun
	element atomic.Int32
	slots   []atomic.Int64 // keys in use
	nextKey atomic.Int64
	due     chan struct{} // a checkpoint is
}

func newRunner(c *config, dir string) *runner {
	return &runner{
		c: c, dir: dir, slots: make([]atomic.Int64, c.keys), due: make(chan struct{}, 1),
		res: &result{config: c, counts: make(map[history.Kind]int)},
	}
}

// run makes rounds until the time is over or something is wrong.
func (r *runner) run(ctx context.Context) *result {
	start := time.Now()
	err := r.open(ctx)
	for first := true; err == nil && ctx.Err() == nil && r.res.ok() && (first || time.Since(start) < r.c.Duration); first = false {
		if !first && r.c.reopen {
			if err = r.store.Close(ctx); err == nil {
				err = r.open(ctx)
			}
		}
		if err == nil {
			err = r.round(ctx)
		}
	}
	if r.store.DB != nil {
		err = errors.Join(err, r.store.Close(context.WithoutCancel(ctx)))
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // interrupted
	}
	r.res.metrics, r.res.err, r.res.took = r.store.Seen(), err, time.Since(start)
	return r.res
}

func (r *runner) open(ctx context.Context) error {
	err := r.store.Open(r.dir, &engine.Options{
		Memory: 4 << 20, RecordMemory: int64(r.c.RecordMemory), ChillThreshold: 32 << 10,
		LogLimit: 4 << 20, LogSegmentSize: 1 << 20, MapMemTable: 64 << 10, RunSize: 4 << 20,
	})
	if err != nil {
		return err
	}
	if r.lists, err = r.store.Table(ctx, "lists"); err == nil {
		r.filler, err = r.store.Table(ctx, "filler")
	}
	return err
}

// round runs transactions on fresh keys and checks their history.
func (r *runner) round(ctx context.Context) error {
	first := r.nextKey.Load()
	for i := range r.slots {
		r.slots[i].Store(r.nextKey.Add(1))
	}
	r.left.Store(int64(r.c.txns))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	checkpoints, stop := context.WithCancel(ctx)
	var wg, background sync.WaitGroup
	background.Go(func() {
		for {
			select {
			case <-checkpoints.Done():
				return
			case <-r.due:
				if err := r.store.Checkpoint(checkpoints); err != nil && checkpoints.Err() == nil {
					cancel(fmt.Errorf("checkpoint: %w", err))
				}
			}
		}
	})
	workers := make([]*worker, r.c.Goroutines)
	for i := range workers {
		w := &worker{runner: r, id: i, rng: rand.New(rand.NewPCG(r.c.Seed, uint64(r.res.rounds)<<16|uint64(i)))}
		workers[i] = w
		wg.Go(func() {
			for r.left.Add(-1) >= 0 && ctx.Err() == nil {
				if err := w.transaction(ctx, 0); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	background.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	last := &worker{runner: r, rng: rand.New(rand.NewPCG(r.c.Seed, 0))}
	if err := last.everything(ctx, int(first)+1, int(r.nextKey.Load())+1); err != nil {
		return err
	}
	r.judge(append(workers, last))
	return nil
}

// judge checks the history of the round.
func (r *runner) judge(workers []*worker) {
	h := &history.History{Snapshots: r.c.Level == engine.Snapshot}
	for _, w := range workers {
		h.Txns = append(h.Txns, w.txns...)
		r.res.tally.add(&w.tally)
	}
	for i := range h.Txns {
		h.Txns[i].ID = i
	}
	start := time.Now()
	found := history.Check(h)
	r.res.rounds++
	r.res.checking += time.Since(start)
	r.res.edges += found.Edges
	for k, n := range found.Counts {
		r.res.counts[k] += n
	}
	for _, a := range found.Found {
		if r.res.forbids(a.Kind) {
			r.res.forbidden = append(r.res.forbidden, a)
			if len(r.res.forbidden) <= shown {
				r.res.context = append(r.res.context, describe(h, a))
			}
		}
	}
}
