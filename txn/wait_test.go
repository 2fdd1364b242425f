package txn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/savepoint"
	"github.com/sakerdb/saker/versionchain"
)

// begin lets transaction me wait for o and returns when it sleeps.
func begin(t *testing.T, w *waits, ctx context.Context, me base.TxnID, o *versionchain.Outcome, epoch base.Epoch) chan error {
	t.Helper()
	return beginUntil(t, w, ctx, make(chan struct{}), me, o, epoch)
}

// beginUntil is begin with the channel that ends all waits.
func beginUntil(t *testing.T, w *waits, ctx context.Context, closing chan struct{}, me base.TxnID, o *versionchain.Outcome, epoch base.Epoch) chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- w.wait(ctx, closing, me, o, epoch) }()
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		w.mu.Lock()
		_, on := w.on[me]
		w.mu.Unlock()
		if on {
			return done
		}
		if time.Now().After(until) {
			t.Fatal("it does not sleep")
		}
	}
}

func ends(t *testing.T, done chan error, want error) {
	t.Helper()
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Fatalf("the wait ended with %v, want %v", err, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the wait does not end")
	}
}

func sleeps(t *testing.T, done chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("the wait ended: %v", err)
	case <-time.After(5 * time.Millisecond):
	}
}

func (w *waits) empty(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.on) != 0 || len(w.sleeper) != 0 {
		t.Errorf("%d edges and %d sleepers are left", len(w.on), len(w.sleeper))
	}
}

func TestWaitsForOutcome(t *testing.T) {
	for name, decide := range map[string]func(*versionchain.Outcome){
		"commit":   func(o *versionchain.Outcome) { o.SetCommitting(5); o.SetCommitted(5) },
		"rollback": func(o *versionchain.Outcome) { o.Prepare(true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaits()
			o := versionchain.NewOutcome(1)
			a := begin(t, w, context.Background(), 2, o, 0)
			b := begin(t, w, context.Background(), 3, o, 7)
			w.wake(o, false)
			sleeps(t, a)
			decide(o)
			w.wake(o, true)
			ends(t, a, nil)
			ends(t, b, nil)
			// Decided already: no sleep.
			if err := w.wait(context.Background(), nil, 4, o, 0); err != nil {
				t.Error(err)
			}
			w.empty(t)
		})
	}
}

// A dead epoch wakes those who wait for it, and nobody else (S5).
func TestWaitsForEpoch(t *testing.T) {
	w := newWaits()
	o := versionchain.NewOutcome(1)
	low := begin(t, w, context.Background(), 2, o, 1)
	high := begin(t, w, context.Background(), 3, o, 5)
	o.SetDead(savepoint.Intervals{{From: 4, To: 6}})
	w.wake(o, false)
	ends(t, high, nil)
	sleeps(t, low)
	o.Prepare(true)
	w.wake(o, false)
	ends(t, low, nil)
	w.empty(t)
}

func TestWaitsEndWithContextAndClose(t *testing.T) {
	w := newWaits()
	o := versionchain.NewOutcome(1)
	ctx, cancel := context.WithCancel(context.Background())
	a := begin(t, w, ctx, 2, o, 0)
	cancel()
	ends(t, a, context.Canceled)
	closing := make(chan struct{})
	done := beginUntil(t, w, context.Background(), closing, 3, o, 0)
	close(closing)
	ends(t, done, base.ErrClosed)
	w.empty(t)
}

// The requester whose wait would close a cycle is the victim; the others go on.
func TestDeadlocks(t *testing.T) {
	w := newWaits()
	bg := context.Background()
	var o [6]*versionchain.Outcome
	for i := range o {
		o[i] = versionchain.NewOutcome(base.TxnID(i))
	}
	d12 := begin(t, w, bg, 1, o[2], 0)
	d23 := begin(t, w, bg, 2, o[3], 0)
	d53 := begin(t, w, bg, 5, o[3], 0) // a tree is no cycle
	if err := w.wait(bg, nil, 3, o[1], 0); !errors.Is(err, base.ErrDeadlock) {
		t.Fatalf("a cycle of three: %v", err)
	}
	if err := w.wait(bg, nil, 3, o[2], 0); !errors.Is(err, base.ErrDeadlock) {
		t.Fatalf("a cycle of two: %v", err)
	}
	d34 := begin(t, w, bg, 3, o[4], 0)
	if err := w.wait(bg, nil, 4, o[5], 0); !errors.Is(err, base.ErrDeadlock) {
		t.Fatalf("a cycle through a tree: %v", err)
	}
	o[4].Prepare(true)
	w.wake(o[4], true)
	ends(t, d34, nil)
	sleeps(t, d23)
	o[3].Prepare(true)
	w.wake(o[3], true)
	ends(t, d23, nil)
	ends(t, d53, nil)
	o[2].Prepare(true)
	w.wake(o[2], true)
	ends(t, d12, nil)
	w.empty(t)
}
