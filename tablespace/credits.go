package tablespace

import (
	"context"
	"sync"
)

// credits is a bounded pool of countable things (bytes of buffer, places in the
// queue) granted first come, first served (M7). x/sync's semaphore is not used
// because a poisoned space must fail those who wait, and because a grant may
// have to be taken by force.
type credits struct {
	mu      sync.Mutex // guards everything below; held for a few instructions
	size    int64
	used    int64
	waiters []*creditWaiter // oldest first
	err     error           // sticky: every later and waiting acquire fails
	onWait  func()          // called without mu when somebody starts to wait
}

type creditWaiter struct {
	n       int64
	granted bool
	ready   chan struct{}
}

// fits reports whether n may be granted. More than the whole pool is granted
// when nothing else is out, so that one row larger than the pool can pass.
func (c *credits) fits(n int64) bool { return c.used+n <= c.size || c.used <= 0 }

// acquire waits until n credits are granted, ctx ends or the pool fails.
func (c *credits) acquire(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return err
	}
	if len(c.waiters) == 0 && c.fits(n) {
		c.used += n
		c.mu.Unlock()
		return nil
	}
	w := &creditWaiter{n: n, ready: make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	if c.onWait != nil {
		c.onWait()
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	return c.settle(ctx, w)
}

// settle returns the outcome of a wait that ended.
func (c *credits) settle(ctx context.Context, w *creditWaiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.granted {
		return nil // a grant that raced with the end of ctx is kept: the caller owns it
	}
	if c.err != nil {
		return c.err
	}
	for i, x := range c.waiters {
		if x == w {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			break
		}
	}
	c.grantLocked() // those behind w may fit now
	return ctx.Err()
}

// grantLocked serves waiters in order. REQUIRES: c.mu is held.
func (c *credits) grantLocked() {
	for len(c.waiters) > 0 && c.fits(c.waiters[0].n) {
		w := c.waiters[0]
		c.waiters[0] = nil
		c.waiters = c.waiters[1:]
		c.used += w.n
		w.granted = true
		close(w.ready)
	}
	if len(c.waiters) == 0 {
		c.waiters = nil
	}
}

// release gives n credits back.
func (c *credits) release(n int64) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	c.used -= n
	c.grantLocked()
	c.mu.Unlock()
}

// force takes n credits without waiting, beyond the size if need be.
func (c *credits) force(n int64) {
	c.mu.Lock()
	c.used += n
	c.mu.Unlock()
}

// fail makes every waiting and later acquire return err.
func (c *credits) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	for _, w := range c.waiters {
		close(w.ready)
	}
	c.waiters = nil
}

// waiting reports whether somebody waits.
func (c *credits) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiters) > 0
}

// inUse returns the credits that are out.
func (c *credits) inUse() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}
