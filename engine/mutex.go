package engine

import "context"

// mutex is a mutex for long work: whoever waits for it goes when its context
// ends. Make it with newMutex.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

// lock waits until the mutex is had or ctx ends, which gives ctx.Err().
func (m mutex) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryLock locks the mutex if nobody has it, and reports whether it did.
func (m mutex) tryLock() bool {
	select {
	case m <- struct{}{}:
		return true
	default:
		return false
	}
}

// held reports whether somebody has the mutex.
func (m mutex) held() bool { return len(m) > 0 }

func (m mutex) unlock() { <-m }
