package tablespace

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// ReadFrame appends the frame at a to dst. It comes from the buffer while it is
// not written, without a checksum; what comes from the file is verified.
// REQUIRES: the caller holds a reference to the run.
func (s *Space) ReadFrame(a Addr, dst []byte) ([]byte, error) {
	r := s.known(a.Run)
	if r == nil {
		return dst, fmt.Errorf("saker: read frame of run %x: %w", uint64(a.Run), ErrRunNotFound)
	}
	return r.ReadFrame(a, dst)
}

// ReadFrame is Space.ReadFrame for a run at hand.
func (r *Run) ReadFrame(a Addr, dst []byte) ([]byte, error) {
	n := len(dst)
	dst, fromFile, err := r.read(a.Off, int(a.Len), frameCRC, dst)
	if err != nil {
		return dst, err
	}
	if fromFile {
		if err := versionchain.CheckFrame(dst[n:], r.id, a.Off); err != nil {
			why := err.Error()
			if ce := (*base.CorruptionError)(nil); errors.As(err, &ce) {
				why = ce.Why
			}
			return dst[:n], &base.CorruptionError{File: r.s.runPath(r.id), Offset: int64(a.Off), Why: why}
		}
	}
	return dst, nil
}

// A frame's checksum: its first four bytes are its length, the next its crc.
// In the buffer a frame has no checksum, and reads as zero there.
type crcBytes struct{ from, to int }

var (
	frameCRC = crcBytes{4, 8}
	noCRC    = crcBytes{}
)

// read appends n bytes at off, which lie within one frame or index block.
func (r *Run) read(off uint64, n int, crc crcBytes, dst []byte) (_ []byte, fromFile bool, _ error) {
	if end := off + uint64(n); end < off || end > r.size.Load() || off < runHeaderSize {
		return dst, false, &base.CorruptionError{File: r.s.runPath(r.id), Offset: int64(off), Why: "address outside of the run"}
	}
	if off+uint64(n) > r.written.Load() {
		if dst, ok := r.readChunk(off, n, crc, dst); ok {
			return dst, false, nil
		}
		// It was written meanwhile.
		if off+uint64(n) > r.written.Load() {
			return dst, false, fmt.Errorf("saker: read run %x: %w", uint64(r.id), ErrRunNotFound)
		}
	}
	f, err := r.readable()
	if err != nil {
		return dst, false, err
	}
	have := len(dst)
	dst = slices.Grow(dst, n)[:have+n]
	if _, err := f.ReadAt(dst[have:], int64(off)); err != nil {
		if errors.Is(err, io.EOF) {
			err = &base.CorruptionError{File: r.s.runPath(r.id), Offset: int64(off), Why: "run file ends within a frame"}
		} else {
			err = fmt.Errorf("saker: read run: %w", err)
		}
		return dst[:have], false, err
	}
	return dst, true, nil
}

// readChunk copies from the buffer, if the bytes are still there.
func (r *Run) readChunk(off uint64, n int, crc crcBytes, dst []byte) ([]byte, bool) {
	r.mu.Lock()
	i := sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i].end() > off })
	if i == len(r.chunks) || off < r.chunks[i].off || off+uint64(n) > r.chunks[i].end() {
		r.mu.Unlock()
		return dst, false
	}
	c := r.chunks[i]
	at := int(off - c.off)
	src := c.buf[at : at+n : at+n]
	c.readers.Add(1)
	r.mu.Unlock()
	// The run's mu is not held here: whoever adds a frame holds a leaf lock, and
	// a large frame takes a while.
	if n < crc.to {
		crc = noCRC
	}
	dst = append(dst, src[:crc.from]...)
	dst = append(dst, zeros[:crc.to-crc.from]...)
	dst = append(dst, src[crc.to:]...)
	c.readers.Add(-1)
	return dst, true
}

var zeros [4]byte
