package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"golang.org/x/sync/errgroup"
)

// run is one soak: the phases over one store, in the order of the package
// comment.
type run struct {
	c    *config
	p    *plan
	v    *verdict
	m    *monitor
	res  *result
	open opener
	dir  string

	store   store  // nil while closed
	past    gauges // of earlier openings
	old     txn    // the snapshot from before the insert
	writers []*writer
	side    *bystander // nil in -plain and -rollback
	idle    int64      // record memory used before the insert, bytes

	sweepLimit time.Duration
}

// The names of the phases in the results.
const (
	phaseOpen          = "open"
	phasePrepare       = "prepare"
	phaseInsert        = "insert"
	phaseBystander     = "bystander"
	phaseSelectOwn     = "select_own"
	phaseCommit        = "commit"
	phaseSelect        = "select"
	phaseSelectReverse = "select_reverse"
	phaseSelectOld     = "select_old"
	phaseRollback      = "rollback"
	phaseSweep         = "sweep"
	phaseClose         = "close"
	phaseReopen        = "reopen"
	phaseReselect      = "reselect"
	phaseCloseAgain    = "close_again"
)

func newRun(c *config, dir string, open opener, stderr io.Writer) *run {
	r := &run{
		c: c, p: newPlan(c), v: &verdict{out: stderr}, m: newMonitor(stderr, dir),
		res: newResult(c), open: open, dir: dir, sweepLimit: sweepLimitDefault,
	}
	if !c.plain && !c.rollback {
		r.side = newBystander(r.p, r.v)
	}
	for id := range r.p.writers {
		r.writers = append(r.writers, newWriter(r.p, r.v, id, r.m.add))
	}
	return r
}

// execute runs the soak and fills in the result, whatever happens.
func (r *run) execute(ctx context.Context) *result {
	go r.m.run()
	err := r.phases(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err != nil {
		err = errors.Join(err, r.abandon())
	}
	r.m.close()
	r.res.rssPeak, r.res.diskPeak = r.m.peaks()
	if g := r.past; g.recordMemoryPeak > g.recordMemoryCap {
		r.v.mismatch("record memory peaked at %d bytes, above its cap of %d", g.recordMemoryPeak, g.recordMemoryCap)
	}
	for _, w := range r.writers {
		r.res.firstTenth += w.first.rate()
		r.res.lastTenth += w.last.rate()
	}
	r.res.finish(r.past, r.v.mismatches.Load(), err)
	return r.res
}

// phase runs one phase inside the clock. Rows is how many it handles, 0 if that
// is not what it does.
func (r *run) phase(name string, rows int64, fn func() error) error {
	r.m.begin(name, rows)
	start := time.Now()
	err := fn()
	seconds := time.Since(start).Seconds()
	r.m.end()
	if err != nil {
		r.res.phase(name, 0, seconds) // cut short: no rate
		return fmt.Errorf("%s: %w", name, err)
	}
	r.res.phase(name, rows, seconds)
	return nil
}

func (r *run) phases(ctx context.Context) error {
	steps := []func(context.Context) error{r.start, r.insert, r.selectOwn}
	if r.c.rollback {
		steps = append(steps, r.rollback, r.sweep)
	} else {
		steps = append(steps, r.commit, r.selects)
	}
	steps = append(steps, r.reopen)
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// start opens the store and prepares what must be there before the insert.
func (r *run) start(ctx context.Context) error {
	if err := r.phase(phaseOpen, 0, func() error { return r.openStore(ctx) }); err != nil {
		return err
	}
	r.idle = r.store.gauges().recordMemoryUsed
	if r.side != nil {
		err := r.phase(phasePrepare, 0, func() error { return r.side.load(ctx, r.store) })
		if err != nil {
			return err
		}
	}
	var err error
	if r.old, err = r.store.begin(ctx, true); err != nil {
		return fmt.Errorf("begin of the old snapshot: %w", err)
	}
	if r.side != nil {
		return r.side.start(ctx, r.store)
	}
	return nil
}

func (r *run) openStore(ctx context.Context) error {
	s, err := r.open(ctx, r.dir, r.c)
	if err != nil {
		return err
	}
	r.store = s
	r.m.attach(s)
	return nil
}

func (r *run) closeStore() error {
	r.m.attach(nil)
	r.past = r.past.add(r.store.gauges())
	s := r.store
	r.store = nil
	return s.close()
}

// insert runs all writers, and the watcher beside them.
func (r *run) insert(ctx context.Context) error {
	err := r.phase(phaseInsert, r.p.rows, func() error {
		for _, w := range r.writers {
			var err error
			if w.tx, err = r.store.begin(ctx, false); err != nil {
				return fmt.Errorf("writer %d: begin: %w", w.id, err)
			}
		}
		all, both := errgroup.WithContext(ctx)
		inserted := make(chan struct{})
		watcher := &watcher{
			s: r.store, p: r.p, old: r.old, writers: r.writers,
			read: newReader(r.p, r.v, "watcher"), empty: r.p.nothing(),
		}
		all.Go(func() error { return watcher.watch(both, inserted) })
		all.Go(func() error {
			defer close(inserted)
			return r.each(both, func(ctx context.Context, w *writer) error { return w.insert(ctx) })
		})
		return all.Wait()
	})
	if err != nil {
		return err
	}
	if err := heapProfile(r.c.memProfile); err != nil {
		return err
	}
	if r.side == nil {
		return nil
	}
	return r.phase(phaseBystander, 0, func() error { return r.side.resume(ctx) })
}

// each runs fn for every writer at once.
func (r *run) each(ctx context.Context, fn func(ctx context.Context, w *writer) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range r.writers {
		g.Go(func() error { return fn(ctx, w) })
	}
	return g.Wait()
}

// selectOwn reads everything from inside the transactions that wrote it.
func (r *run) selectOwn(ctx context.Context) error {
	if r.c.straight {
		return nil
	}
	return r.phase(phaseSelectOwn, r.p.countAll(), func() error {
		return r.each(ctx, func(ctx context.Context, w *writer) error {
			return w.read.fullScan(ctx, w.tx, r.p.final(w.id), false, r.m.add)
		})
	})
}

func (r *run) commit(ctx context.Context) error {
	err := r.phase(phaseCommit, 0, func() error {
		return r.each(ctx, func(_ context.Context, w *writer) error {
			tx := w.tx
			w.tx = nil
			return tx.commit()
		})
	})
	if err != nil || r.side == nil {
		return err
	}
	return r.side.finish()
}

// selects reads everything from new snapshots, and nothing from the old one.
func (r *run) selects(ctx context.Context) error {
	all := r.p.final(everyone)
	if err := r.selectNew(ctx, phaseSelect, all, false); err != nil {
		return err
	}
	if err := r.selectNew(ctx, phaseSelectReverse, all, true); err != nil {
		return err
	}
	err := r.phase(phaseSelectOld, 0, func() error {
		read := newReader(r.p, r.v, phaseSelectOld)
		if err := read.fullScan(ctx, r.old, r.p.nothing(), false, r.m.add); err != nil {
			return err
		}
		if r.side != nil {
			return r.side.check(r.old, stageLoaded, phaseSelectOld)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.endOld()
}

func (r *run) endOld() error {
	tx := r.old
	r.old = nil
	return tx.rollback()
}

// selectNew reads everything from a new snapshot.
func (r *run) selectNew(ctx context.Context, name string, w view, reverse bool) error {
	tx, err := r.store.begin(ctx, true)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", name, err)
	}
	read := newReader(r.p, r.v, name)
	err = r.phase(name, w.count, func() error { return read.fullScan(ctx, tx, w, reverse, r.m.add) })
	if err == nil && r.side != nil {
		err = r.side.check(tx, stageResumed, name)
	}
	return errors.Join(err, tx.rollback())
}

// reopen closes the store, opens it again, and reads everything once more.
func (r *run) reopen(ctx context.Context) error {
	if err := r.phase(phaseClose, 0, r.closeStore); err != nil {
		return err
	}
	if err := r.phase(phaseReopen, 0, func() error { return r.openStore(ctx) }); err != nil {
		return err
	}
	want := r.p.nothing()
	if !r.c.rollback {
		want = r.p.final(everyone)
	}
	if err := r.selectNew(ctx, phaseReselect, want, false); err != nil {
		return err
	}
	if r.c.rollback {
		for _, name := range temporaryFiles(r.dir) {
			r.v.mismatch("file %s is there after the rollback and a reopen", name)
		}
	}
	return r.phase(phaseCloseAgain, 0, r.closeStore)
}

// abandonLimit bounds the wait for an engine that failed.
const abandonLimit = 30 * time.Second

// abandon ends what a failed run left open, so that the directory can be
// removed. The failure is what counts; errors that follow from it are not told.
func (r *run) abandon() error {
	r.m.attach(nil)
	if r.store == nil {
		return nil
	}
	done := make(chan gauges, 1)
	go func() {
		open := []txn{r.old}
		if r.side != nil {
			open = append(open, r.side.tx)
		}
		for _, w := range r.writers {
			open = append(open, w.tx)
		}
		for _, tx := range open {
			if tx != nil {
				_ = tx.rollback()
			}
		}
		g := r.store.gauges()
		_ = r.store.close()
		done <- g
	}()
	select {
	case g := <-done:
		r.past = r.past.add(g)
		r.store = nil
		return nil
	case <-time.After(abandonLimit):
		return fmt.Errorf("the store did not close within %v", abandonLimit)
	}
}

// heapProfile writes a heap profile, if a file is named.
func heapProfile(name string) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}
