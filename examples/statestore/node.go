package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// node brings blocks to a store: in each round two that fork from the head and so
// share the states of the slots between, imported at the same time.
type node struct {
	c     *config
	outMu sync.Mutex // guards out
	out   io.Writer

	round  atomic.Int64
	stored atomic.Int64 // states of the round
	reads  atomic.Int64
}

func newNode(c *config, out io.Writer) *node { return &node{c: c, out: out} }

func (n *node) printf(format string, args ...any) {
	n.outMu.Lock()
	defer n.outMu.Unlock()
	fmt.Fprintf(n.out, format, args...)
}

// trace counts, and dies where it is told to: in the middle of a block.
func (n *node) trace(e Event) {
	if e.Step != StepStored {
		return
	}
	stored := n.stored.Add(1)
	if n.c.die > 0 && n.round.Load() == int64(n.c.die) && stored == int64(n.c.slots/2+1) {
		n.printf("round %d: killed with %d temporary states stored\n", n.c.die, stored)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// run does all rounds; a reader looks on.
func (n *node) run(ctx context.Context, s *Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.readLoop(ctx, s) })
	g.Go(func() error {
		defer cancel()
		for round := 1; round <= n.c.rounds; round++ {
			if err := n.play(ctx, s, round); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// play imports a fork of two blocks, one of them invalid now and then.
func (n *node) play(ctx context.Context, s *Store, round int) error {
	n.round.Store(int64(round))
	n.stored.Store(0)
	var parent ID
	var st State
	err := s.Read(ctx, func(r *Reader) (err error) { parent, st, err = r.Head(); return err })
	if err != nil {
		return err
	}
	slot := parent.Slot + uint64(n.c.slots)
	a, _ := produce(parent, st, slot, Transfer{From: 0, To: 0, Amount: uint64(round)})
	b, _ := produce(parent, st, slot+1)
	if n.c.fail > 0 && round%n.c.fail == 0 {
		a.StateRoot[0] ^= 1
	}
	var g errgroup.Group
	for _, block := range []*Block{a, b} {
		g.Go(func() error { return n.bring(ctx, s, round, block) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n.c.finalize > 0 && round%n.c.finalize == 0 {
		p, err := s.Finalize(ctx, parent)
		if err != nil {
			return err
		}
		n.printf("round %d: %v is final: %d blocks and %d states deleted\n", round, parent, p.Blocks, p.States)
	}
	return nil
}

func (n *node) bring(ctx context.Context, s *Store, round int, b *Block) error {
	start := time.Now()
	res, err := s.Import(ctx, b)
	m := s.Metrics()
	what := "permanent"
	switch {
	case errors.Is(err, ErrInvalid):
		what = "invalid, nothing of it is left"
	case err != nil:
		return err
	}
	n.printf("round %d: block %v %s: %d states stored, %d adopted, attempt %d, %d ms; record memory %.1f of %.1f MiB\n",
		round, b.ID(), what, res.Stored, res.Adopted, res.Attempts, time.Since(start).Milliseconds(),
		float64(m.RecordMemoryUsed)/(1<<20), float64(m.RecordMemoryCap)/(1<<20))
	return nil
}

// readLoop reads the head and its state, which must always belong together.
func (n *node) readLoop(ctx context.Context, s *Store) error {
	for ctx.Err() == nil {
		err := s.Read(ctx, func(r *Reader) error {
			id, st, err := r.Head()
			if err != nil {
				return err
			}
			b, err := r.Block(id)
			if err != nil {
				return err
			}
			if st.root() != b.StateRoot {
				return fmt.Errorf("statestore: %w: head %v", ErrInconsistent, id)
			}
			return nil
		})
		if err != nil && !errors.Is(err, ctx.Err()) {
			return err
		}
		n.reads.Add(1)
	}
	return nil
}

func (n *node) check(ctx context.Context, s *Store) error {
	return s.Read(ctx, func(r *Reader) error {
		counts, err := r.Check()
		if err != nil {
			return err
		}
		head, _, err := r.Head()
		if err != nil {
			return err
		}
		fin, err := r.Finalized()
		if err != nil {
			return err
		}
		n.printf("checked: %d blocks, %d states, each following from the one before; head %v, final %v, %d reads agreed\n",
			counts.Blocks, counts.States, head, fin, n.reads.Load())
		return nil
	})
}
