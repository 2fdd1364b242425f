package tablespace

import "context"

// ReserveBuffer waits until n bytes of frames may be added to runs. The caller
// must then add at most n bytes, or give back the rest with UnreserveBuffer.
// REQUIRES: no lock is held (M7).
func (s *Space) ReserveBuffer(ctx context.Context, n int) error {
	if err := s.p.get(); err != nil {
		return err
	}
	return s.bytes.acquire(ctx, int64(n))
}

// UnreserveBuffer gives back room that was reserved and not used.
func (s *Space) UnreserveBuffer(n int) { s.bytes.release(int64(n)) }

// OverdrawBuffer takes room for n bytes that were added though nobody had reserved
// them: what is added gives its room back when it is written, and would make the
// buffer larger for ever.
func (s *Space) OverdrawBuffer(n int) { s.bytes.force(int64(n)) }

// markDirty says that the run has bytes that are not written. Called with r.mu held.
func (s *Space) markDirty(r *Run) {
	s.bufMu.Lock()
	s.dirty[r] = struct{}{}
	s.bufMu.Unlock()
	s.bufCond.Signal() // somebody may wait for just these bytes to be written
}

// markClean says that it has none. Called with r.mu held.
func (s *Space) markClean(r *Run) {
	s.bufMu.Lock()
	delete(s.dirty, r)
	s.bufMu.Unlock()
}

// markReady says that the run has a closed chunk. Called with r.mu held.
func (s *Space) markReady(r *Run) {
	s.bufMu.Lock()
	if !r.queued {
		r.queued = true
		s.ready = append(s.ready, r)
	}
	s.bufMu.Unlock()
	s.bufCond.Signal()
}

// kickFlusher makes the flusher look again.
func (s *Space) kickFlusher() {
	s.bufMu.Lock() // or the signal could fall between its look and its sleep
	s.bufCond.Signal()
	s.bufMu.Unlock()
}

// flushLoop is the flusher goroutine: it computes checksums and writes, so that
// whoever adds frames does neither. When somebody waits for buffer room it
// writes partly filled chunks too, or thousand idle runs could hold all of it.
func (s *Space) flushLoop() {
	defer s.wg.Done()
	var work []*Run
	for {
		var partial, ok bool
		if work, partial, ok = s.nextWork(work[:0]); !ok {
			return
		}
		s.flushRuns(work, partial)
		clear(work)
	}
}

// nextWork waits for runs to write; partial says that open chunks count too.
func (s *Space) nextWork(work []*Run) (_ []*Run, partial, ok bool) {
	s.bufMu.Lock()
	defer s.bufMu.Unlock()
	for {
		if s.closing {
			return work, false, false
		}
		if s.p.get() == nil {
			if len(s.ready) > 0 {
				work = append(work, s.ready...)
				clear(s.ready)
				s.ready = s.ready[:0]
				for _, r := range work {
					r.queued = false
				}
				return work, false, true
			}
			if len(s.dirty) > 0 && s.bytes.waiting() {
				for r := range s.dirty {
					work = append(work, r)
				}
				return work, true, true
			}
		}
		s.bufCond.Wait()
	}
}

// flushRuns writes what the runs hold. A run that somebody syncs at the moment
// is passed by: who syncs it writes its chunks as well, and hands back what
// came later.
func (s *Space) flushRuns(work []*Run, partial bool) {
	passed := 0
	for _, r := range work {
		if !r.ioMu.TryLock() {
			work[passed] = r
			passed++
			continue
		}
		_ = r.drain(partial) // a failure has shut the fence
		r.ioMu.Unlock()
	}
	if !partial {
		return
	}
	for _, r := range work[:passed] {
		r.ioMu.Lock()
		_ = r.drain(true)
		r.ioMu.Unlock()
	}
}
