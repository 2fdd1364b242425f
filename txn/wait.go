package txn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// waits knows who waits for whom (S5). Statements that wait for one record form a
// queue, in the order in which they came. The first waits for the record's owner, the
// others for the first:
//
//	                 ┌─────────── queue of record k ───────────┐
//	owner ◄───────── first ◄──────── second,  third,  fourth …
//	(txn, epoch)       │
//	  aborts, or rolls back the epoch: the first is let in ─► it looks at the record again
//	  commits: all that this fails (snapshot level) end; of the others the first is let in
//
// Who was let in stays the first until its statement ends (leave). If the record is
// then its own, the others wait for it as the new owner, and nobody wakes; if not,
// because it failed, timed out, was cancelled or closed, the next is let in. So an
// outcome wakes one statement of a record, or those that it fails, each once, and
// nobody is forgotten: behind everyone that does not sleep in a queue a leave, or a
// wait, is still to come.
//
// A statement that finds the record free takes it, though others are on their way to
// it: the first then waits again, for the new owner, and keeps its place.
//
// A transaction waits in one place at a time, so a cycle is found by following the
// edges from the one waited for. Every edge that could close one is the requester's
// own, and is looked at before it is made: when the first goes, those behind it wait
// for whom it waited for; when it becomes the owner, for whom they waited for already.
type waits struct {
	// n counts statements that have waited, or are about to look whether they must,
	// and have not ended. It rises before they look, and outcomes are set before wake
	// looks at it: a wake that finds 0 has missed nobody, and most commits meet no
	// mutex here.
	n atomic.Int32
	// slept counts sleeps since Open; it rises once a wake finds the sleeper. woken
	// counts how many of them a wake, or the end of a statement, has ended.
	slept, woken atomic.Uint64
	// failure returns the error that poisoned the store, or nil. Who waits looks at it
	// as at an outcome: it is set before the owner whose commit it fails calls wake.
	failure func() error

	mu     sync.Mutex // guards the fields below, queues and waiters
	at     map[base.TxnID]*waiter
	queues map[record]*queue
	owned  map[base.TxnID]map[*queue]struct{} // by the owner that the first waits for
}

// record names a record.
type record struct {
	table base.TableID
	key   string
}

// queue is the statements that wait for a record, and the one that was let in.
type queue struct {
	rec         record
	first, last *waiter
	on          *versionchain.Outcome // for whom the first waits; nil when it was let in
	epoch       base.Epoch            // of the version of on that is in the way
}

// waiter is a statement that waits, or may have to. It belongs to its statement, but
// for what the mutex guards.
type waiter struct {
	me  base.TxnID
	rec record
	// snapshot is what a version of the record must not be newer than, or the
	// statement fails: ErrConflict. MaxTS if it goes on with any version.
	snapshot base.CommitTS
	// limit bounds its sleeps, all together; 0 is no bound, below 0 it never waits.
	// slept is how long it has slept already, if there is a bound.
	limit, slept time.Duration

	wake chan error // one message a sleep; nil until it waits

	q          *queue // guarded by waits.mu, as what follows
	prev, next *waiter
	asleep     bool
}

// obstacle is a version that is in the way of a writer.
type obstacle struct {
	owner *versionchain.Outcome
	epoch base.Epoch
	// undone is owner's Undone when the version was seen, under the leaf's lock: it
	// tells that the version may be gone though its epoch is not dead.
	undone uint32
}

// gone reports whether it is worth looking at the record again.
func (o *obstacle) gone() bool {
	st, _ := o.owner.Status()
	return st == versionchain.Committed || st == versionchain.Aborted || o.owner.DeadEpoch(o.epoch) || o.owner.Undone() != o.undone
}

func newWaits(failure func() error) *waits {
	return &waits{
		failure: failure,
		at:      make(map[base.TxnID]*waiter), queues: make(map[record]*queue),
		owned: make(map[base.TxnID]map[*queue]struct{}),
	}
}

// wait sleeps until it is s's turn to look at the record again. Under one mutex it
// looks whether the obstacle is there, looks for a cycle, and queues up; then it
// sleeps, holding no lock of a leaf. ErrDeadlock: the requester is the victim.
// ErrConflict: the owner has committed what fails s. ErrLockTimeout, ErrClosed, the
// context's error, what poisoned the store. Whatever it returns, leave must follow
// when the statement ends.
func (w *waits) wait(ctx context.Context, closing <-chan struct{}, s *waiter, o obstacle) error {
	if s.wake == nil {
		s.wake = make(chan error, 1)
		w.n.Add(1)
	}
	if again, err := w.enqueue(s, o); again || err != nil {
		return err
	}
	var expired <-chan time.Time
	if s.limit > 0 {
		began := time.Now() //nolint:forbidigo // only of who is about to sleep
		timer := time.NewTimer(s.limit - s.slept)
		defer func() {
			timer.Stop()
			s.slept += time.Since(began)
		}()
		expired = timer.C
	}
	var err error
	select {
	case err = <-s.wake:
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-closing:
		err = base.ErrClosed
	case <-expired:
		err = base.ErrLockTimeout
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awake(s)
	w.quit(s, nil, 0) // in one step: while it is in a queue, others look for cycles through it
	return err
}

// enqueue is the part of wait under the mutex; again says that there is no need to
// sleep.
func (w *waits) enqueue(s *waiter, o obstacle) (again bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.gone() {
		return true, nil
	}
	if err := w.failure(); err != nil {
		return false, err // perhaps its commit failed, and it has woken all that it will
	}
	if s.limit < 0 {
		return false, base.ErrLockTimeout
	}
	q := w.queues[s.rec]
	first := q == nil || q.first == s
	next := o.owner.ID
	if !first {
		next = q.first.me
	}
	if w.cycle(s.me, next) {
		return false, base.ErrDeadlock
	}
	if q == nil {
		q = &queue{rec: s.rec}
		w.queues[s.rec] = q
	}
	if s.q == nil {
		q.push(s)
	}
	if first {
		w.setOwner(q, o.owner, o.epoch)
	}
	w.at[s.me], s.asleep = s, true
	w.slept.Add(1)
	return false, nil
}

// awake notes that s does not sleep any more: its edge is gone from this moment on.
// Two goroutines that use one transaction, which they must not, may be asleep in two
// places: what waits behind the one is not to wait for ever because of the other.
// REQUIRES: w.mu is held.
func (w *waits) awake(s *waiter) {
	s.asleep = false
	if w.at[s.me] == s {
		delete(w.at, s.me)
	}
}

// cycle reports whether who waits for next, as me is about to, waits for me.
// REQUIRES: w.mu is held.
func (w *waits) cycle(me, next base.TxnID) bool {
	for range len(w.at) + 1 {
		if next == me {
			return true
		}
		s := w.at[next]
		switch {
		case s == nil:
			return false
		case s.q.first == s:
			next = s.q.on.ID
		default:
			next = s.q.first.me
		}
	}
	return false
}

// wake tells those who wait for o that it is decided, or that it has undone the
// epochs from the given one on. Outcome and Undone are set before.
func (w *waits) wake(o *versionchain.Outcome, from base.Epoch) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	st, ts := o.Status()
	for q := range w.owned[o.ID] {
		if q.epoch < from {
			continue
		}
		if st == versionchain.Committed {
			w.fail(q, ts)
		}
		w.letIn(q)
	}
}

// fail wakes all whom a version of the record that was committed at ts fails. What
// they wait for may be another's by now: they need not look at it to know.
// REQUIRES: w.mu is held.
func (w *waits) fail(q *queue, ts base.CommitTS) {
	for s := q.first; s != nil; {
		next := s.next
		if ts > s.snapshot {
			q.remove(s)
			w.rouse(s, base.ErrConflict)
		}
		s = next
	}
}

// letIn wakes the first of the queue, if there is one. REQUIRES: w.mu is held.
func (w *waits) letIn(q *queue) {
	w.setOwner(q, nil, 0)
	if q.first != nil {
		w.rouse(q.first, nil)
		return
	}
	delete(w.queues, q.rec)
}

// rouse ends the sleep of s with err. REQUIRES: w.mu is held.
func (w *waits) rouse(s *waiter, err error) {
	if !s.asleep {
		return // it ends its sleep itself
	}
	w.awake(s)
	w.woken.Add(1)
	s.wake <- err
}

// leave ends a statement that has waited; s is nil if it has not. owner is its transaction if the
// record is now its own, by a version of that epoch; otherwise nil.
func (w *waits) leave(s *waiter, owner *versionchain.Outcome, epoch base.Epoch) {
	if s == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n.Add(-1)
	w.quit(s, owner, epoch)
}

// quit takes s off its queue, if it is in one; owner and epoch as for leave. Those
// behind it wait for whom it waited for. REQUIRES: w.mu is held.
func (w *waits) quit(s *waiter, owner *versionchain.Outcome, epoch base.Epoch) {
	q := s.q
	if q == nil {
		return
	}
	first := q.first == s
	q.remove(s)
	switch {
	case !first:
	case q.first != nil && owner != nil:
		w.setOwner(q, owner, epoch)
	case q.first == nil || q.on == nil: // what it was waiting for is the next one's now
		w.letIn(q)
	}
}

// setOwner notes for whom the first of q waits. REQUIRES: w.mu is held.
func (w *waits) setOwner(q *queue, o *versionchain.Outcome, epoch base.Epoch) {
	if q.on != nil {
		all := w.owned[q.on.ID]
		delete(all, q)
		if len(all) == 0 {
			delete(w.owned, q.on.ID)
		}
	}
	q.on, q.epoch = o, epoch
	if o == nil {
		return
	}
	all := w.owned[o.ID]
	if all == nil {
		all = make(map[*queue]struct{})
		w.owned[o.ID] = all
	}
	all[q] = struct{}{}
}

// push appends s. REQUIRES: waits.mu is held.
func (q *queue) push(s *waiter) {
	s.q, s.prev, s.next = q, q.last, nil
	if q.last != nil {
		q.last.next = s
	} else {
		q.first = s
	}
	q.last = s
}

// remove takes s out. REQUIRES: waits.mu is held.
func (q *queue) remove(s *waiter) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		q.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		q.last = s.prev
	}
	s.q, s.prev, s.next = nil, nil, nil
}
