package seriallog

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// copyBytes is how much of a segment is copied between two looks at the context.
const copyBytes = 1 << 20

// part is what of a segment belongs to the log below some position.
type part struct {
	seq  uint64
	file *segment.File
	inc  uint32 // the incarnation that wrote it
	end  int64  // of the bytes below the position
	kept bool   // recovery or a reader needs it
}

// parts returns the segments of the log below upto, in order. What they say is
// good for as long as reuse is held. REQUIRES: upto is synced.
func (l *Log) parts(upto base.LSN) ([]part, error) {
	if upto > l.Synced() {
		return nil, fmt.Errorf("saker: log: position %d is not synced", upto)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.SegmentOf(upto)
	var out []part
	for _, s := range l.segs {
		if s.seq > last || s.file == nil {
			continue
		}
		p := part{seq: s.seq, file: s.file, inc: s.header.Incarnation, end: s.used}
		p.kept = s.seq >= l.SegmentOf(l.ckpt) || s.pins > 0 || s.readers > 0
		if p.inc == 0 {
			p.inc = l.opts.Incarnation // begun by this opening, not read
		}
		if s.seq == last {
			p.end = l.offset(upto)
		}
		out = append(out, p)
	}
	return out, nil
}

// CopyTo writes the log below upto into dir, an existing directory, and syncs
// the files but not the directory. What Replay makes of the copy ends at upto:
// nothing behind it is copied, so that bytes that are being written now cannot
// look like damage (L4). ctx ends it between two pieces.
//
// REQUIRES: reuse is held (HoldReuse) since before the checkpoint position that
// the copy will be replayed from was read; upto is a value of Synced.
func (l *Log) CopyTo(ctx context.Context, fs vfs.FS, dir string, upto base.LSN) error {
	parts, err := l.parts(upto)
	if err != nil {
		return err
	}
	buf := make([]byte, copyBytes)
	for i := range parts {
		if err := l.copyPart(ctx, fs, dir, &parts[i], buf); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) copyPart(ctx context.Context, fs vfs.FS, dir string, p *part, buf []byte) (err error) {
	f, err := fs.Create(fs.PathJoin(dir, segment.Name(p.seq)), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("saker: copy log segment: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for off := int64(0); off < p.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(p.end-off, int64(len(buf)))]
		n, err := p.file.ReadAt(b, off)
		if err != nil {
			return err
		}
		if n < len(b) {
			return l.corruption(p.seq, off+int64(n), "segment is cut off")
		}
		if _, err := f.Write(b); err != nil {
			return fmt.Errorf("saker: copy log segment: %w", err)
		}
		off += int64(n)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("saker: copy log segment: %w", err)
	}
	return nil
}
