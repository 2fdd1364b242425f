package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// watcher looks at the rows of running inserts from outside, with a snapshot
// taken before them and with new ones, and must see none.
type watcher struct {
	s       store
	p       *plan
	old     txn // the snapshot from before
	read    *reader
	writers []*writer
	empty   view
}

const (
	watchEvery     = 250 * time.Millisecond
	watchedPerLook = 16
)

// watch looks again and again while the writers insert, and a last time when
// they have finished and nothing is committed yet.
func (w *watcher) watch(ctx context.Context, finished <-chan struct{}) error {
	random := rand.New(rand.NewPCG(w.p.seed, 0))
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for last := false; ; {
		if err := w.look(ctx, w.old, random); err != nil {
			return fmt.Errorf("old snapshot: %w", err)
		}
		if err := w.lookAnew(ctx, random); err != nil {
			return fmt.Errorf("new snapshot: %w", err)
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-finished:
			last = true
		case <-tick.C:
		}
	}
}

func (w *watcher) lookAnew(ctx context.Context, random *rand.Rand) error {
	tx, err := w.s.begin(ctx, true)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := w.look(ctx, tx, random); err != nil {
		_ = tx.rollback() // the first error tells
		return err
	}
	return tx.rollback()
}

// look reads rows that are there for their writer, by key and by a short scan.
func (w *watcher) look(ctx context.Context, tx txn, random *rand.Rand) error {
	for range watchedPerLook {
		writer := w.writers[random.IntN(len(w.writers))]
		n := writer.inserted.Load()
		if n == 0 {
			continue
		}
		r := w.p.row(writer.id, random.Int64N(n))
		if err := w.read.checkRow(tx, r, 0); err != nil {
			return err
		}
	}
	return w.shortScan(ctx, tx, random)
}

// shortScan reads a range that, for the writers, has a hundred rows or so. It is
// bounded at both ends: a reader that sees nothing would walk to the end.
func (w *watcher) shortScan(ctx context.Context, tx txn, random *rand.Rand) error {
	lo := w.p.key(random.Int64N(w.p.rows))
	width := uint64(windowRows)
	if w.p.random {
		width *= ^uint64(0) / max(uint64(w.p.rows), windowRows)
	}
	hi := lo + width
	if hi < lo {
		hi = ^uint64(0)
	}
	s := &scan{c: w.read, view: w.empty, limit: windowRows, ctx: ctx}
	if err := tx.scan(tableRows, binary.BigEndian.AppendUint64(nil, lo), binary.BigEndian.AppendUint64(nil, hi), false, s.row); err != nil {
		return fmt.Errorf("%s: short scan at key %x: %w", w.read.who, lo, err)
	}
	return nil
}
