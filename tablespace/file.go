package tablespace

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// ErrRunNotFound is returned when no file of that run exists any more: it was
// dropped, or unlinked because nothing listed it, or a crash lost it before
// anything durable relied on it.
var ErrRunNotFound = errors.New("saker: run not found")

// pushBytes is how much of a run is written before the medium is told to start
// on it, so that the sync of a long run finds most of the work done.
const pushBytes = 8 << 20

const runSuffix = ".run"

func (s *Space) runPath(id base.RunID) string {
	return s.o.FS.PathJoin(s.runDir, fmt.Sprintf("%016x%s", uint64(id), runSuffix))
}

// parseRunName returns the id in the name of a run file.
func parseRunName(name string) (base.RunID, bool) {
	hex, ok := strings.CutSuffix(name, runSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(hex, 16, 64)
	return base.RunID(id), err == nil
}

// drain writes closed chunks in order, and the open one too if partial is set.
// REQUIRES: r.ioMu is held.
func (r *Run) drain(partial bool) error {
	for {
		r.mu.Lock()
		if len(r.chunks) == 0 || r.done || r.refs.Load()&gone != 0 {
			r.mu.Unlock()
			return nil
		}
		c := r.chunks[0]
		if !c.closed {
			if !partial {
				r.mu.Unlock()
				return nil
			}
			c.closed = true
		}
		f := r.file
		r.mu.Unlock()
		if f == nil {
			var err error
			if f, err = r.create(); err != nil {
				return err
			}
		}
		if err := r.writeChunk(f, c); err != nil {
			return err
		}
	}
}

// create makes the file. REQUIRES: r.ioMu is held.
func (r *Run) create() (vfs.File, error) {
	f, err := r.s.fence.Create(r.s.runPath(r.id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("saker: create run: %w", err)
	}
	r.mu.Lock()
	r.file = f
	r.mu.Unlock()
	return f, nil
}

// writeChunk writes the first chunk and takes it off the list. REQUIRES: r.ioMu
// is held and c is closed.
func (r *Run) writeChunk(f vfs.File, c *chunk) error {
	for _, m := range c.marks {
		versionchain.SealFrame(c.buf[m.start:m.end], r.id, c.off+uint64(m.start))
	}
	if err := r.s.writeOut(f, c.buf); err != nil {
		return fmt.Errorf("saker: write run: %w", err)
	}
	end := c.end()
	r.mu.Lock()
	// Published first: who does not find the offset in a chunk reads the file.
	r.written.Store(end)
	r.chunks[0] = nil
	r.chunks = r.chunks[1:]
	if len(r.chunks) == 0 {
		r.chunks = nil
		r.s.markClean(r)
	}
	r.mu.Unlock()
	r.s.bytesWritten.Add(uint64(len(c.buf)))
	charged := c.charged
	r.s.pool.put(c)
	r.s.bytes.release(charged)
	if end-r.pushed >= pushBytes {
		r.pushed = end
		if _, err := f.SyncTo(int64(end)); err != nil {
			return fmt.Errorf("saker: write run: %w", err)
		}
	}
	return nil
}

// writeOut writes b, which readers may be copying from at the same time. A vfs
// may scribble on what it is given to write, so that all but the plain
// operating system get a copy.
func (s *Space) writeOut(f vfs.File, b []byte) error {
	if s.o.FS == vfs.Default {
		_, err := f.Write(b)
		return err
	}
	piece := make([]byte, min(len(b), chunkSizes[len(chunkSizes)-1]))
	for len(b) > 0 {
		n := copy(piece, b)
		if _, err := f.Write(piece[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Sync returns when everything added to the run before the call is on stable
// storage, its directory entry included. Calls at the same time share one sync.
// A run of an earlier life is synced too, once: recovery must do so before it
// relies on one that a commit record names (L1). Fails with ErrRunNotFound if
// the run is gone: it was dropped, or nothing lists what was in it.
func (r *Run) Sync() error {
	target := r.size.Load()
	if r.synced.Load() >= target {
		return nil
	}
	if err := r.s.writable(); err != nil {
		return err
	}
	if !r.Acquire() {
		return ErrRunNotFound
	}
	defer r.Release()
	defer r.handBack()
	r.ioMu.Lock()
	defer r.ioMu.Unlock()
	if r.synced.Load() >= target {
		return nil
	}
	if err := r.drain(true); err != nil {
		return err
	}
	r.mu.Lock()
	f, n := r.file, r.written.Load()
	r.mu.Unlock()
	if n < target {
		return ErrRunNotFound // dropped meanwhile
	}
	if f == nil { // of an earlier life
		var err error
		if f, err = r.readable(); err != nil {
			return err
		}
	}
	if err := r.s.p.check(f.SyncData()); err != nil {
		return fmt.Errorf("saker: sync run: %w", err)
	}
	if !r.dirSynced {
		if err := r.s.syncRunDir(); err != nil {
			return err
		}
		r.dirSynced = true
	}
	r.s.syncs.Add(1)
	r.synced.Store(n)
	return nil
}

// handBack gives the flusher what became ready while it passed this run by.
func (r *Run) handBack() {
	r.mu.Lock()
	if len(r.chunks) > 0 && r.chunks[0].closed && r.refs.Load()&gone == 0 {
		r.s.markReady(r)
	}
	r.mu.Unlock()
}

func (s *Space) syncRunDir() error {
	s.dirMu.Lock()
	defer s.dirMu.Unlock()
	if err := s.dir.Sync(); err != nil {
		return fmt.Errorf("saker: sync run directory: %w", err)
	}
	return nil
}

// readable returns the file for reading, opening it at the first use.
// REQUIRES: the caller holds a reference.
func (r *Run) readable() (vfs.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readableLocked()
}

func (r *Run) readableLocked() (vfs.File, error) {
	if r.file != nil {
		return r.file, nil
	}
	path := r.s.runPath(r.id)
	f, err := r.s.o.FS.Open(path)
	if oserror.IsNotExist(err) {
		// Whoever unlinks a run opens it before, for those who hold a reference.
		return nil, &base.CorruptionError{File: path, Why: "the file of a run is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("saker: open run: %w", err)
	}
	var h [runHeaderSize]byte
	if _, err := f.ReadAt(h[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("saker: read run: %w", err), f.Close())
	}
	id, _, why := parseRunHeader(h[:])
	if why == "" && id != r.id {
		why = "run header names another run"
	}
	if why != "" {
		_ = f.Close()
		return nil, &base.CorruptionError{File: path, Why: why}
	}
	r.file = f
	return f, nil
}
