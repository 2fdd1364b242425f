package engine

import (
	"log/slog"
	"sync"
	"time"
)

// watcher tells of transactions that stay open too long, which are leaked as a rule:
// they keep versions that nobody else reads any more. It wakes a few times within the
// age limit, so that Begin need not ask for the time.
type watcher struct {
	stop chan struct{}
	done sync.WaitGroup
}

// watchEvery is how often the watcher wakes for an age limit.
func watchEvery(limit time.Duration) time.Duration {
	if limit <= 0 {
		return time.Second // for the age that Metrics tells
	}
	return max(time.Millisecond, min(limit/16, time.Second))
}

// start begins to watch at every tick; tests pass a clock of their own. seen, if not
// nil, is sent on after each tick was served.
func (w *watcher) start(db *DB, ticks <-chan time.Time, stopTicks func(), seen chan<- struct{}) {
	w.stop = make(chan struct{})
	w.done.Go(func() {
		defer stopTicks()
		var zero time.Time // of the coarse clock: a tick before the first
		for {
			select {
			case <-w.stop:
				return
			case now := <-ticks:
				if zero.IsZero() {
					zero = now.Add(-watchEvery(db.o.TxAgeLimit))
				}
				for _, long := range db.m.Tick(now.Sub(zero), db.o.TxAgeLimit) {
					db.longTransaction(long)
				}
			}
			if seen != nil {
				seen <- struct{}{}
			}
		}
	})
}

func (w *watcher) close() {
	if w.stop != nil {
		close(w.stop)
		w.done.Wait()
	}
}

func (db *DB) longTransaction(i LongTransactionInfo) {
	if db.o.Logger != nil {
		db.o.Logger.Warn("long transaction", slog.Duration("age", i.Age), slog.String("isolation", i.Isolation.String()),
			slog.Bool("read_only", i.ReadOnly), slog.Bool("wrote", i.Wrote), slog.String("stack", string(i.Stack)))
	}
	if e := db.o.Events; e != nil && e.LongTransaction != nil {
		e.LongTransaction(i)
	}
}
