package seriallog

import (
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// checker is the state of one Check.
type checker struct {
	l      *Log
	report func(error)
	buf    []byte
	last   base.CommitTS // of the commit record or change of the catalog before
	prev   *part         // the segment before
	next   uint64        // which it names, if it has an end record
	end    base.LSN      // where it ends
}

// Check reads every segment that somebody needs, up to the position synced now, and
// reports all that it finds: headers, the chain of segments, the checksum and
// place of each block, records, rows, and the order of timestamps (L2). It goes
// on behind damage. What is appended meanwhile is not its business; segments are
// not reused while it runs. Left out are those from before the checkpoint position
// that nobody pins: a crash may have come while such a file was written anew, under
// a new name that the crash took back. The error is that of ctx.
func (l *Log) Check(ctx context.Context, report func(error)) error {
	l.HoldReuse()
	defer l.ReleaseReuse()
	synced := l.Synced()
	parts, err := l.parts(synced)
	if err != nil {
		return err
	}
	c := &checker{l: l, report: report}
	for i := range parts {
		if !parts[i].kept {
			continue
		}
		if err := c.segment(ctx, &parts[i], i == len(parts)-1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) corrupt(p *part, off int64, format string, args ...any) {
	c.report(c.l.corruption(p.seq, off, fmt.Sprintf(format, args...)))
}

// header checks the header of a segment and returns what is to be believed.
func (c *checker) header(p *part) segment.Header {
	l := c.l
	h, ok, err := p.file.ReadHeader()
	switch {
	case err != nil: // what it says is not known, and the blocks will tell
		c.report(err)
		h = segment.Header{Seq: p.seq, Incarnation: p.inc}
	case !ok:
		c.corrupt(p, 0, "no segment header of its own")
		h = segment.Header{Seq: p.seq, Incarnation: p.inc}
	case h.Size != l.size:
		c.corrupt(p, 24, "segment size %d, expected %d", h.Size, l.size)
	case h.Incarnation != p.inc:
		c.corrupt(p, 12, "segment of incarnation %d, expected %d", h.Incarnation, p.inc)
		h.Incarnation = p.inc
	case c.prev != nil && c.next == p.seq && h.PrevEnd != c.end:
		c.corrupt(p, 32, "follows position %d, but the segment before ends at %d", h.PrevEnd, c.end)
	case h.Synced > l.position(p.seq, 0):
		c.corrupt(p, 40, "written when position %d was synced, which lies in it", h.Synced)
	}
	if c.prev != nil && c.next > p.seq {
		c.corrupt(p, 0, "segment %d names %d as the next one", c.prev.seq, c.next)
	}
	h.Size = l.size
	return h
}

// segment checks one segment.
func (c *checker) segment(ctx context.Context, p *part, last bool) error {
	h := c.header(p)
	r := segment.NewReader(segmentSource{p.file}, &h, c.buf)
	defer func() { c.buf = r.Buffer() }()
	c.prev, c.next = p, 0
	damaged := false
	for ended := false; !ended && r.Off() < p.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := r.Off()
		b, ok, err := r.Next()
		if err != nil {
			c.report(err)
			return nil
		}
		if !ok || r.Off() > p.end {
			damaged = true
			c.corrupt(p, at, "damaged block")
			if ok, err = r.Skip(p.end); err != nil {
				c.report(err)
			}
			if !ok {
				break
			}
			continue
		}
		if b.Synced > c.l.position(p.seq, at) {
			c.corrupt(p, at, "block written when position %d was synced, which lies behind it", b.Synced)
		}
		ended = c.block(p, &b)
	}
	c.end = c.l.position(p.seq, r.Off())
	if c.next == 0 && !last && !damaged {
		c.corrupt(p, r.Off(), "segment has no end record")
	}
	return nil
}

// block checks the records of a block; ended says that it is the last one.
func (c *checker) block(p *part, b *segment.Block) (ended bool) {
	for rest := b.Payload; len(rest) > 0; {
		off := b.Off + int64(len(b.Payload)-len(rest))
		rec, n, next, ok := parseRecord(rest)
		if !ok {
			c.corrupt(p, off, "bad record in an intact block")
			return false
		}
		rest = rest[n:]
		switch rec.Type {
		case typeEnd:
			c.next = next
			return true
		case TypeCommit:
			c.order(p, off, rec.Commit.TS)
		case TypeDDL:
			c.order(p, off, rec.DDL.TS)
		default:
		}
		at := off + int64(n-len(rec.Body))
		for body := rec.Body; len(body) > 0; {
			row, n, err := DecodeRow(body)
			if err != nil {
				c.corrupt(p, at, "%s", why(err))
				break
			}
			if row.Table != 0 && (len(row.Key) == 0 || len(row.Key) > base.MaxKeySize || len(row.Value) > base.MaxValueSize) {
				c.corrupt(p, at, "row with a key of %d and a value of %d bytes", len(row.Key), len(row.Value))
			}
			body, at = body[n:], at+int64(n)
		}
	}
	return false
}

// order checks that timestamps rise with positions (L2).
func (c *checker) order(p *part, off int64, ts base.CommitTS) {
	if ts <= c.last {
		c.corrupt(p, off, "L2: timestamp %d behind %d", ts, c.last)
	}
	c.last = max(c.last, ts)
}

// why returns what a CorruptionError says, without the place.
func why(err error) string {
	if ce, ok := errors.AsType[*base.CorruptionError](err); ok {
		return ce.Why
	}
	return err.Error()
}
