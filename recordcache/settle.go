package recordcache

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/versionchain"
)

// lockKey locks the present leaf that covers key exclusively, hint first; nil
// when the key lies in a gap.
func (t *Table) lockKey(hint *Leaf, key []byte) *Leaf {
	if hint != nil {
		hint.mu.Lock()
		if hint.covers(key) {
			return hint
		}
		hint.mu.Unlock()
	}
	for {
		l := t.find(key)
		if l == nil {
			return nil
		}
		l.mu.Lock()
		if l.covers(key) {
			return l
		}
		l.mu.Unlock()
	}
}

// Stamp gives the versions of key that id wrote their published timestamp, so
// that readers need not ask for the outcome (P2).
func (t *Table) Stamp(hint *Leaf, key []byte, id base.TxnID, ts base.CommitTS) {
	l := t.lockKey(hint, key)
	if l == nil {
		return
	}
	if i, ok := l.page.Find(key, int(l.prefix)); ok {
		if n := l.page.StampAll(i, id, ts); n > 0 {
			l.live = max(0, l.live-n)
			l.dirty = true
		}
	}
	l.mu.Unlock()
}

// Undo removes the versions of key that id wrote in epoch from or later. It
// reports false when one had to stay because somebody holds it.
func (t *Table) Undo(hint *Leaf, key []byte, id base.TxnID, from base.Epoch) bool {
	if seeded.On(seeded.KeptRollback) && strings.HasPrefix(t.Name, "\x00index/") {
		return true
	}
	l := t.lockKey(hint, key)
	if l == nil {
		return true
	}
	defer l.mu.Unlock()
	i, ok := l.page.Find(key, int(l.prefix))
	for ok {
		v := l.page.Version(l.page.Newest(i))
		if v.Dropped() {
			ok = !l.page.Pop(i)
			continue
		}
		if !v.Undecided() || v.Txn() != id || v.Epoch < from {
			return !l.page.Holds(i, id, from)
		}
		if v.Pinned() {
			return false
		}
		l.live = max(0, l.live-1)
		ok = !l.page.Pop(i)
	}
	return true
}

// Collapse returns a leaf without resident rows to the gap around it: the leaf
// map knows its frames. It reports whether it did.
func (c *Cache) Collapse(l *Leaf) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.page.Len() > 0 || l.mem != nil {
		return false
	}
	l.collapse(c)
	return true
}

// collapse is Collapse. REQUIRES: l.mu is held exclusively, the leaf is present
// and has nothing in memory.
func (l *Leaf) collapse(c *Cache) {
	if b := l.page.Block(); b != nil {
		c.arena.Free(b)
		l.page = versionchain.Page{}
	}
	t := l.table
	t.mu.Lock()
	t.moved.Add(1)
	t.removeLocked(l)
	t.mu.Unlock()
	l.die(c)
}

// die ends a leaf that has left the directory. Its list goes, too, for the leaf may
// be remembered for a while: by the leaf index, or as a hint. REQUIRES: l.mu is
// held exclusively, the leaf has nothing in memory.
func (l *Leaf) die(c *Cache) {
	l.dead = true
	l.list, l.sole = nil, nil
	c.ring.remove(l)
	c.arena.Uncharge(l.charged)
	l.charged = 0
}

// Cold reports whether the leaf was not touched since the last call, and how
// many resident bytes it holds.
func (l *Leaf) Cold() (cold bool, resident int) {
	cold = l.ref.Swap(0) == 0
	l.mu.RLock()
	resident = len(l.page.Block())
	for _, b := range l.mem {
		resident += len(b)
	}
	l.mu.RUnlock()
	return cold, resident
}

// Tick moves the scavenger's clock hand over up to cap(dst) leaves.
func (c *Cache) Tick(dst []*Leaf) []*Leaf { return c.ring.tick(dst) }

// Walk calls fn, without locks, for every leaf present when it began and still
// there, until fn returns false.
func (c *Cache) Walk(fn func(*Leaf) bool) { c.ring.walk(fn) }

// BacklogOwner moves everything that o has in memory to its temp table, with
// several processors. After it, if o writes nothing meanwhile, no version of it is
// resident.
//
// The walk is ahead of the work: a leaf that is split when it has been passed, and
// not yet been relieved, leaves its right half where the walk does not come any
// more. So it is over only when a walk has found nothing.
func (c *Cache) BacklogOwner(ctx context.Context, o *versionchain.Outcome) error {
	rq := Request{Action: BacklogAll, Horizon: c.horizon(), Only: o}
	for found := true; found; {
		found = false
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
		c.ring.walk(func(l *Leaf) bool {
			if !l.holds(o.ID) {
				return true
			}
			found = true
			g.Go(func() error {
				if c.BeforeBacklog != nil {
					l.mu.RLock()
					low := l.low
					l.mu.RUnlock()
					c.BeforeBacklog(low)
				}
				rep, err := c.Relieve(gctx, l, &rq)
				if err == nil && rep.Unpaid > 0 {
					err = c.evacuate(gctx, l)
				}
				return err
			})
			return gctx.Err() == nil
		})
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// evacuate moves all that it can out of a leaf where a frame more cannot be paid
// for: as a whole it can always leave, but for rows of commits under way.
func (c *Cache) evacuate(ctx context.Context, l *Leaf) error {
	rep, err := c.Relieve(ctx, l, &Request{Action: BacklogAll, Horizon: c.horizon(), Patient: true})
	if err == nil && rep.Unpaid > 0 {
		runtime.Gosched() // to the commit that is under way
	}
	return err
}

// holds reports whether the leaf has a live version of id.
func (l *Leaf) holds(id base.TxnID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.live == 0 {
		return false
	}
	for i := range l.page.Len() {
		if l.page.Holds(i, id, 0) {
			return true
		}
	}
	return false
}

// Settle brings every chain of every leaf that may hold undecided versions up to
// date, so that decided transactions need no longer be in the registry, and lets
// go of leaves that have become empty.
func (c *Cache) Settle(ctx context.Context, h versionchain.Horizon) (err error) {
	rq := Request{Action: Prune, Horizon: h}
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		has := l.live > 0
		l.mu.RUnlock()
		if has {
			_, err = c.Relieve(ctx, l, &rq)
		}
		if l.empty() {
			c.Collapse(l)
		}
		return err == nil
	})
	return err
}

// empty reports whether the leaf has nothing in memory and no frames.
func (l *Leaf) empty() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.page.Len() == 0 && l.listLen() == 0
}

// CheckpointLeaves writes what committed versions memory holds, and no frame,
// to frames, leaf by leaf, and calls step now and then. A leaf whose page has all that
// anybody sees is written whole where that is worth it: the list then has one frame (P9).
// REQUIRES: what horizon returns was taken after the checkpoint position.
func (c *Cache) CheckpointLeaves(ctx context.Context, horizon func() versionchain.Horizon, step func()) (err error) {
	rq := Request{Action: Checkpoint, Horizon: horizon()}
	n := 0
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		has := l.live > 0 || l.dirty
		l.mu.RUnlock()
		if !has {
			return true
		}
		if n++; n%64 == 0 {
			rq.Horizon = horizon()
			step()
		}
		for again := true; again && err == nil; {
			var rep Report
			rep, err = c.Relieve(ctx, l, &rq)
			again = rep.Missed > 0
			if err == nil && rep.Unpaid > 0 {
				err, again = c.evacuate(ctx, l), true
			}
		}
		return err == nil
	})
	return err
}

// DropFrames removes the frames of owners that never committed from every leaf between
// the fences low and high, and returns leaves to the gap that it leaves empty.
// errNoMemory asks the caller to wait.
func (c *Cache) DropFrames(ctx context.Context, t *Table, low, high []byte) error {
	w := c.getWorker()
	defer c.putWorker(w)
	for at := low; ; {
		if err := c.reserve(ctx, w, 0, 1); err != nil {
			return err
		}
		l := t.lockKey(nil, at)
		if l == nil {
			c.unreserve(w)
			next, more, err := c.toSweep(t, at, high)
			if errors.Is(err, base.ErrTableNotFound) {
				return nil // all its frames go
			}
			if err != nil || !more {
				return err
			}
			at = next
			continue
		}
		l.dropAborted(c, w)
		at = l.high
		empty := l.page.Len() == 0 && l.mem == nil
		l.mu.Unlock()
		c.unreserve(w)
		if empty {
			c.Collapse(l)
		}
		if at == nil || (high != nil && bytes.Compare(at, high) >= 0) {
			return nil
		}
	}
}

// toSweep makes the leaf of the next map entry from at on present and returns a
// key in it; more is false when there is none below high. Leaves only ever become
// smaller, so those that may list a frame begin within its fences.
func (c *Cache) toSweep(t *Table, at, high []byte) (next []byte, more bool, err error) {
	if high != nil {
		low, found, err := c.space.NextLow(t.ID, at, high)
		if err != nil || !found {
			return nil, false, err
		}
		at = low
	}
	return at, true, t.installShort(at)
}

// dropAborted rewrites the leaf's map entry without frames of aborted owners.
// REQUIRES: l.mu is held exclusively, one edit is reserved.
func (l *Leaf) dropAborted(c *Cache, w *worker) {
	if l.mapped && l.list != nil {
		l.dropFrames(c, w, func(f *frame) bool { return f.out != nil && f.out.Aborted() })
	}
}
