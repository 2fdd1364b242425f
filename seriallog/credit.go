package seriallog

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// credits is a bounded number of bytes, granted first come, first served.
type credits struct {
	mu      sync.Mutex
	free    int64
	waiters []*claim     // in order of arrival
	waiting atomic.Int32 // length of waiters
	err     error        // once set, all waiting ends
}

// claim is one waiting Reserve.
type claim struct {
	n       int64
	granted chan struct{} // closed under credits.mu when decided
	err     error
}

// take grants n bytes, waiting for them and for those who came before. starve
// is called once before a wait begins.
func (c *credits) take(ctx context.Context, n int64, starve func()) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	if len(c.waiters) == 0 && c.free >= n {
		c.free -= n
		c.mu.Unlock()
		return nil
	}
	w := &claim{n: n, granted: make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.waiting.Add(1)
	c.mu.Unlock()
	starve()
	select {
	case <-w.granted:
		return w.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-w.granted:
		// Granted meanwhile: give it to the next ones.
		if w.err == nil {
			c.free += n
			c.grantLocked()
		}
	default:
		i := slices.Index(c.waiters, w)
		c.waiters = slices.Delete(c.waiters, i, i+1)
		c.waiting.Add(-1)
		c.grantLocked() // those behind may fit where this one did not
	}
	return context.Cause(ctx)
}

// give returns n bytes.
func (c *credits) give(n int64) {
	c.mu.Lock()
	c.free += n
	c.grantLocked()
	c.mu.Unlock()
}

// grantLocked serves the waiters at the head. REQUIRES: c.mu is held.
func (c *credits) grantLocked() {
	for len(c.waiters) > 0 {
		w := c.waiters[0]
		if c.err == nil && c.free < w.n {
			return
		}
		c.waiters[0] = nil
		c.waiters = c.waiters[1:]
		c.waiting.Add(-1)
		if w.err = c.err; c.err == nil {
			c.free -= w.n
		}
		close(w.granted)
	}
}

// fail ends all waiting, now and later, with err. The first call counts.
func (c *credits) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.grantLocked()
	}
}

// left returns the bytes not granted.
func (c *credits) left() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.free
}
