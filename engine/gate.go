package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// gate lets long operations in until the store closes; then it ends those that
// are inside and waits for them, so that they find log and leaf map open.
type gate struct {
	mu     sync.Mutex // guards what follows; short
	next   int
	inside map[int]context.CancelCauseFunc
	shut   bool
	empty  sync.Cond // with mu; made by close
}

// enter returns a context that also ends when the store closes, and what to
// call at the end. ErrClosed when the gate is shut.
func (g *gate) enter(ctx context.Context) (context.Context, func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, nil, ErrClosed
	}
	if g.inside == nil {
		g.inside = map[int]context.CancelCauseFunc{}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	id := g.next
	g.next++
	g.inside[id] = cancel
	return ctx, func() { g.leave(id) }, nil
}

func (g *gate) leave(id int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside[id](nil)
	delete(g.inside, id)
	if g.shut && len(g.inside) == 0 {
		g.empty.Broadcast()
	}
}

// close shuts the gate, ends who is inside, and waits for them.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	g.empty.L = &g.mu
	for _, cancel := range g.inside {
		cancel(ErrClosed)
	}
	for len(g.inside) > 0 {
		g.empty.Wait()
	}
}

// ended adds to the error of an operation why its context ended, if Close did it.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrClosed) && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}
