package versionchain

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/savepoint"
)

func TestOutcomeLife(t *testing.T) {
	o := NewOutcome(9)
	want := func(st Status, ts base.CommitTS) {
		t.Helper()
		if s, got := o.Status(); s != st || got != ts {
			t.Fatalf("status %d at %d, want %d at %d", s, got, st, ts)
		}
	}
	want(Active, 0)
	if !o.Hold() {
		t.Fatal("an active transaction cannot be held")
	}
	o.Unhold()
	if o.Left.Load() {
		t.Error("it has left memory")
	}
	o.Depart()
	if o.Leave() != 1 || !o.Left.Load() {
		t.Errorf("leave %d after a departure", o.Leave())
	}
	o.Prepare(false)
	want(Committing, 0)
	if o.Hold() {
		t.Fatal("a committing transaction was held")
	}
	o.SetCommitting(77)
	want(Committing, 77)
	o.SetCommitted(77)
	want(Committed, 77)

	o = NewOutcome(9)
	o.Prepare(true)
	want(Aborted, 0)
	if o.Hold() {
		t.Fatal("an aborted transaction was held")
	}
	o = DecidedOutcome(9, 5, savepoint.Intervals{{From: 2, To: 3}})
	want(Committed, 5)
	for e, dead := range map[base.Epoch]bool{1: false, 2: true, 3: true, 4: false} {
		if o.DeadEpoch(e) != dead {
			t.Errorf("epoch %d: dead %v", e, !dead)
		}
	}
	o.SetDead(nil)
	if o.DeadEpoch(2) || o.Dead() != nil {
		t.Error("epochs are dead")
	}
	o = DecidedOutcome(9, base.MaxTS-1, nil)
	want(Committed, base.MaxTS-1)
}

// Prepare returns only when nobody holds the transaction, and nobody gets hold
// of it afterwards: what Hold admits is complete before the commit (M6).
func TestPrepareWaitsForHolds(t *testing.T) {
	for range 200 {
		o := NewOutcome(1)
		var inside, after atomic.Int64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				for o.Hold() {
					inside.Add(1)
					if after.Load() != 0 {
						t.Error("held after Prepare")
					}
					inside.Add(-1)
					o.Unhold()
				}
			})
		}
		close(start)
		o.Prepare(false)
		if n := inside.Load(); n != 0 {
			t.Errorf("%d hold it after Prepare", n)
		}
		after.Store(1)
		wg.Wait()
	}
}

func TestRegistry(t *testing.T) {
	var r Registry
	if r.Get(1) != nil || r.Len() != 0 {
		t.Error("the zero registry is not empty")
	}
	var outs []*Outcome
	for i := range 500 {
		o := NewOutcome(base.TxnID(1)<<base.TxnSeqBits | base.TxnID(i))
		outs = append(outs, o)
		r.Add(o)
	}
	if r.Len() != 500 {
		t.Errorf("%d in the registry", r.Len())
	}
	for i, o := range outs {
		if r.Get(o.ID) != o {
			t.Errorf("%v is not found", o.ID)
		}
		if i%2 == 0 {
			r.Remove(o.ID)
		}
	}
	n := 0
	r.Each(func(o *Outcome) {
		r.Get(o.ID) // no lock is held
		n++
	})
	if n != 250 || r.Len() != 250 || r.Get(outs[0].ID) != nil {
		t.Errorf("%d after removing half", n)
	}
}
