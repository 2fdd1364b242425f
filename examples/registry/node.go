package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// node runs a registry: the ticker, a network that brings blocks, and queries.
type node struct {
	r    *Registry
	c    *config
	now  func() time.Time
	rng  *rand.Rand // of the network's goroutine
	done uint64     // the slot that the network has dealt with

	outMu sync.Mutex // guards out
	out   io.Writer

	ticks, slots, blocks, queries atomic.Uint64
	refusedMu                     sync.Mutex // guards refused
	refused                       map[error]int
}

func newNode(r *Registry, c *config, out io.Writer) *node {
	return &node{
		r: r, c: c, now: time.Now, rng: rand.New(rand.NewPCG(c.seed, r.known.Load())),
		out: out, refused: map[error]int{},
	}
}

// run works until ctx ends, or something fails. All goroutines have ended then.
func (n *node) run(ctx context.Context) error {
	ticker := time.NewTicker(n.c.tick)
	defer ticker.Stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, n.tickLoop(ctx, ticker.C)) })
	g.Go(func() error { return ended(ctx, n.network(ctx)) })
	g.Go(func() error { return ended(ctx, n.report(ctx)) })
	for range n.c.queries {
		g.Go(func() error { return ended(ctx, n.queryLoop(ctx)) })
	}
	return g.Wait()
}

// ended takes the end of the context for what it is: no failure.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// tickLoop brings the registry up to the time, at each tick.
func (n *node) tickLoop(ctx context.Context, ticks <-chan time.Time) error {
	for {
		over, err := n.r.Advance(ctx, n.now())
		if err != nil {
			return err
		}
		n.ticks.Add(1)
		n.slots.Add(over)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks:
		}
	}
}

// network brings a block for most slots.
func (n *node) network(ctx context.Context) error {
	for {
		changed := n.r.next()
		b, peers, err := n.draw(ctx)
		if err != nil {
			return err
		}
		if b != nil {
			if err := n.deliver(ctx, b, peers); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// draw makes the block of the current slot and says how many peers bring it; no
// block if the slot has one, was dealt with, or its staker is asleep.
func (n *node) draw(ctx context.Context) (b *block, peers int, err error) {
	var st state
	if err := n.r.Query(ctx, func(v *View) error { st = v.State; return nil }); err != nil {
		return nil, 0, err
	}
	if st.Filled || st.Slot == n.done {
		return nil, 0, nil
	}
	n.done = st.Slot
	if n.rng.IntN(10) == 0 {
		return nil, 0, nil
	}
	b = &block{Height: st.Height + 1, Prev: st.Hash, Slot: st.Slot, Staker: turnOf(st.Slot, st.Stakers)}
	b.Ops = n.drawOps(&st)
	peers = 1
	switch n.rng.IntN(20) {
	case 0: // the last operation fails, after all others were written
		b.Ops = append(b.Ops, op{Kind: opTransfer, From: 1 << 40, To: treasury, Amount: 1})
	case 1:
		b.Staker = 1 + b.Staker%st.Stakers
	case 2:
		b.Prev[0] ^= 1
	case 3, 4, 5:
		peers = 2
	}
	return b, peers, nil
}

func (n *node) drawOps(st *state) []op {
	var ops []op
	for range 1 + n.rng.IntN(3) {
		ops = append(ops, op{Kind: opTransfer, From: treasury, To: 3000 + n.rng.Uint64N(100), Amount: 1 + n.rng.Uint64N(1000)})
	}
	if st.Stakers < 60 && n.rng.IntN(8) == 0 {
		id := st.Stakers
		ops = append(ops, op{Kind: opRegister, From: 1000 + id, To: 2000 + id, Amount: 300, Name: fmt.Sprintf("staker-%02d", id+1)})
	}
	if n.rng.IntN(8) == 0 {
		id := 1 + n.rng.Uint64N(st.Stakers)
		ops = append(ops, op{Kind: opSetShare, Staker: id, To: 2000 + id - 1, Amount: n.rng.Uint64N(shareWhole + 1)})
	}
	return ops
}

// deliver applies a block that some peers bring at the same time.
func (n *node) deliver(ctx context.Context, b *block, peers int) error {
	var g errgroup.Group
	for range peers {
		g.Go(func() error {
			err := n.r.Apply(ctx, b)
			switch {
			case err == nil:
				n.applied(b)
			case refused(err):
				n.refuse(err)
			default:
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

func (n *node) applied(b *block) {
	n.blocks.Add(1)
	if n.c.blocks {
		n.printf("block %d slot %d staker %d hash %v\n", b.Height, b.Slot, b.Staker, b.hash())
	}
}

func (n *node) refuse(err error) {
	n.refusedMu.Lock()
	defer n.refusedMu.Unlock()
	for _, r := range refusals {
		if errors.Is(err, r) {
			n.refused[r]++
			return
		}
	}
}

// queryLoop asks as fast as it can, and checks all it sees.
func (n *node) queryLoop(ctx context.Context) error {
	for ctx.Err() == nil {
		err := n.r.Query(ctx, func(v *View) error {
			if _, err := v.Check(); err != nil {
				return err
			}
			s, err := v.Staker(v.Turn())
			if err != nil {
				return err
			}
			_, err = v.Balance(s.Owner)
			return err
		})
		if err != nil {
			return err
		}
		n.queries.Add(1)
	}
	return ctx.Err()
}

// report prints a line every second.
func (n *node) report(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var blocks, slots, queries uint64
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		b, s, q := n.blocks.Load(), n.slots.Load(), n.queries.Load()
		n.printf("%d blocks, %d slots, %d queries in this second\n", b-blocks, s-slots, q-queries)
		blocks, slots, queries = b, s, q
	}
}

func (n *node) printf(format string, args ...any) {
	n.outMu.Lock()
	defer n.outMu.Unlock()
	fmt.Fprintf(n.out, format, args...)
}
