package txn

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A statement's limit counts how long it has slept in the queues of records, all
// together, and nothing else. Its timer ran on from the first sleep: a statement that
// had then waited for memory was told ErrLockTimeout, though nobody had been in its
// way for long. The clock is not the machine's.
func TestLimitCountsSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaits(sound)
		s := stmt(2, "k")
		s.limit = 100 * time.Millisecond
		sleep := func(d time.Duration) error {
			t.Helper()
			o := versionchain.NewOutcome(1)
			done := make(chan error, 1)
			go func() { done <- w.wait(bg, nil, s, at(o, 0)) }()
			time.Sleep(d)
			synctest.Wait()
			aborted(o)
			w.wake(o, 0)
			return <-done
		}
		for range 3 {
			if err := sleep(30 * time.Millisecond); err != nil {
				t.Fatalf("after %v of sleep: %v", s.slept, err)
			}
			time.Sleep(time.Hour) // for memory
		}
		if s.slept != 90*time.Millisecond {
			t.Errorf("it has slept %v", s.slept)
		}
		if err := sleep(30 * time.Millisecond); err != base.ErrLockTimeout { //nolint:errorlint // as it is
			t.Errorf("behind its limit: %v", err)
		}
		if s.slept != s.limit {
			t.Errorf("it has slept %v of %v", s.slept, s.limit)
		}
		o := versionchain.NewOutcome(1)
		if err := w.wait(bg, nil, s, at(o, 0)); err != base.ErrLockTimeout { //nolint:errorlint // as it is
			t.Errorf("with nothing left: %v", err)
		}
		w.leave(s, nil, 0)
		w.empty(t)
	})
}
