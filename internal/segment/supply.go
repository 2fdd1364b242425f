package segment

import (
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// Supply prepares the next segments in the background, from files that are no
// longer needed or from new ones, so that a commit never waits for a rename, a
// directory sync or a growing file.
type Supply struct {
	fs   vfs.FS
	dir  string
	size int64
	keep int

	mu     sync.Mutex // guards what follows; never held across I/O
	work   sync.Cond  // the goroutine waits for something to do
	done   sync.Cond  // Take waits for a file
	free   []*File    // no longer needed; old names, old bytes
	ready  []*File    // prepared, ascending, not yet taken
	next   uint64     // number of the next file to prepare
	wanted uint64     // prepare up to this number
	reused uint64     // files prepared from free ones
	fails  uint64     // failed attempts; lets Take see one that began after it
	err    error      // of the last attempt
	stop   bool

	wg sync.WaitGroup
}

// NewSupply starts a supply whose first file has number first. At most keep
// free files are kept; more are removed.
func NewSupply(fs vfs.FS, dir string, size int64, first uint64, keep int) *Supply {
	s := &Supply{fs: fs, dir: dir, size: size, keep: keep, next: first}
	s.work.L, s.done.L = &s.mu, &s.mu
	s.wg.Add(1)
	go s.run()
	return s
}

// Want asks for files up to number seq, without waiting.
func (s *Supply) Want(seq uint64) {
	s.mu.Lock()
	if seq > s.wanted {
		s.wanted = seq
		s.err = nil
		s.work.Signal()
	}
	s.mu.Unlock()
}

// Take waits for file seq and hands it over. Files are taken in order, without
// gaps.
func (s *Supply) Take(seq uint64) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = max(s.wanted, seq)
	s.err = nil
	s.work.Signal()
	for fails := s.fails; len(s.ready) == 0; s.done.Wait() {
		if s.stop {
			return nil, base.ErrClosed
		}
		if s.fails != fails {
			return nil, s.err
		}
	}
	f := s.ready[0]
	if f.seq != seq {
		return nil, fmt.Errorf("saker: log segment %d taken when %d is next", seq, f.seq)
	}
	s.ready = append(s.ready[:0], s.ready[1:]...)
	return f, nil
}

// Give hands over a file that nobody reads any longer. Its bytes stay as they
// are until it is prepared again.
func (s *Supply) Give(f *File) {
	s.mu.Lock()
	s.free = append(s.free, f)
	s.work.Signal()
	s.mu.Unlock()
}

// Free returns the number of files that wait to be used again.
func (s *Supply) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.free)
}

// Reused returns the number of files that were made of free ones.
func (s *Supply) Reused() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reused
}

// Stop ends the goroutine and closes all files that were not taken.
func (s *Supply) Stop() error {
	s.mu.Lock()
	s.stop = true
	s.work.Signal()
	s.done.Broadcast()
	s.mu.Unlock()
	s.wg.Wait()
	var first error
	for _, f := range append(s.free, s.ready...) {
		if err := f.Close(); err != nil && first == nil {
			first = err
		}
	}
	s.free, s.ready = nil, nil
	return first
}

// run prepares and removes files until Stop.
func (s *Supply) run() {
	defer s.wg.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.stop:
			return
		case s.next <= s.wanted && s.err == nil:
			s.prepareLocked()
		case len(s.free) > s.keep:
			s.removeLocked()
		default:
			s.work.Wait()
		}
	}
}

// prepareLocked makes file s.next. REQUIRES: s.mu is held; it is released
// during I/O.
func (s *Supply) prepareLocked() {
	var old *File
	if n := len(s.free); n > 0 {
		old, s.free = s.free[n-1], s.free[:n-1]
	}
	seq := s.next
	s.mu.Unlock()
	f, err := s.prepare(old, seq)
	s.mu.Lock()
	if err != nil {
		s.err = err
		s.fails++
	} else {
		s.next++
		if old != nil {
			s.reused++
		}
		s.ready = append(s.ready, f)
	}
	s.done.Broadcast()
}

// prepare turns old, or a new file if old is nil, into file seq.
func (s *Supply) prepare(old *File, seq uint64) (f *File, err error) {
	if f = old; f != nil {
		if err = f.OpenForWriting(); err == nil {
			err = f.rename(seq)
		}
	} else {
		f, err = createFile(s.fs, s.dir, seq)
		if err != nil {
			return nil, err
		}
	}
	if err == nil {
		err = f.fill(s.size)
	}
	if err == nil {
		err = SyncDir(s.fs, s.dir)
	}
	if err != nil {
		// The file keeps whatever name it has; the next opening sorts it out.
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// removeLocked removes one free file. A failure is of no consequence: the next
// opening of the log finds the file again. REQUIRES: s.mu is held.
func (s *Supply) removeLocked() {
	f := s.free[0]
	s.free = append(s.free[:0], s.free[1:]...)
	s.mu.Unlock()
	_ = f.remove()
	s.mu.Lock()
}
