package engine

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// collector gives the space back that superseded rows take in runs. A run goes
// as a whole, when nothing lists a frame of it; so where little of a run is live
// the collector rewrites the leaves that list it, and the file falls.
//
//	 growth (due)                   ┌───────────── batch ──────────────┐
//	──────────────► survey the map ─┤ victims: least live share first, │─► flush, unlink ─► survey …
//	                                │ rewrite their leaves one by one  │        until little is dead
//	                                └──────────────────────────────────┘
//
// Invariants
//
//   - The truth about live bytes is the leaf map. Nothing is counted on the side
//     that a crash could leave wrong; a survey walks the map, a few entries at a
//     time, holding no lock.
//   - L10: a victim is never unlinked by the collector. Its references go with the
//     edits that list what replaces its frames, and Space.Flush unlinks it after.
//     A crash anywhere leaves old frames, or new ones, listed.
//   - A batch rewrites at most a sixteenth of the runs, so that old and new copy of
//     it together stay within the bound.
//   - The bound: a survey is due when runs have grown by an eighth, or a sixteenth where
//     the gate is near. The gate stands at 13 eighths of what is live, or a sixteenth
//     above what a pass has left. First writes wait there; it rises as a pass gets on:
//     runs reach 15 eighths, old and new copies included, only when the batch is done.
//     What memory holds comes on top, and what one transaction writes: where that has
//     brought runs beyond 17 eighths, nobody goes on before they are below, or the pass
//     has ended. So nobody is stopped for as long as a pass takes otherwise, and
//     nobody outruns it. Writes of a transaction that has begun to write, commits,
//     rollbacks and reads never wait for it.
//   - Outcomes of decided owners stay in memory as long as a frame names them. When
//     they take more than their share, a checkpoint forgets those that none names, and
//     the smallest runs of the others are victims, however much of them is live:
//     their rows go on without a name.
//   - Whoever waits at the gate goes on when a pass has ended, whatever it
//     achieved: what snapshots or live transactions pin stops no writer. A pass
//     ends: it has so many batches at most, and each must remove a run, or find a leaf
//     that cannot be read. One that its caller cancels is made again, by the collector
//     itself.
type collector struct {
	mu     mutex // held by a running pass
	kick   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup

	due, hard atomic.Int64  // bytes in runs: for the next survey, for the gate
	left      int64         // bytes in decided runs behind the last pass; guarded by mu, as soft
	soft      int64         // hard between passes
	low       atomic.Int64  // bytes in runs: below them due and hard are lowered
	undecided atomic.Uint64 // who had much in runs then that was not committed; 0 nobody
	beside    atomic.Int64  // bytes in runs above which a pass beside a checkpoint looks again
	owed      atomic.Bool   // a checkpoint has ended that put a survey off
	dueRows   atomic.Uint64
	outcomes  atomic.Int64 // that a pass could not bring below their share

	least int64 // bytes that are worth anything; tests lower it before the first write

	gateMu sync.Mutex // guards what follows
	gate   chan struct{}
	queued bool // somebody has got it

	live, dead    atomic.Int64 // bytes in runs, as of the last survey
	rows, steps   int64        // in frames, and of a walk over them, then; guarded by mu
	unreadable    unreadable   // of a running pass; guarded by mu
	surveys, runs atomic.Uint64
}

// Shares of the bytes in runs, and the least bytes that are worth anything.
const (
	minCollect    = 512 << 10
	maxDeadShare  = 40 // percent; more starts a batch
	maxLiveShare  = 80 // percent of a run; it is not rewritten above
	batchFraction = 16
	maxBatches    = 64
)

// softLimit and hardLimit are for the bytes in runs when live of them are live: where
// first writes begin to wait for the collector, and what the gate rises to.
func softLimit(live int64) int64 { return live / 8 * 13 }
func hardLimit(live int64) int64 { return live / 8 * 15 }

// shutLimit is where the gate stays during a pass, however much is in runs: what a
// checkpoint writes whole may bring them beyond the hard limit, and soon goes; large
// transactions bring them beyond this.
func shutLimit(live int64) int64 { return live / 8 * 17 }

func (c *collector) start(db *DB) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.kick = make(chan struct{}, 1)
	c.gate = make(chan struct{})
	c.least = minCollect
	n := db.space.RunBytes()
	c.soft = n + max(8*c.least, n/batchFraction) // of what is live the first survey tells
	c.hard.Store(c.soft)
	c.done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.kick:
			}
			owed := c.owed.Swap(false)
			if !c.isDue(db) || db.failed() != nil {
				continue
			}
			// A failure is the store's, or goes with the next pass.
			if db.ckpt.mu.held() && !owed {
				_ = c.besideCheckpoint(ctx, db)
			} else {
				_ = c.run(ctx, db)
			}
		}
	})
}

// close ends it: nobody waits for it then.
func (c *collector) close(db *DB) {
	if c.cancel != nil {
		c.cancel()
		c.done.Wait()
		c.setGate(db, math.MaxInt64)
	}
}

func (c *collector) isDue(db *DB) bool {
	if many := db.cache.ManyOutcomes(); many > 0 && many > c.outcomes.Load()/8*9 {
		return true
	}
	if id := base.TxnID(c.undecided.Load()); id != 0 && db.cache.Committed(id) {
		return true // what it has replaced is dead now
	}
	return c.fallen(db) || db.space.RunBytes() > min(c.due.Load(), c.hard.Load()) || // somebody may be at the gate
		db.cache.Stats.FramedRows.Load() > c.dueRows.Load()
}

// fallen reports whether runs have become fewer than a pass has left, by a quarter or
// more: a dropped table, a large transaction that was rolled back, the end of a backup.
func (c *collector) fallen(db *DB) bool { return db.space.RunBytes() < c.low.Load() }

// lower puts the gate where it belongs after a fall, and makes a survey due: where it
// stood went by what was there. REQUIRES: c.mu is held.
func (c *collector) lower(db *DB) {
	if c.fallen(db) {
		n := db.space.RunBytes()
		c.live.Store(min(c.live.Load(), n)) // more cannot be, until it is surveyed
		c.settle(db, n)
		c.due.Store(n)
	}
}

// poke asks for a pass if one is due; it never blocks.
func (c *collector) poke(db *DB) {
	if !c.isDue(db) {
		return
	}
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// pokeCollector is poke for a store that may be opening, or read-only.
func (db *DB) pokeCollector() {
	if db.collect.cancel != nil {
		db.collect.poke(db)
	}
}

// crowded returns nil if a first write may go on, or what to wait for.
func (c *collector) crowded(db *DB) <-chan struct{} {
	c.poke(db)
	if db.space.RunBytes() <= c.hard.Load() {
		return nil
	}
	c.gateMu.Lock()
	defer c.gateMu.Unlock()
	if db.space.RunBytes() <= c.hard.Load() {
		return nil
	}
	c.queued = true
	return c.gate
}

// crowded is asked before a transaction's first write (txn.Config).
func (db *DB) crowded() <-chan struct{} {
	if db.collect.cancel == nil {
		return nil // still opening, or read-only
	}
	return db.collect.crowded(db)
}

// settle says where the gate stands, runs having n bytes. REQUIRES: c.mu is held.
func (c *collector) settle(db *DB, n int64) {
	c.left, c.soft = n-c.pinned(db, n), c.softAt(n)
	c.low.Store(n - max(c.least, n/4))
	c.setGate(db, c.soft)
}

// pinned returns the bytes in runs of transactions that are not decided, and notes the
// one with the most, if it is worth a survey when it has been committed: until then it
// is not what replaces others. REQUIRES: c.mu is held.
func (c *collector) pinned(db *DB, n int64) (bytes int64) {
	of := map[base.TxnID]int64{}
	most := base.TxnID(0)
	for _, r := range db.space.RunInfos(nil) {
		if r.Owner == 0 || db.cache.Committed(r.Owner) {
			continue
		}
		bytes += r.Bytes
		if of[r.Owner] += r.Bytes; of[r.Owner] > max(of[most], c.least, n/batchFraction) {
			most = r.Owner
		}
	}
	c.undecided.Store(uint64(most))
	return bytes
}

// softAt is soft when runs have n bytes. REQUIRES: c.mu is held.
func (c *collector) softAt(n int64) int64 {
	return max(n+max(c.least, n/batchFraction), softLimit(c.live.Load()))
}

// checkpointed is told of the end of each checkpoint: it may have removed runs, and a
// pass beside it did no more than unlink.
func (c *collector) checkpointed(db *DB) {
	c.look(db)
	if c.surveys.Load() == 0 || db.space.RunBytes() > c.hard.Load() || c.fallen(db) {
		c.owed.Store(true)
		db.pokeCollector()
	}
}

// setGate lets first writes go on while runs have no more than n bytes.
func (c *collector) setGate(db *DB, n int64) {
	c.hard.Store(n)
	c.look(db)
}

// look lets those at the gate go on if runs are below it.
func (c *collector) look(db *DB) {
	c.gateMu.Lock()
	defer c.gateMu.Unlock()
	if c.queued && db.space.RunBytes() <= c.hard.Load() {
		close(c.gate)
		c.gate, c.queued = make(chan struct{}), false
	}
}

// limit is what the gate may rise to during a pass: beyond the hard limit only if the
// last pass could not come below it, because somebody reads what is dead, or has not
// committed what he has written. REQUIRES: c.mu is held.
func (c *collector) limit(live int64) int64 {
	if n := hardLimit(live); c.left <= n {
		return n
	}
	return c.soft / 8 * 9
}

// gateAt is where the gate is when a walk begins, runs having n bytes. REQUIRES: c.mu is
// held.
func (c *collector) gateAt(n, live int64) int64 {
	return min(n, max(c.limit(live), shutLimit(live)))
}

// pace is how the gate rises during a walk: from so many bytes on, by so many.
type pace struct{ from, by int64 }

// raise raises the gate to where it is after done steps of a walk. The one before took
// c.steps. REQUIRES: c.mu is held.
func (c *collector) raise(db *DB, p pace, done float64) {
	if n := p.from + int64(float64(p.by)*min(1, done/float64(max(c.steps, 1)))); n > c.hard.Load() {
		c.setGate(db, n)
	}
}

// next says when the next survey is due, runs having n bytes: while little can be dead
// they grow twice as much before it. REQUIRES: c.mu is held.
func (c *collector) next(db *DB, n int64) {
	c.due.Store(max(n+max(c.least/2, n/batchFraction), min(n+n/batchFraction*2, softLimit(c.live.Load()))))
	c.outcomes.Store(db.cache.ManyOutcomes())
	c.dueRows.Store(db.cache.Stats.FramedRows.Load() + uint64(max(8192, c.rows/8)))
}

// run is one pass: survey and batches, until little is dead or nothing helps.
func (c *collector) run(ctx context.Context, db *DB) (err error) {
	if err := c.mu.lock(ctx); err != nil {
		return err
	}
	defer c.mu.unlock()
	c.unreadable = unreadable{}
	defer func() {
		c.end(ctx, db)
		if err == nil {
			err = c.unreadable.err
		}
	}()
	c.lower(db)
	for range maxBatches {
		if err := db.failed(); err != nil {
			return err
		}
		if err := c.unlink(db); err != nil {
			return err
		}
		n := db.space.RunBytes()
		live := c.live.Load()
		gate := c.gateAt(n, live)
		c.setGate(db, max(c.soft, gate))
		if db.cache.ManyOutcomes() > 0 {
			// Which forgets those that nothing names.
			if err := c.unreadable.note(ctx, db, db.ckpt.run(ctx, db)); err != nil {
				return err
			}
		}
		// Writers may add half of what is free while the batch is sought, and what is left
		// of it while it is copied.
		sv, err := c.survey(ctx, db, pace{gate, max(0, (c.limit(live)-n-n/batchFraction)/2)}, true)
		if err != nil {
			return err
		}
		c.rows = sv.Rows
		p := c.plan(db, sv)
		if len(p.victims) == 0 {
			return c.unlink(db) // what the survey has dropped
		}
		n = db.space.RunBytes()
		c.soft = min(c.soft, c.softAt(n)) // it went by what was live before
		err = c.rewrite(ctx, db, p.victims, pace{c.gateAt(n, p.live), max(p.copied, c.limit(p.live)-n)})
		if err := c.unreadable.endsPass(err); err != nil {
			return err
		}
		if err := c.unlink(db); err != nil {
			return err
		}
		gone := c.gone(db, p.victims)
		c.runs.Add(uint64(gone))
		if spared := c.unreadable.spare(p.victims); gone == 0 && !spared {
			return nil // something pins them
		}
	}
	return nil
}

// end is the end of a pass: it lets those at the gate go on and says when the next
// survey is due. One that its caller has cancelled has left nothing: the survey stays
// due, and is the collector's own. REQUIRES: c.mu is held.
func (c *collector) end(ctx context.Context, db *DB) {
	if ctx.Err() == nil {
		n := db.space.RunBytes()
		c.next(db, n)
		c.settle(db, n)
		return
	}
	c.setGate(db, c.soft)
	c.poke(db)
}

// besideCheckpoint is a pass while a checkpoint runs: it unlinks only, since what the
// checkpoint has yet to write whole would be rewritten for nothing. If that leaves less
// than the gate asks for, the survey is put off; else, or if there has been none, it
// stays due, and the end of the checkpoint asks for it. Meanwhile the gate stands higher,
// half the way to the hard limit. It looks again each time the checkpoint has written
// about as much as a run holds: old runs may have lost their last frame.
func (c *collector) besideCheckpoint(ctx context.Context, db *DB) error {
	if db.space.RunBytes() <= c.beside.Load() && !c.fallen(db) {
		return nil
	}
	if err := c.mu.lock(ctx); err != nil {
		return err
	}
	defer c.mu.unlock()
	c.lower(db)
	err := c.unlink(db)
	n := db.space.RunBytes()
	c.beside.Store(n + max(c.least/4, n/batchFraction))
	live := c.live.Load()
	c.setGate(db, max(c.hard.Load(), (softLimit(live)+hardLimit(live))/2))
	if n <= c.hard.Load() && c.surveys.Load() > 0 {
		c.next(db, n)
	}
	return err
}

// gone counts the victims that nothing lists any more.
func (c *collector) gone(db *DB, victims map[base.RunID]bool) (n int) {
	for id := range victims {
		if r := db.space.Find(id); r == nil || r.Listed() == 0 {
			n++
		}
	}
	return n
}

// unlink flushes the map if a run waits for that.
func (c *collector) unlink(db *DB) error {
	db.temps.SealFull()
	for _, r := range db.space.RunInfos(nil) {
		if r.Sealed && r.Listed == 0 {
			_, err := db.space.Flush()
			return err
		}
	}
	return nil
}

// survey walks the leaf map. If many tombstones, or the data of a dropped table,
// wait for a checkpoint only, it makes one and walks again; so it does when large
// values that were replaced have been dropped on the way.
func (c *collector) survey(ctx context.Context, db *DB, p pace, mayCheckpoint bool) (*recordcache.Survey, error) {
	sv := newSurvey(db)
	err := c.walk(ctx, db, sv, nil, p)
	c.surveys.Add(1)
	if err == nil {
		db.cache.Weigh(ctx, sv)
	}
	if err != nil || !mayCheckpoint {
		return sv, err
	}
	if sv.Held > sv.Rows/16 || db.droppable() {
		if err := c.unreadable.note(ctx, db, db.ckpt.run(ctx, db)); err != nil {
			return nil, err
		}
	} else if sv.Dropped == 0 {
		return sv, nil
	}
	return c.survey(ctx, db, p, false)
}

// rewrite rewrites every leaf that lists a frame of a victim.
func (c *collector) rewrite(ctx context.Context, db *DB, victims map[base.RunID]bool, p pace) error {
	return c.walk(ctx, db, newSurvey(db), victims, p)
}

func newSurvey(db *DB) *recordcache.Survey {
	return &recordcache.Survey{
		Runs: map[base.RunID]recordcache.RunSurvey{}, Horizon: db.snaps.Horizon(), Checkpoint: db.cache.Checkpoint(),
	}
}

func (c *collector) walk(ctx context.Context, db *DB, sv *recordcache.Survey, victims map[base.RunID]bool, p pace) error {
	var spans []recordcache.Span
	steps := int64(0)
	for _, t := range db.cache.Tables() {
		for at := []byte{}; at != nil; {
			var err error
			at, spans, err = db.cache.SurveyStep(t, at, sv, victims, spans[:0])
			if err != nil {
				return err
			}
			for _, sp := range sv.Stale {
				err := c.patiently(ctx, db, func() error { return db.cache.DropFrames(ctx, t, sp.Low, sp.High) })
				if err := c.unreadable.note(ctx, db, err); err != nil {
					return err
				}
			}
			for _, x := range sv.Suspects {
				err := c.patiently(ctx, db, func() error {
					n, err := db.cache.DropReplaced(ctx, t, &x)
					sv.Dropped += n
					return err
				})
				if err := c.unreadable.note(ctx, db, err); err != nil {
					return err
				}
			}
			for i, sp := range spans {
				c.raise(db, p, float64(steps)+float64(i)/float64(len(spans)))
				err := c.patiently(ctx, db, func() error { return db.cache.Collect(ctx, t, sp, victims) })
				if err := c.unreadable.bear(ctx, db, err); err != nil {
					return err
				}
			}
			steps++
			c.raise(db, p, float64(steps))
			if err := c.giveWay(ctx, db); err != nil {
				return err
			}
		}
	}
	c.steps = steps
	return nil
}

// patiently does something to one leaf, waiting for record memory like everybody else.
func (c *collector) patiently(ctx context.Context, db *DB, fn func() error) error {
	for {
		err := fn()
		if err == nil {
			return c.giveWay(ctx, db)
		}
		if !recordcache.IsNoMemory(err) {
			return err
		}
		if err := db.scav.Wait(ctx, recordcache.NeedOf(err)); err != nil {
			return err
		}
	}
}

// giveWay pauses between two steps while memory is low, unless first writes wait
// for the collector.
func (c *collector) giveWay(ctx context.Context, db *DB) error {
	if !db.scav.LowMemory() || db.space.RunBytes() > c.hard.Load() {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Millisecond): //nolint:forbidigo // a pause, ended by the context; nothing is waited for
		return nil
	}
}

// CollectSpace gives back what superseded and deleted rows take on disk, as far as
// no snapshot reads them. It happens by itself as the store grows; this is for
// whoever wants it now. A checkpoint beforehand makes deletions count. What cannot be
// read stays; the first error of that is returned when all else is done.
func (db *DB) CollectSpace(ctx context.Context) error {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if db.o.ReadOnly {
		return ErrReadOnly
	}
	return errors.Join(db.failed(), ended(ctx, db.collect.run(ctx, db)))
}
