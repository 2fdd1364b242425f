package txn

import (
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/versionchain"
)

// committer gives commits their order. Order of commit records = timestamp order
// = publication order (L2):
//
//  1. under mu: take the next timestamp, append the commit record, queue up
//  2. wait for the sync, with many others, holding nothing
//  3. under mu: publish everything at the head of the queue that is synced or
//     needs no sync: outcome first, then the clock
//
// A commit that needs no sync still waits behind one that does: it would
// otherwise be visible, and vanish in a crash together with what it read.
//
// Timestamps that a crash takes back must not be used again (L7): an opening goes
// on ClockGap above the last one it finds. So no more than half of that is handed
// out ahead of what is known durable; who comes then waits for the log.
type committer struct {
	ahead base.CommitTS // how far last may be above safe

	mu    sync.Mutex // guards the fields below
	last  base.CommitTS
	end   base.LSN      // of the record of last
	safe  base.CommitTS // the record of this timestamp is durable
	queue []*pending
	// readers are the read sets that are being validated (serializable.go).
	readers []*readSet
	// pubEnd is the end of the commit record of the published clock (L6).
	pubEnd base.LSN
}

type pending struct {
	out     *versionchain.Outcome // nil for a change of the catalog
	tx      *Tx                   // nil for one; not used any more when it is queued
	ts      base.CommitTS
	end     base.LSN
	durable bool
	done    atomic.Bool // set under committer.mu, when published
	apply   func()      // run at publication, under committer.mu; short
}

// A recorder appends the commit record with the timestamp it is given, and
// returns the record's end.
type recorder interface {
	append(ts base.CommitTS) (base.LSN, error)
}

// recorderFunc is a function as a recorder.
type recorderFunc func(ts base.CommitTS) (base.LSN, error)

func (f recorderFunc) append(ts base.CommitTS) (base.LSN, error) { return f(ts) }

// ClockGap is by how much an opening advances the clock.
const ClockGap base.CommitTS = 1 << 20

// enqueue runs step 1. sync makes the log durable up to a position. It may wait
// for that, so REQUIRES: no lock is held.
func (c *committer) enqueue(p *pending, r recorder, sync func(base.LSN) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.keepUpLocked(sync); err != nil {
		return err
	}
	if p.tx != nil && p.tx.validates() {
		if err := c.judgeLocked(p.tx); err != nil {
			return err
		}
	}
	ts := c.last + 1
	end, err := r.append(ts)
	if err != nil {
		return err
	}
	c.last, c.end = ts, end
	p.ts, p.end = ts, end
	if p.out != nil {
		p.out.SetCommitting(ts)
	}
	c.queue = append(c.queue, p)
	if len(c.readers) > 0 && p.tx != nil {
		c.tellLocked(p.tx)
	}
	return nil
}

// keepUpLocked returns when the next timestamp is near enough to a durable one.
// REQUIRES: c.mu is held; it is let go of while the log is synced.
func (c *committer) keepUpLocked(sync func(base.LSN) error) error {
	for c.last-c.safe >= c.ahead {
		last, end := c.last, c.end
		c.mu.Unlock()
		err := sync(end)
		c.mu.Lock()
		if err != nil {
			return err
		}
		c.safe = max(c.safe, last)
	}
	return nil
}

// finish runs steps 2 and 3.
func (c *committer) finish(p *pending, log *seriallog.Log, snaps *snapshots) error {
	if p.durable {
		if err := log.Sync(p.end); err != nil {
			return err
		}
		if p.done.Load() {
			return nil // whoever came first has published the whole group
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publishLocked(log.Synced(), snaps)
	for !p.done.Load() {
		// A durable commit ahead is not synced yet: help it on.
		c.mu.Unlock()
		err := log.Sync(p.end)
		c.mu.Lock()
		if err != nil {
			return err
		}
		c.publishLocked(log.Synced(), snaps)
	}
	return nil
}

func (c *committer) publishLocked(synced base.LSN, snaps *snapshots) {
	n := 0
	for _, p := range c.queue {
		if p.durable && p.end > synced {
			break
		}
		n++
		if p.end <= synced {
			c.safe = p.ts
		}
		if p.out != nil {
			p.out.SetCommitted(p.ts)
		}
		if p.apply != nil {
			p.apply()
		}
		snaps.clock.Store(uint64(p.ts))
		c.pubEnd = p.end
		p.done.Store(true)
	}
	if n > 0 {
		rest := copy(c.queue, c.queue[n:])
		clear(c.queue[rest:])
		c.queue = c.queue[:rest]
	}
}

// settle returns when the publication under way, if there is one, is complete: the
// clock then includes every outcome that was seen as committed before the call.
func (c *committer) settle() {
	c.mu.Lock()
	c.mu.Unlock() //nolint:staticcheck // to have held it is all
}

// published returns the clock and the end of its commit record.
func (c *committer) published(snaps *snapshots) (base.LSN, base.CommitTS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pubEnd, snaps.now()
}
