package seriallog

import (
	"fmt"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// Read appends the n bytes at lsn to dst, from the buffer or from the file. The
// caller knows that they are rows, keeps their segment pinned, and verifies
// them with DecodeRow.
func (l *Log) Read(lsn base.LSN, n int, dst []byte) ([]byte, error) {
	l.mu.Lock()
	if l.state == stateClosed {
		l.mu.Unlock()
		return dst, base.ErrClosed
	}
	if c := l.buffer.find(lsn, n); c != nil {
		off := int(lsn - c.start)
		dst = append(dst, c.buf[off:off+n]...)
		l.mu.Unlock()
		return dst, nil
	}
	s, off := l.segLocked(l.SegmentOf(lsn)), l.offset(lsn)
	if n < 0 || s == nil || s.file == nil || off < segment.HeaderSize || off+int64(n) > s.used {
		l.mu.Unlock()
		return dst, fmt.Errorf("saker: log: no record holds the %d bytes at position %d", n, lsn)
	}
	s.readers++
	l.reading++
	f := s.file
	l.mu.Unlock()

	at := len(dst)
	dst = slices.Grow(dst, n)[:at+n]
	got, err := f.ReadAt(dst[at:], off)
	if err == nil && got < n {
		err = l.corruption(s.seq, off, "segment is cut off")
	}

	l.mu.Lock()
	s.readers--
	l.reading--
	if s.readers == 0 {
		l.reuseLocked()
	}
	if l.state == stateClosing && l.reading == 0 {
		l.quiet.Broadcast()
	}
	l.mu.Unlock()
	if err != nil {
		return dst[:at], err
	}
	return dst, nil
}

// find returns the chunk that holds all n bytes at lsn.
func (b *buffer) find(lsn base.LSN, n int) *chunk {
	if b.active.holds(lsn, n) {
		return b.active
	}
	for _, c := range b.pending {
		if c.holds(lsn, n) {
			return c
		}
	}
	for _, c := range b.flight {
		if c.holds(lsn, n) {
			return c
		}
	}
	return nil
}

// holds reports whether the n bytes at lsn are record bytes in the chunk.
func (c *chunk) holds(lsn base.LSN, n int) bool {
	return c != nil && n >= 0 &&
		lsn >= c.start+base.LSN(c.head+segment.BlockHeaderSize) && lsn+base.LSN(n) <= c.start+base.LSN(len(c.buf))
}
