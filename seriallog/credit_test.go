package seriallog

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// waitFor waits until n claims wait.
func (c *credits) waitFor(t *testing.T, n int32) {
	t.Helper()
	for range 10000 {
		if c.waiting.Load() == n {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.Fatalf("%d claims wait, want %d", c.waiting.Load(), n)
}

func TestCreditsFirstComeFirstServed(t *testing.T) {
	c := &credits{free: 10}
	if err := c.take(t.Context(), 10, func() { t.Error("starved with room") }); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int64
	var wg sync.WaitGroup
	// The second is small enough to pass by the first, and must not.
	for i, n := range []int64{8, 1, 2} {
		wg.Go(func() {
			if err := c.take(context.Background(), n, func() {}); err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, n)
			mu.Unlock()
		})
		c.waitFor(t, int32(i+1))
	}
	c.give(7)
	c.waitFor(t, 3)
	c.give(1)
	c.waitFor(t, 2)
	c.give(1)
	c.waitFor(t, 1)
	c.give(2)
	wg.Wait()
	// A granted claim may be late to note it; only the first two are certain.
	if !slices.Contains(order, 8) || len(order) != 3 || c.free != 0 {
		t.Errorf("order %v, %d free", order, c.free)
	}
}

func TestCreditsCancelledClaimMakesRoomForThoseBehind(t *testing.T) {
	c := &credits{free: 5}
	ctx, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	cause := errors.New("changed my mind")
	wg.Go(func() {
		if err := c.take(ctx, 9, func() {}); !errors.Is(err, cause) {
			t.Errorf("cancelled claim: %v", err)
		}
	})
	c.waitFor(t, 1)
	wg.Go(func() {
		if err := c.take(context.Background(), 5, func() {}); err != nil {
			t.Error(err)
		}
	})
	c.waitFor(t, 2)
	cancel(cause)
	wg.Wait()
	if c.free != 0 || c.waiting.Load() != 0 {
		t.Errorf("%d free, %d waiting", c.free, c.waiting.Load())
	}
}

func TestCreditsCancelAgainstGrant(t *testing.T) {
	// Whatever wins, nothing is lost.
	c := &credits{}
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { err = c.take(ctx, 1, func() {}) })
		wg.Go(cancel)
		wg.Go(func() { c.give(1) })
		wg.Wait()
		if err == nil {
			c.give(1)
		}
		if c.free != 1 || c.waiting.Load() != 0 {
			t.Fatalf("%d free, %d waiting", c.free, c.waiting.Load())
		}
		c.free = 0
	}
}

func TestCreditsFail(t *testing.T) {
	c := &credits{}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.take(context.Background(), 1, func() {}); !errors.Is(err, base.ErrClosed) {
			t.Errorf("waiting claim: %v", err)
		}
	})
	c.waitFor(t, 1)
	c.fail(base.ErrClosed)
	c.fail(base.ErrPoisoned)
	wg.Wait()
	if err := c.take(t.Context(), 0, func() {}); !errors.Is(err, base.ErrClosed) {
		t.Errorf("later claim: %v", err)
	}
}

// The background writer makes room for Reserve although nobody syncs and less
// than half of the buffer is full.
func TestReserveProgressesWithoutSync(t *testing.T) {
	l, _ := open(t, vfs.NewMem(), 1)
	const size = 256 << 10
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	addGroup(t, l, 1, make([]byte, 1000))
	for range 3 {
		if err := l.Reserve(ctx, size); err != nil {
			t.Fatal(err)
		}
		l.Unreserve(size)
		addGroup(t, l, 1, make([]byte, 1000))
	}
	if err := l.Reserve(ctx, size+1); !errors.Is(err, errTooLarge) {
		t.Errorf("reserve beyond the buffer: %v", err)
	}
	// Appends of one reservation feed the waiting of another.
	if err := l.Reserve(ctx, 100<<10); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- l.Reserve(ctx, 250<<10) }()
	l.credits.waitFor(t, 1)
	body := make([]byte, 50<<10-RecordOverhead())
	for range 2 {
		if _, err := l.AppendGroup(1, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.Unreserve(250 << 10)
	idle(t, l)
	closeLog(t, l)
}
