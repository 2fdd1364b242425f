package versionchain

import (
	"runtime"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/savepoint"
)

// Status is what has become of a transaction.
type Status uint8

const (
	// Active has no outcome yet: everything it wrote is temporary.
	Active Status = iota
	// Committing has a timestamp, but it is not published yet.
	Committing
	// Committed is published.
	Committed
	// Aborted never happened; its versions are garbage.
	Aborted
)

const (
	committingBit = 1 << 63
	abortedState  = ^uint64(0)
)

// Outcome is the fate of one transaction, shared by everything that it wrote:
// versions in memory find it through the TxnID that they carry, frames of its
// temp table through their owner. It answers "temporary or permanent" for all
// of them at one stroke (the flag of the Lighthouse seed, turned round).
//
// All methods may be called concurrently; the setters by the transaction only.
type Outcome struct {
	ID    base.TxnID
	state atomic.Uint64
	leave atomic.Uint32
	// superseded is how often leave rose though nothing departed.
	superseded atomic.Uint32
	holds      atomic.Int32
	undone     atomic.Uint32
	dead       atomic.Pointer[savepoint.Intervals]
	// Large says that the transaction passed ChillThreshold.
	Large atomic.Bool
	// Left is set, under a leaf lock, as soon as anything of the transaction
	// reached the log ahead of commit or a frame (S6): from then on a rollback
	// to a savepoint must record a dead interval.
	Left atomic.Bool
	// Keeper is what the transaction keeps while it is open, for the package that
	// runs it; never empty once anything was stored.
	Keeper atomic.Value
}

// NewOutcome returns the outcome of an active transaction.
func NewOutcome(id base.TxnID) *Outcome { return &Outcome{ID: id} }

// DecidedOutcome returns an outcome known from the log or the leaf map.
func DecidedOutcome(id base.TxnID, ts base.CommitTS, dead savepoint.Intervals) *Outcome {
	o := &Outcome{ID: id}
	o.SetDead(dead)
	o.state.Store(uint64(ts))
	return o
}

// Status returns the state and, if Committing or Committed, the timestamp.
func (o *Outcome) Status() (Status, base.CommitTS) {
	switch s := o.state.Load(); {
	case s == 0:
		return Active, 0
	case s == abortedState:
		return Aborted, 0
	case s&committingBit != 0:
		return Committing, base.CommitTS(s &^ committingBit)
	default:
		return Committed, base.CommitTS(s)
	}
}

// Active reports whether the transaction has no outcome yet.
func (o *Outcome) Active() bool { return o.state.Load() == 0 }

// Aborted reports whether the transaction was rolled back.
func (o *Outcome) Aborted() bool { return o.state.Load() == abortedState }

// SetCommitting records the timestamp before the commit record is published.
func (o *Outcome) SetCommitting(ts base.CommitTS) { o.state.Store(uint64(ts) | committingBit) }

// SetCommitted publishes the outcome; the clock advances after it (L2).
func (o *Outcome) SetCommitted(ts base.CommitTS) { o.state.Store(uint64(ts)) }

// Hold keeps the transaction from deciding while somebody seals or logs versions
// of it on its behalf (M6); it reports false when it is no longer active. A hold
// lasts no longer than a leaf lock.
func (o *Outcome) Hold() bool {
	o.holds.Add(1)
	if o.state.Load() == 0 {
		return true
	}
	o.holds.Add(-1)
	return false
}

// Unhold ends a Hold.
func (o *Outcome) Unhold() { o.holds.Add(-1) }

// Prepare ends the active state before the commit record is written, or with
// abort for good, and waits for the holds: after it nothing more of the
// transaction leaves memory, so its temp table is complete.
func (o *Outcome) Prepare(abort bool) {
	if abort {
		o.state.Store(abortedState)
	} else {
		o.state.Store(committingBit)
	}
	for o.holds.Load() != 0 {
		runtime.Gosched()
	}
}

// Leave returns the leave number that a version written now carries (P1).
func (o *Outcome) Leave() base.Leave { return base.Leave(o.leave.Load()) }

// Depart notes that something of the transaction was logged or sealed: what is
// written later is newer. REQUIRES: the leaf lock of what departed, or that
// the caller is the transaction itself and nothing is written meanwhile.
func (o *Outcome) Depart() {
	o.Left.Store(true)
	o.leave.Add(1)
}

// Supersede raises the leave number because the transaction replaces a version
// of its own whose redo row it keeps: no two rows of a record in the log have
// the same Order, or a recovery that moves the first to a frame before it comes
// to the second could not tell them apart. To be called by the transaction only.
func (o *Outcome) Supersede() {
	o.superseded.Add(1)
	o.leave.Add(1)
}

// Departures returns a number that rises with Depart only. To be called by the
// transaction only.
func (o *Outcome) Departures() base.Leave {
	return base.Leave(o.leave.Load() - o.superseded.Load())
}

// Undone returns how often the transaction has rolled back to a savepoint. Who
// asked under the lock of a leaf, saw a version of it there, and finds the same
// number later, has missed no rollback: versions that it takes out of pages leave
// no dead interval.
func (o *Outcome) Undone() uint32 { return o.undone.Load() }

// CountUndone raises Undone; to be called when the versions are gone or dead.
func (o *Outcome) CountUndone() { o.undone.Add(1) }

// Dead returns the dead intervals.
func (o *Outcome) Dead() savepoint.Intervals {
	if p := o.dead.Load(); p != nil {
		return *p
	}
	return nil
}

// SetDead replaces the dead intervals.
func (o *Outcome) SetDead(iv savepoint.Intervals) {
	if len(iv) == 0 {
		o.dead.Store(nil)
		return
	}
	o.dead.Store(&iv)
}

// DeadEpoch reports whether a version of that epoch was rolled back.
func (o *Outcome) DeadEpoch(e base.Epoch) bool {
	p := o.dead.Load()
	return p != nil && p.Contains(e)
}
