package txn

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// waits knows who waits for whom. A transaction waits for one other at a time,
// so a cycle is found by following the chain of waits from the one waited for.
type waits struct {
	// n counts those who wait or are about to look whether they must. It rises
	// before they look, and outcomes are set before wake looks at it: a wake that
	// finds 0 has missed nobody, and most commits meet no mutex here.
	n atomic.Int32
	// slept counts those who did wait, since Open; it rises once a wake finds them.
	slept atomic.Uint64

	mu      sync.Mutex // guards on and sleepers
	on      map[base.TxnID]base.TxnID
	sleeper map[base.TxnID]map[*sleep]struct{}
}

type sleep struct {
	me    base.TxnID
	epoch base.Epoch
	wake  chan struct{}
}

func newWaits() *waits {
	return &waits{on: make(map[base.TxnID]base.TxnID), sleeper: make(map[base.TxnID]map[*sleep]struct{})}
}

// wait sleeps until o is decided or the epoch is dead (S5). Under one mutex it
// looks again, adds its edge, looks for a cycle; then it sleeps, holding no
// lock of a leaf. The requester is the victim of a cycle.
func (w *waits) wait(ctx context.Context, closing <-chan struct{}, me base.TxnID, o *versionchain.Outcome, epoch base.Epoch) error {
	w.n.Add(1)
	defer w.n.Add(-1)
	s := &sleep{me: me, epoch: epoch, wake: make(chan struct{})}
	w.mu.Lock()
	if decided(o, epoch) {
		w.mu.Unlock()
		return nil
	}
	for at := o.ID; ; {
		next, ok := w.on[at]
		if !ok {
			break
		}
		if next == me {
			w.mu.Unlock()
			return base.ErrDeadlock
		}
		at = next
	}
	w.on[me] = o.ID
	all := w.sleeper[o.ID]
	if all == nil {
		all = make(map[*sleep]struct{})
		w.sleeper[o.ID] = all
	}
	all[s] = struct{}{}
	w.slept.Add(1)
	w.mu.Unlock()

	var err error
	select {
	case <-s.wake:
	case <-ctx.Done():
		err = ctx.Err()
	case <-closing:
		err = base.ErrClosed
	}
	w.mu.Lock()
	delete(w.on, me)
	delete(all, s)
	if len(all) == 0 && len(w.sleeper[o.ID]) == 0 {
		delete(w.sleeper, o.ID)
	}
	w.mu.Unlock()
	return err
}

func decided(o *versionchain.Outcome, epoch base.Epoch) bool {
	st, _ := o.Status()
	return st == versionchain.Committed || st == versionchain.Aborted || o.DeadEpoch(epoch)
}

// wake rouses those who wait for o and whose reason is gone; with all, everybody.
func (w *waits) wake(o *versionchain.Outcome, all bool) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.sleeper[o.ID] {
		if all || decided(o, s.epoch) {
			delete(w.sleeper[o.ID], s)
			delete(w.on, s.me) // its edge is gone from this moment on
			close(s.wake)
		}
	}
}
