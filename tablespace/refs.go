package tablespace

import (
	"github.com/sakerdb/saker/internal/base"
)

// Find returns the run, or nil if it has no file any more.
func (s *Space) Find(id base.RunID) *Run {
	s.regMu.RLock()
	r := s.runs[id]
	s.regMu.RUnlock()
	if r == nil || r.refs.Load()&gone != 0 {
		return nil
	}
	return r
}

// Named reports whether the run has a file, or an entry lists it that has not.
func (s *Space) Named(id base.RunID) bool {
	r := s.known(id)
	return r != nil && (r.refs.Load()&gone == 0 || r.listed.Load() != 0 || r.applied.Load() != 0)
}

// known returns the run even if its file is gone.
func (s *Space) known(id base.RunID) *Run {
	s.regMu.RLock()
	r := s.runs[id]
	s.regMu.RUnlock()
	return r
}

// Acquire takes a reference to the run: until it is released the frames of the
// run stay readable, whatever is unlinked. It reports false if the run is gone.
func (s *Space) Acquire(id base.RunID) bool {
	r := s.known(id)
	return r != nil && r.Acquire()
}

// Release gives back a reference taken with Acquire.
func (s *Space) Release(id base.RunID) {
	if r := s.known(id); r != nil {
		r.Release()
	}
}

// Acquire is Space.Acquire for a run at hand.
func (r *Run) Acquire() bool {
	for {
		v := r.refs.Load()
		if v&gone != 0 {
			return false
		}
		if r.refs.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// Release is Space.Release for a run at hand.
func (r *Run) Release() {
	if r.refs.Add(-1) == gone {
		r.finish()
	}
}

// doom unlinks the file. Those who hold references go on reading. A file that
// cannot be removed is left to the next opening.
func (r *Run) doom() {
	if !r.Acquire() {
		return
	}
	defer r.Release()
	r.mu.Lock()
	if r.refs.Or(gone)&gone != 0 {
		r.mu.Unlock()
		return // another was faster
	}
	r.s.runBytes.Add(-r.Size())
	r.s.markClean(r) // what it holds is not written any more
	// The room that it takes in the buffer is given back now: a holder of the run
	// may be the one who waits for room.
	var charged int64
	for _, c := range r.chunks {
		charged += c.charged
		c.charged = 0
	}
	r.s.bytes.release(charged)
	exists := r.found || r.written.Load() > 0 || r.file != nil
	if exists {
		// Readers need it open; who cannot open it could not read it either.
		_, _ = r.readableLocked()
	}
	r.mu.Unlock()
	r.ioMu.Lock() // the flusher may be creating the file
	defer r.ioMu.Unlock()
	r.mu.Lock()
	exists = exists || r.file != nil
	r.mu.Unlock()
	if !exists {
		return
	}
	if err := r.s.fence.Remove(r.s.runPath(r.id)); err != nil {
		// It costs space and no data, and what removes the run has been done: the
		// next opening finds a file that nothing lists.
		r.s.unlinkFailed.Add(1)
		return
	}
	r.s.unlinked.Add(1)
}

// finish frees what a run without a file and without references still holds.
func (r *Run) finish() {
	r.mu.Lock()
	if r.done {
		r.mu.Unlock()
		return
	}
	r.done = true
	chunks, f := r.chunks, r.file
	r.chunks, r.pending, r.file = nil, nil, nil
	r.s.markClean(r)
	r.mu.Unlock()
	var charged int64
	for _, c := range chunks {
		charged += c.charged
		r.s.pool.put(c)
	}
	r.s.bytes.release(charged)
	if f != nil {
		_ = f.Close() // nothing of it is needed any more
	}
	r.s.forget(r)
}

// forget takes a run off the registry when neither file nor list entries remain.
func (s *Space) forget(r *Run) {
	r.mu.Lock()
	done := r.done
	r.mu.Unlock()
	if !done {
		return
	}
	s.regMu.Lock()
	if r.listed.Load() == 0 && r.applied.Load() == 0 {
		delete(s.runs, r.id)
	}
	s.regMu.Unlock()
}

// DropRun unlinks a run whose owner never committed. Its list entries stay
// until edits remove them: the caller knows them by their owner. If unlinking
// is held (holdUnlink), it happens when that ends.
func (s *Space) DropRun(id base.RunID) error {
	r := s.known(id)
	if r == nil {
		return nil
	}
	r.sealed.Store(true)
	s.unlink(r)
	return nil
}

// holdUnlink keeps every run file in place until release is called; for hot
// backup. Holds nest.
func (s *Space) holdUnlink() (release func() error) {
	s.holdMu.Lock()
	s.holds++
	s.holdMu.Unlock()
	return s.releaseUnlink
}

func (s *Space) releaseUnlink() error {
	s.holdMu.Lock()
	s.holds--
	var todo []*Run
	if s.holds == 0 {
		todo, s.held = s.held, nil
	}
	s.holdMu.Unlock()
	for _, r := range todo {
		r.doom()
	}
	return nil
}

// unlink dooms the run, now or when the last hold ends.
func (s *Space) unlink(r *Run) {
	s.holdMu.Lock()
	if s.holds > 0 {
		s.held = append(s.held, r)
		s.holdMu.Unlock()
		return
	}
	s.holdMu.Unlock()
	r.doom()
}
