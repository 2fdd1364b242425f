package engine

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen, against hanging only.
const patience = 60 * time.Second

// eventually waits until ok, which is asked again and again.
func eventually(t tester, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// waiting starts fn in a goroutine and returns once its transaction waits.
func waiting(t *testing.T, db *DB, fn func() error) chan error {
	t.Helper()
	before := db.Metrics().Waits
	done := make(chan error, 1)
	go func() { done <- fn() }()
	eventually(t, "wait", func() bool { return db.Metrics().Waits > before })
	return done
}

// crew is goroutines that do something over and over until they are stopped.
type crew struct {
	wg   sync.WaitGroup
	once sync.Once
	quit chan struct{}
}

func newCrew() *crew { return &crew{quit: make(chan struct{})} }

// repeat calls fn in a goroutine, with the number of its call, until stop.
func (c *crew) repeat(fn func(i int)) {
	c.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-c.quit:
				return
			default:
				fn(i)
				runtime.Gosched()
			}
		}
	})
}

// stop ends the crew when everybody has finished the call at hand.
func (c *crew) stop() {
	c.once.Do(func() { close(c.quit) })
	c.wg.Wait()
}
