package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sweepLimitDefault bounds the wait for a rollback's leftovers to go.
const sweepLimitDefault = time.Minute

// rollback rolls all writers back; the result has the longest call.
func (r *run) rollback(ctx context.Context) error {
	calls := make([]time.Duration, len(r.writers))
	err := r.phase(phaseRollback, 0, func() error {
		return r.each(ctx, func(_ context.Context, w *writer) error {
			tx := w.tx
			w.tx = nil
			start := time.Now()
			err := tx.rollback()
			calls[w.id] = time.Since(start)
			return err
		})
	})
	for _, d := range calls {
		r.res.rollbackSeconds = max(r.res.rollbackSeconds, d.Seconds())
	}
	if err != nil {
		return err
	}
	return r.endOld()
}

// sweep waits for the leftovers of the rollback to go, and then sees to it that
// no row is there.
func (r *run) sweep(ctx context.Context) error {
	err := r.phase(phaseSweep, 0, func() error {
		deadline := time.Now().Add(r.sweepLimit)
		for {
			left := r.leftovers()
			if len(left) == 0 {
				return nil
			}
			if time.Now().After(deadline) {
				for _, what := range left {
					r.v.mismatch("%v after the rollback: %s", r.sweepLimit, what)
				}
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	if err != nil {
		return err
	}
	if err := r.selectNew(ctx, phaseSelect, r.p.nothing(), false); err != nil {
		return err
	}
	return r.selectNew(ctx, phaseSelectReverse, r.p.nothing(), true)
}

// leftovers lists what of the rolled-back transactions is still there.
func (r *run) leftovers() []string {
	var left []string
	g := r.store.gauges()
	if g.tempTables != 0 {
		left = append(left, fmt.Sprintf("%d temp tables", g.tempTables))
	}
	if g.sweeping != 0 {
		left = append(left, fmt.Sprintf("%d sweeps under way", g.sweeping))
	}
	if g.activeTransactions != 0 {
		left = append(left, fmt.Sprintf("%d active transactions", g.activeTransactions))
	}
	if g.recordMemoryUsed > r.idle {
		left = append(left, fmt.Sprintf("%d bytes of record memory, %d before", g.recordMemoryUsed, r.idle))
	}
	for _, name := range temporaryFiles(r.dir) {
		left = append(left, "file "+name)
	}
	return left
}

// temporaryFiles lists the run files and temp files in a store's directory. The
// leaf map's own files, by Pebble, and the log are neither.
func temporaryFiles(dir string) []string {
	var names []string
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // gone meanwhile
		}
		switch filepath.Ext(path) {
		case ".run", ".tmp", ".temp":
			names = append(names, strings.TrimPrefix(path, dir+string(filepath.Separator)))
		}
		return nil
	})
	return names
}
