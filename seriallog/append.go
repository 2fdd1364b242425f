package seriallog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

var (
	errTooLarge    = errors.New("saker: log: record is too large")
	errNotReserved = errors.New("saker: log: append without reservation")
	errNotWriting  = errors.New("saker: log: not opened for writing")
)

// buffer is what was appended and not yet written, in order: flight, pending,
// active. Guarded by Log.mu.
type buffer struct {
	active  *chunk   // appended to
	pending []*chunk // full
	flight  []*chunk // being written by the leader
	spare   []*chunk // empty, last in first out so that few are touched
	unsent  int64    // cost of active and pending
	prevEnd base.LSN // where the log left the segment before the one just begun; else 0
}

// chunk is the bytes of one block. Only the block header in it is written to
// after the leader took it.
type chunk struct {
	buf     []byte
	start   base.LSN // of buf[0]
	head    int      // where the block begins; before it, the segment header
	prevEnd base.LSN // for the segment header
	cost    int64    // credits to give back when it is written
}

// RecordOverhead returns an upper bound of the bytes that a group adds to its
// body: record header, block header, and those of a switch of segments. Append*
// use up exactly this plus the body; AppendCommit and AppendDDL add their meta,
// see CommitCost and DDLCost.
func RecordOverhead() int {
	return recordHeaderSize + groupMetaSize + segment.HeaderSize +
		2*segment.BlockHeaderSize + endRecordSize
}

// CommitCost returns the bytes that AppendCommit takes out of a reservation.
func CommitCost(c *Commit, body int) int { return RecordOverhead() + commitSize(c) + body }

// DDLCost returns the bytes that AppendDDL takes out of a reservation.
func DDLCost(d *DDL) int { return RecordOverhead() + ddlSize(d) }

// Reserve waits, first come first served, until n more bytes may be buffered.
// The caller must then append records that cost at most n, and Unreserve what
// they did not use. It must hold no lock and no reservation while it waits.
func (l *Log) Reserve(ctx context.Context, n int) error {
	if n < 0 || int64(n) > l.opts.BufferSize {
		return fmt.Errorf("%w: %d bytes reserved of a buffer of %d", errTooLarge, n, l.opts.BufferSize)
	}
	if err := l.credits.take(ctx, int64(n), l.nudge); err != nil {
		return err
	}
	l.reserved.Add(int64(n))
	return nil
}

// Unreserve returns n bytes of a reservation.
func (l *Log) Unreserve(n int) {
	l.reserved.Add(-int64(n))
	l.credits.give(int64(n))
}

// nudge makes the background writer look whether somebody starves.
func (l *Log) nudge() {
	l.mu.Lock()
	l.wake.Signal()
	l.mu.Unlock()
}

// AppendGroupPinned appends rows of a transaction that has not ended. Row i is at
// start plus its offset in body. The group's segment is pinned in the same step, so
// that no checkpoint comes between. Pins count: the caller unpins as often.
func (l *Log) AppendGroupPinned(txn base.TxnID, body []byte) (start base.LSN, err error) {
	if len(body) > l.MaxBody() {
		return 0, fmt.Errorf("%w: group of %d bytes, at most %d", errTooLarge, len(body), l.MaxBody())
	}
	l.mu.Lock()
	c, err := l.beginLocked(recordHeaderSize+groupMetaSize+len(body), RecordOverhead()+len(body))
	if err == nil {
		c.buf = putRecordHeader(c.buf, TypeGroup, groupMetaSize, len(body))
		c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(txn))
		start = c.start + base.LSN(len(c.buf))
		c.buf = append(c.buf, body...)
		l.segs[len(l.segs)-1].pins++
		l.finishLocked(c)
	}
	l.mu.Unlock()
	return start, err
}

// AppendCommit appends a commit record together with the transaction's last
// rows. The commit is durable when Sync(end) has returned nil.
func (l *Log) AppendCommit(c *Commit, body []byte) (end base.LSN, err error) {
	for i := range c.Dead {
		if c.Dead[i].To < c.Dead[i].From {
			return 0, fmt.Errorf("saker: log: dead interval %v ends before it begins", c.Dead[i])
		}
	}
	meta := commitSize(c)
	if len(body) > l.MaxBody() || recordHeaderSize+meta+len(body) > l.maxRecord {
		return 0, fmt.Errorf("%w: commit of %d + %d bytes, at most %d", errTooLarge, meta, len(body), l.maxRecord)
	}
	l.mu.Lock()
	k, err := l.beginLocked(recordHeaderSize+meta+len(body), RecordOverhead()+meta+len(body))
	if err == nil {
		k.buf = putRecordHeader(k.buf, TypeCommit, meta, len(body))
		k.buf = putCommit(k.buf, c)
		k.buf = append(k.buf, body...)
		end = l.finishLocked(k)
	}
	l.mu.Unlock()
	return end, err
}

// AppendDDL appends a change of the set of tables or of a ceiling.
func (l *Log) AppendDDL(d *DDL) (end base.LSN, err error) {
	meta := ddlSize(d)
	if recordHeaderSize+meta > l.maxRecord {
		return 0, fmt.Errorf("%w: DDL of %d bytes", errTooLarge, meta)
	}
	l.mu.Lock()
	c, err := l.beginLocked(recordHeaderSize+meta, RecordOverhead()+meta)
	if err == nil {
		c.buf = putRecordHeader(c.buf, TypeDDL, meta, 0)
		c.buf = putDDL(c.buf, d)
		end = l.finishLocked(c)
	}
	l.mu.Unlock()
	return end, err
}

// beginLocked takes cost out of the reservations and returns the active chunk
// with room for a record of n bytes. REQUIRES: l.mu is held.
func (l *Log) beginLocked(n, cost int) (*chunk, error) {
	if err := l.Err(); err != nil {
		return nil, err
	}
	switch l.state {
	case stateOpened:
		return nil, errNotWriting
	case stateWriting:
	case stateClosing, stateClosed:
		return nil, base.ErrClosed
	}
	if l.reserved.Add(-int64(cost)) < 0 {
		l.reserved.Add(int64(cost))
		return nil, errNotReserved
	}
	b := &l.buffer
	if b.active != nil && len(b.active.buf)+n > cap(b.active.buf) {
		b.pending = append(b.pending, b.active)
		b.active = nil
	}
	need := int64(n)
	if b.active == nil {
		need += segment.BlockHeaderSize
	}
	if end := l.End(); l.offset(end)+need > l.size-segmentSlack {
		l.switchSegmentLocked()
	}
	if b.active == nil {
		l.openChunkLocked()
	}
	b.active.cost += int64(cost)
	b.unsent += int64(cost)
	return b.active, nil
}

// finishLocked accounts for the record that was put at the end of c and returns
// the new end of the log. REQUIRES: l.mu is held.
func (l *Log) finishLocked(c *chunk) base.LSN {
	end := c.start + base.LSN(len(c.buf))
	n := int64(end - l.End())
	l.end.Store(uint64(end))
	l.since.Add(n)
	l.stats.appended += uint64(n)
	l.segs[len(l.segs)-1].used = l.offset(end)
	if l.starvedLocked() && !l.group.busy {
		l.wake.Signal()
	}
	return end
}

// starvedLocked reports whether bytes should be written although nobody wants
// them synced. REQUIRES: l.mu is held.
func (l *Log) starvedLocked() bool {
	return l.buffer.unsent > l.opts.BufferSize/2 || l.buffer.unsent > 0 && l.credits.waiting.Load() > 0
}

// openChunkLocked makes an empty chunk active, beginning at the end of the log.
// REQUIRES: l.mu is held.
func (l *Log) openChunkLocked() {
	b := &l.buffer
	var c *chunk
	if n := len(b.spare); n > 0 {
		c, b.spare = b.spare[n-1], b.spare[:n-1]
	} else {
		c = &chunk{buf: make([]byte, 0, segment.HeaderSize+segment.BlockHeaderSize+l.maxRecord)}
	}
	*c = chunk{buf: c.buf[:0], start: l.End()}
	if b.prevEnd != 0 {
		// First block of a segment: the segment header goes along with it.
		c.start -= segment.HeaderSize
		c.head = segment.HeaderSize
		c.prevEnd = b.prevEnd
		b.prevEnd = 0
	}
	c.buf = c.buf[:c.head+segment.BlockHeaderSize]
	b.active = c
}

// switchSegmentLocked ends the last segment and begins the next one.
// REQUIRES: l.mu is held.
func (l *Log) switchSegmentLocked() {
	seq := l.segs[len(l.segs)-1].seq + 1
	l.endSegmentLocked(seq)
	l.buffer.prevEnd = l.End()
	l.segs = append(l.segs, &seg{seq: seq, used: segment.HeaderSize})
	l.end.Store(uint64(l.position(seq, segment.HeaderSize)))
	l.supply.Want(seq + 1)
}

// endSegmentLocked appends the record that closes the last segment. There is
// always room for it, see segmentSlack. REQUIRES: l.mu is held.
func (l *Log) endSegmentLocked(next uint64) {
	b := &l.buffer
	if b.active != nil {
		// The end record is a block by itself, so that the next opening can
		// write it again, naming another successor, and rewrites nothing else.
		b.pending = append(b.pending, b.active)
	}
	l.openChunkLocked()
	c := b.active
	c.buf = putRecordHeader(c.buf, typeEnd, 8, 0)
	c.buf = binary.LittleEndian.AppendUint64(c.buf, next)
	l.finishLocked(c)
	b.pending = append(b.pending, c)
	b.active = nil
}
