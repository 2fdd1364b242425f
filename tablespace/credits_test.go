package tablespace

import (
	"context"
	"errors"
	"testing"
)

// waitersOf returns how many wait.
func waitersOf(c *credits) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiters)
}

// M7: grants are first come, first served, also for those who want little.
func TestCreditsFIFO(t *testing.T) {
	c := &credits{size: 10}
	ctx := context.Background()
	if err := c.acquire(ctx, 6); err != nil {
		t.Fatal(err)
	}
	order := make(chan int64, 3)
	for i, n := range []int64{8, 1, 1} {
		go func() {
			if err := c.acquire(ctx, n); err != nil {
				t.Error(err)
			}
			order <- n
		}()
		eventually(t, "waiter", func() bool { return waitersOf(c) == i+1 })
	}
	c.release(4) // 2 used: the large one fits, and one small one behind it is let in with it
	if n := <-order; n != 8 && n != 1 {
		t.Fatal(n)
	}
	if got := waitersOf(c); got != 2 {
		t.Errorf("%d wait, want the two behind the large one", got)
	}
	c.release(8)
	<-order
	<-order
	if c.inUse() != 4 {
		t.Errorf("%d in use", c.inUse())
	}
}

func TestCreditsLargerThanPool(t *testing.T) {
	c := &credits{size: 10}
	if err := c.acquire(context.Background(), 100); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.acquire(context.Background(), 1) }()
	eventually(t, "waiter", c.waiting)
	c.release(100)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCreditsCancel(t *testing.T) {
	c := &credits{size: 10, used: 10}
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error), make(chan error)
	go func() { first <- c.acquire(ctx, 8) }()
	eventually(t, "first", func() bool { return waitersOf(c) == 1 })
	go func() { second <- c.acquire(context.Background(), 2) }()
	eventually(t, "second", func() bool { return waitersOf(c) == 2 })
	c.release(2)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// Who stood in the way is gone.
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if err := c.acquire(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestCreditsFail(t *testing.T) {
	c := &credits{size: 1, used: 1}
	done := make(chan error)
	go func() { done <- c.acquire(context.Background(), 1) }()
	eventually(t, "waiter", c.waiting)
	boom := errors.New("boom")
	c.fail(boom)
	if err := <-done; !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := c.acquire(context.Background(), 1); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	c.release(1)
}
