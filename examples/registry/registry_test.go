package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/crashdisk"
)

var ctx = context.Background()

// began is when the tests' registries begin; slots are a second.
var began = time.Unix(1_500_000_000, 0)

func slotStart(slot int) time.Time { return began.Add(time.Duration(slot) * time.Second) }

func open(t *testing.T, fs vfs.FS) (*Registry, opening) {
	t.Helper()
	opts := options()
	opts.FS, opts.LogSegmentSize = fs, 256<<10
	r, o, err := openRegistry(ctx, "db", opts, genesis{Start: began, SlotTime: time.Second, Stakers: 3})
	if err != nil {
		t.Fatal(err)
	}
	return r, o
}

func mustClose(t *testing.T, r *Registry) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func newRegistry(t *testing.T) *Registry {
	t.Helper()
	r, _ := open(t, crashdisk.New(t, "db"))
	t.Cleanup(func() { mustClose(t, r) })
	return r
}

func query(t *testing.T, r *Registry, fn func(*View)) {
	t.Helper()
	if err := r.Query(ctx, func(v *View) error { fn(v); return nil }); err != nil {
		t.Fatal(err)
	}
}

func stateOf(t *testing.T, r *Registry) (st state) {
	t.Helper()
	query(t, r, func(v *View) { st = v.State })
	return st
}

// mustCheck checks the registry: by its own records, by its history, and the store.
func mustCheck(t *testing.T, r *Registry) {
	t.Helper()
	query(t, r, func(v *View) {
		if _, err := v.Check(); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := r.audit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.db.Verify(ctx); err != nil {
		t.Fatal(err)
	}
}

func advance(t *testing.T, r *Registry, slot int) {
	t.Helper()
	if _, err := r.Advance(ctx, slotStart(slot)); err != nil {
		t.Fatal(err)
	}
}

// nextBlock returns a valid block for the current slot.
func nextBlock(t *testing.T, r *Registry, ops ...op) *block {
	t.Helper()
	st := stateOf(t, r)
	return &block{Height: st.Height + 1, Prev: st.Hash, Slot: st.Slot, Staker: turnOf(st.Slot, st.Stakers), Ops: ops}
}

func apply(t *testing.T, r *Registry, b *block) {
	t.Helper()
	if err := r.Apply(ctx, b); err != nil {
		t.Fatal(err)
	}
}

// dump returns all records of the registry.
func dump(t *testing.T, r *Registry) (rows []string) {
	t.Helper()
	query(t, r, func(v *View) {
		for i, tb := range r.tables {
			for row, err := range v.tx.Scan(tb, engine.Range{}) {
				if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, fmt.Sprintf("%s %x = %x", tableNames[i], row.Key, row.Value))
			}
		}
	})
	return rows
}

// A block that changes several records and fails at the last of them changes none.
func TestBlockIsAllOrNothing(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	good := []op{
		{Kind: opTransfer, From: treasury, To: 7, Amount: 50},
		{Kind: opRegister, From: 7, To: 8, Amount: 250, Name: "late"},
		{Kind: opSetShare, Staker: 1, To: 9, Amount: 1000},
	}
	bad := map[string]op{
		"overdraft":      {Kind: opTransfer, From: 7, To: 8, Amount: 51},
		"name taken":     {Kind: opRegister, Amount: 1, Name: "late"},
		"name too long":  {Kind: opRegister, Name: string(make([]byte, nameSizeMax+1))},
		"share too high": {Kind: opSetShare, Staker: 1, Amount: shareWhole + 1},
		"no such staker": {Kind: opSetShare, Staker: 5, Amount: 1},
		"unknown kind":   {Kind: opKindLimit},
	}
	before := dump(t, r)
	for name, o := range bad {
		err := r.Apply(ctx, nextBlock(t, r, append(slices.Clone(good), o)...))
		if !errors.Is(err, errOp) || !refused(err) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, dump(t, r)); diff != "" {
			t.Fatalf("%s: something of the block remains:\n%s", name, diff)
		}
	}
	apply(t, r, nextBlock(t, r, good...))
	reward := uint64(genesisSupply / rewardPart)
	query(t, r, func(v *View) {
		producer, err := v.Staker(turnOf(1, 3))
		if err != nil || producer.Produced != 1 {
			t.Fatalf("producer: %+v %v", producer, err)
		}
		for account, want := range map[uint64]uint64{
			treasury:          genesisSupply - 50,
			7:                 50,
			producer.Owner:    reward - reward*producer.Share/shareWhole,
			producer.Delegate: reward * producer.Share / shareWhole,
		} {
			if got, err := v.Balance(account); err != nil || got != want {
				t.Errorf("account %d: %d %v, want %d", account, got, err, want)
			}
		}
		if s, err := v.Staker(4); err != nil || s.Name != "late" {
			t.Errorf("registered: %+v %v", s, err)
		}
		if v.State.Supply != genesisSupply+reward || v.State.Stakers != 4 {
			t.Errorf("state: %+v", v.State)
		}
	})
	mustCheck(t, r)
}

func TestRefusals(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 3)
	apply(t, r, nextBlock(t, r))
	advance(t, r, 5)
	before := dump(t, r)
	for _, c := range []struct {
		want error
		edit func(*block)
	}{
		{errHeight, func(b *block) { b.Height++ }},
		{errHeight, func(b *block) { b.Height-- }},
		{errPrev, func(b *block) { b.Prev[3]++ }},
		{errEarly, func(b *block) { b.Slot++ }},
		{errLate, func(b *block) { b.Slot-- }},
		{errTurn, func(b *block) { b.Staker = 1 + b.Staker%3 }},
		{errTooLarge, func(b *block) { b.Ops = make([]op, operations+1) }},
	} {
		b := nextBlock(t, r)
		c.edit(b)
		if err := r.Apply(ctx, b); !errors.Is(err, c.want) || !refused(err) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
	if diff := cmp.Diff(before, dump(t, r)); diff != "" {
		t.Fatalf("a refused block changed something:\n%s", diff)
	}
	b := nextBlock(t, r)
	apply(t, r, b)
	if err := r.Apply(ctx, b); !errors.Is(err, errKnown) {
		t.Errorf("the same again: %v", err)
	}
	if err := r.Apply(ctx, nextBlock(t, r)); !errors.Is(err, errFilled) {
		t.Errorf("another in the slot: %v", err)
	}
	mustCheck(t, r)
}

// stops lets a test stop changes at a moment: the change says that it is there,
// and waits to be let go. Later ones pass.
type stops struct {
	at      moment
	once    sync.Once
	reached chan struct{}
	goOn    chan struct{}
}

func stopAt(r *Registry, at moment) *stops {
	s := &stops{at: at, reached: make(chan struct{}), goOn: make(chan struct{})}
	r.trace = func(m moment) {
		if m == s.at {
			s.once.Do(func() { close(s.reached); <-s.goOn })
		}
	}
	return s
}

func (r *Registry) waits() uint64 { return r.db.Metrics().Waits }

// The seed's fear: a block is validated, and before it is applied the registry
// goes on to the next slot as if the block were missing. Here the slot cannot
// change in between: the advance waits, and then finds the block.
func TestBlockHoldsTheSlot(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	b, waits := nextBlock(t, r), r.waits()
	s := stopAt(r, blockValidated)
	blockDone, slotDone := make(chan error, 1), make(chan error, 1)
	go func() { blockDone <- r.Apply(ctx, b) }()
	<-s.reached
	go func() { _, err := r.Advance(ctx, slotStart(2)); slotDone <- err }()
	for r.waits() == waits { // until the advance waits for the block
		select {
		case err := <-slotDone:
			t.Fatalf("the slot ended under a validated block: %v", err)
		default:
		}
	}
	if st := stateOf(t, r); st.Slot != 1 || st.Height != 0 {
		t.Fatalf("%+v is visible before the block is committed", st)
	}
	close(s.goOn)
	if err := errors.Join(<-blockDone, <-slotDone); err != nil {
		t.Fatal(err)
	}
	query(t, r, func(v *View) {
		st, err := v.Staker(b.Staker)
		if err != nil || st.Produced != 1 || st.Missed != 0 || v.State.Slot != 2 || v.State.Height != 1 {
			t.Fatalf("staker %d produced, %d missed, state %+v, %v", st.Produced, st.Missed, v.State, err)
		}
	})
	mustCheck(t, r)
}

// The other order: the slot ends after the block's transaction has begun, which
// reads the old state. It must not be applied to it.
func TestSlotOvertakesBlock(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	b := nextBlock(t, r)
	s := stopAt(r, blockBegun)
	done := make(chan error, 1)
	go func() { done <- r.Apply(ctx, b) }()
	<-s.reached
	advance(t, r, 2)
	close(s.goOn)
	if err := <-done; !errors.Is(err, errLate) {
		t.Fatalf("a block of a slot that is over: %v", err)
	}
	query(t, r, func(v *View) {
		if st, err := v.Staker(b.Staker); err != nil || st.Missed != 1 || st.Produced != 0 || v.State.Height != 0 {
			t.Fatalf("%d produced, %d missed, height %d, %v", st.Produced, st.Missed, v.State.Height, err)
		}
	})
	if r.db.Metrics().Conflicts == 0 {
		t.Fatal("the block ran on the new state from the start: the test forced nothing")
	}
	mustCheck(t, r)
}

// A slot's advance that has begun when a block comes in starts again too.
func TestBlockOvertakesSlot(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	b := nextBlock(t, r)
	s := stopAt(r, slotBegun)
	done := make(chan error, 1)
	go func() { _, err := r.Advance(ctx, slotStart(2)); done <- err }()
	<-s.reached
	apply(t, r, b)
	close(s.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	query(t, r, func(v *View) {
		if st, err := v.Staker(b.Staker); err != nil || st.Missed != 0 || v.State.Slot != 2 || v.State.Height != 1 {
			t.Fatalf("%d missed, state %+v, %v", st.Missed, v.State, err)
		}
	})
	mustCheck(t, r)
}

// Two peers bring the same block at the same time: it is applied once.
func TestBlockTwiceAtOnce(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	b, waits := nextBlock(t, r), r.waits()
	s := stopAt(r, blockWritten)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- r.Apply(ctx, b) }()
	<-s.reached
	go func() { second <- r.Apply(ctx, b) }()
	for r.waits() == waits {
		select {
		case err := <-second:
			t.Fatalf("the second did not wait: %v", err)
		default:
		}
	}
	close(s.goOn)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, errKnown) {
		t.Fatalf("the second: %v", err)
	}
	mustCheck(t, r)
}

// A query sees one moment, though a slot and a block come in between its reads,
// and though a block is half written; it makes nobody wait.
func TestQueryIsOneMoment(t *testing.T) {
	r := newRegistry(t)
	advance(t, r, 1)
	apply(t, r, nextBlock(t, r))
	s := stopAt(r, blockWritten)
	done := make(chan error, 1)
	query(t, r, func(v *View) {
		old := v.State
		advance(t, r, 2)
		b := nextBlock(t, r, op{Kind: opTransfer, From: treasury, To: 7, Amount: 50})
		go func() { done <- r.Apply(ctx, b) }()
		<-s.reached
		query(t, r, func(half *View) {
			if half.State.Height != 1 || half.State.Slot != 2 {
				t.Errorf("a half written block is seen: %+v", half.State)
			}
			if _, err := half.Check(); err != nil {
				t.Error(err)
			}
		})
		close(s.goOn)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := stateOf(t, r); got.Height != 2 {
			t.Errorf("height %d after the block", got.Height)
		}
		if n, err := v.Balance(7); err != nil || n != 0 {
			t.Errorf("the old snapshot sees the new transfer: %d %v", n, err)
		}
		if _, err := v.Check(); err != nil || v.State != old {
			t.Errorf("the old snapshot: %v", err)
		}
	})
	mustCheck(t, r)
}

// Queries check the whole registry all the time while slots and blocks come in.
func TestQueriesDuringChanges(t *testing.T) {
	r := newRegistry(t)
	ended, cancel := context.WithCancel(ctx)
	n := newNode(r, &config{seed: 1}, nil)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := n.queryLoop(ended); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for slot := 1; slot <= 150 || n.queries.Load() < 100; slot++ {
		advance(t, r, slot)
		b, peers, err := n.draw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b != nil {
			if err := n.deliver(ctx, b, peers); err != nil {
				t.Fatal(err)
			}
		}
		if t.Failed() {
			break
		}
	}
	cancel()
	wg.Wait()
	if n.blocks.Load() == 0 || len(n.refused) == 0 {
		t.Fatalf("%d blocks, refused %v: the test shows nothing", n.blocks.Load(), n.refused)
	}
	mustCheck(t, r)
}

// Most ticks find nothing to do, and begin no transaction; after a pause all
// slots that are over are ended, in parts that are whole each.
func TestTicks(t *testing.T) {
	r := newRegistry(t)
	n := newNode(r, &config{seed: 1}, nil)
	now := make(chan time.Time)
	n.now = func() time.Time { return <-now }
	ticks := make(chan time.Time)
	ended, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.tickLoop(ended, ticks) }()
	commits := func() uint64 { return r.db.Metrics().Commits }
	at := commits()
	for i, step := range []struct {
		time    time.Time
		slot    uint64
		commits uint64
	}{
		{began.Add(-time.Hour), 0, 0},
		{began.Add(999 * time.Millisecond), 0, 0},
		{began.Add(1000 * time.Millisecond), 1, 1},
		{began.Add(1005 * time.Millisecond), 1, 0},
		{began.Add(1999 * time.Millisecond), 1, 0},
		{began.Add(4 * time.Second), 4, 1},
		{slotStart(3*slotsPerChange + 4), 3*slotsPerChange + 4, 3},
		{began, 3*slotsPerChange + 4, 0}, // a clock that runs backwards undoes nothing
	} {
		now <- step.time
		ticks <- time.Time{} // the loop waits for it only when the step is done
		if got := stateOf(t, r).Slot; got != step.slot {
			t.Errorf("step %d: slot %d, want %d", i, got, step.slot)
		}
		if c := commits(); c-at != step.commits {
			t.Errorf("step %d: %d transactions, want %d", i, c-at, step.commits)
		} else {
			at = c
		}
	}
	cancel()
	now <- began
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	mustCheck(t, r)
}
