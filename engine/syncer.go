package engine

import (
	"sync"
	"time"
)

// syncer bounds what a crash may take of NoSync commits: every SyncInterval it
// syncs the log if something was appended. It has a goroutine of its own, for a
// checkpoint may take longer than the interval.
//
// What a commit may lose: a commit appended just after a tick is synced by the next
// one, so it is durable after one interval and the time of one sync.
type syncer struct {
	stop chan struct{}
	done sync.WaitGroup
}

// start begins to sync at every tick; tests pass a clock of their own. synced, if
// not nil, is sent on after each tick was served.
func (s *syncer) start(db *DB, ticks <-chan time.Time, stopTicks func(), synced chan<- struct{}) {
	s.stop = make(chan struct{})
	s.done.Go(func() {
		defer stopTicks()
		for {
			select {
			case <-s.stop:
				return
			case <-ticks:
			}
			if db.log.Synced() < db.log.End() && db.failed() == nil {
				_ = db.log.Sync(db.log.End()) // a failure poisons the store (L8)
			}
			if synced != nil {
				synced <- struct{}{}
			}
		}
	})
}

func (s *syncer) close() {
	if s.stop != nil {
		close(s.stop)
		s.done.Wait()
	}
}
