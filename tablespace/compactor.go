package tablespace

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactor tells Pebble when it may compact: at any time from the end of a
// successful opening until the map is closed or abandoned. Pebble's own scheduler
// begins in the middle of Open, and nothing ends it when Open fails afterwards; it
// then compacts with what Open has closed, and panics on a goroutine where nobody
// can recover.
//
//	Register ──► withheld ──open──► granting ──Unregister, stop──► stopped
//
// Locks: Pebble calls TrySchedule with its DB.mu held, so no lock of the compactor
// is held while it calls what takes DB.mu (GetWaitingCompaction, Schedule).
type compactor struct {
	mu       sync.Mutex // guards the fields below
	idle     sync.Cond  // asking has become false, or running has fallen
	db       pebble.DBForCompaction
	running  int
	asking   bool // somebody asks Pebble what waits
	granting bool // from open on
	stopped  bool

	failed atomic.Bool // a compaction did, and none has been held up for it yet
	rest   func()      // holds it up
}

func newCompactor() *compactor {
	c := &compactor{rest: func() { time.Sleep(retryPause) }} //nolint:forbidigo // as mapFS: nothing to wait for
	c.idle.L = &c.mu
	return c
}

// open lets compactions begin: those that Pebble asked for while it opened, too.
// REQUIRES: Pebble is open, none of its locks is held.
func (c *compactor) open() {
	c.mu.Lock()
	c.granting = true
	c.mu.Unlock()
	c.grant()
}

// pause waits until no compaction runs, and lets none begin before open.
// REQUIRES: the map is not wrecked, none of Pebble's locks is held.
func (c *compactor) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.granting = false
	for c.asking || c.running > 0 {
		c.idle.Wait()
	}
}

// stop lets no further compaction begin. It waits for nothing.
func (c *compactor) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
}

// roomLocked reports whether one more compaction may run. REQUIRES: c.mu is held.
func (c *compactor) roomLocked() bool {
	return c.granting && !c.stopped && c.db.GetAllowedWithoutPermission() > c.running
}

// grant starts what waits, as far as there is room. REQUIRES: no lock is held.
func (c *compactor) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.asking {
		c.idle.Wait()
	}
	c.asking = true
	for c.roomLocked() {
		c.mu.Unlock()
		waits, _ := c.db.GetWaitingCompaction()
		begun := waits && c.db.Schedule(c)
		c.mu.Lock()
		if !begun {
			break
		}
		c.running++ // it may have ended: then it was -1 for a moment
	}
	c.asking = false
	c.idle.Broadcast()
}

// HoldCompactions keeps the files of the leaf map as they are, but for flushes,
// until release is called: for tests that damage them. It waits for the compaction
// that runs. One hold at a time; release it before Close.
func (s *Space) HoldCompactions() (release func()) {
	s.compactor.pause()
	return s.compactor.open
}

// Register implements pebble.CompactionScheduler.
func (c *compactor) Register(_ int, db pebble.DBForCompaction) {
	c.mu.Lock()
	c.db = db
	c.mu.Unlock()
}

// Unregister implements pebble.CompactionScheduler.
func (c *compactor) Unregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	for c.asking {
		c.idle.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (c *compactor) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.roomLocked() {
		return false, nil
	}
	c.running++
	return true, c
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler. What is
// allowed is always one (Options.CompactionConcurrencyRange).
func (c *compactor) UpdateGetAllowedWithoutPermission() {}

// Started implements pebble.CompactionGrantHandle.
func (c *compactor) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (c *compactor) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (c *compactor) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle.
func (c *compactor) Done() {
	if c.failed.Swap(false) {
		c.rest()
	}
	c.mu.Lock()
	c.running--
	c.idle.Broadcast()
	c.mu.Unlock()
	c.grant()
}
