package seriallog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// How the end of the log is found
//
// The chain begins in the segment of the checkpoint position, or in the one
// that has no predecessor, and goes block by block. A segment that was left has
// an end record naming its successor, whose header must say the same position.
// Where the chain breaks is the end of the log, unless any block behind it, in
// this or a later segment, knew of a later position as synced: then bytes that
// were on stable storage are gone, and that is corruption (L4).
//
//	… block block ✗ block(synced ≤ ✗)     end of the log: never synced
//	… block block ✗ block(synced > ✗)     corruption at ✗
//
// Segments behind the end are stale. StartWriting puts an end record naming the
// new segment over the break, so that the same bytes end the same way when read
// again, and hands stale segments to the supply.

// recovery is what Open and Replay found. Not guarded: used before writing.
type recovery struct {
	maxSeq   uint64          // greatest number in a file name
	maxInc   uint32          // greatest incarnation in a header
	unused   []*segment.File // files without a header of their own
	replayed bool
	walked   []*seg // the chain, in order
	tail     int64  // offset in the last of walked where its end record goes
}

var (
	errReplayFirst = errors.New("saker: log: replay a log that is not empty before writing")
	errReplayLate  = errors.New("saker: log: replay after writing began")
)

// walk is what one segment came to.
type walk struct {
	end   int64  // of the last intact block
	tail  int64  // same, without that of the end record
	ended bool   // an end record was found
	next  uint64 // which it names
}

// Replay calls fn for every record that starts at or after from, in log order.
// from is the end of a record, or zero for the whole log. Nothing that it
// delivers is durable before StartWriting.
func (l *Log) Replay(from base.LSN, fn func(rec Record) error) error {
	if l.state != stateOpened {
		return errReplayLate
	}
	rc := &l.recovery
	rc.walked, rc.replayed = rc.walked[:0], false
	s, err := l.firstSeg(from)
	if err != nil || s == nil {
		rc.replayed = err == nil
		return err
	}
	var buf []byte
	for {
		w, scratch, err := l.walkSegment(s, from, 0, buf, fn)
		if err != nil {
			return err
		}
		buf = scratch
		rc.walked = append(rc.walked, s)
		rc.tail, s.used = w.tail, w.end
		end := l.position(s.seq, w.end)
		if next := l.segLocked(w.next); w.ended && next != nil && next.seq > s.seq && next.header.PrevEnd == end {
			s = next
			continue
		}
		if err := l.checkEnd(s, w.end, buf); err != nil {
			return err
		}
		if from > end {
			return l.corruption(s.seq, w.end, fmt.Sprintf("log ends before the checkpoint position %d", from))
		}
		break
	}
	rc.replayed = true
	l.ckpt = from
	return nil
}

// firstSeg returns the segment in which the chain begins, nil if there is none.
func (l *Log) firstSeg(from base.LSN) (*seg, error) {
	if from > 0 {
		if s := l.segLocked(l.SegmentOf(from)); s != nil {
			return s, nil
		}
		return nil, l.corruption(l.SegmentOf(from), 0, "segment of the checkpoint position is missing or has no header")
	}
	for _, s := range l.segs {
		if s.header.PrevEnd == 0 {
			return s, nil
		}
	}
	if len(l.segs) > 0 {
		return nil, l.corruption(l.segs[0].seq, 32, "the beginning of the log is missing")
	}
	return nil, l.checkEmpty()
}

// checkEmpty makes sure that a log without any header is one without any block:
// the header of the first segment is synced before a block follows it.
func (l *Log) checkEmpty() error {
	var incs []uint32
	for inc := l.opts.Incarnation; inc > 0 && len(incs) < maxHunted; inc-- {
		incs = append(incs, inc)
	}
	for _, f := range l.recovery.unused {
		synced, err := l.huntFile(f, &segment.Header{Seq: f.Seq(), Size: l.size}, segment.HeaderSize, incs, nil)
		if err != nil {
			return err
		}
		if synced > 0 {
			return l.corruption(f.Seq(), 0, "blocks follow a header that is damaged")
		}
	}
	return nil
}

// maxHunted is in how many incarnations a segment without header may have been
// written; openings that fail count too.
const maxHunted = 1024

// ReplaySegments calls fn for every record in the named segments that starts
// below upto, in log order: for groups of long transactions from before the
// checkpoint position.
func (l *Log) ReplaySegments(segs []uint64, upto base.LSN, fn func(rec Record) error) error {
	if l.state != stateOpened {
		return errReplayLate
	}
	segs = slices.Clone(segs)
	slices.Sort(segs)
	var buf []byte
	for _, seq := range slices.Compact(segs) {
		s := l.segLocked(seq)
		if s == nil {
			return l.corruption(seq, 0, "segment with groups of a transaction is missing or has no header")
		}
		w, scratch, err := l.walkSegment(s, 0, upto, buf, fn)
		if err != nil {
			return err
		}
		buf = scratch
		// Every segment but the last of the log was closed by an end record.
		if last := l.recovery.walked; !w.ended && (len(last) == 0 || last[len(last)-1] != s) &&
			l.position(seq, w.end) < upto {
			return l.corruption(seq, w.end, "damaged block")
		}
	}
	return nil
}

// walkSegment delivers the records of s that start in [from, upto); upto zero
// is no limit.
func (l *Log) walkSegment(
	s *seg, from, upto base.LSN, buf []byte, fn func(rec Record) error,
) (w walk, scratch []byte, err error) {
	r := segment.NewReader(segmentSource{s.file}, &s.header, buf)
	w.tail = r.Off()
	for !w.ended {
		b, ok, err := r.Next()
		if err != nil {
			return walk{}, nil, err
		}
		if !ok {
			break
		}
		for p := b.Payload; len(p) > 0; {
			off := b.Off + int64(len(b.Payload)-len(p))
			rec, n, next, ok := parseRecord(p)
			if !ok || rec.Type == typeEnd && len(b.Payload) != endRecordSize {
				return walk{}, nil, l.corruption(s.seq, off, "bad record in an intact block")
			}
			p = p[n:]
			if rec.Type == typeEnd {
				w.ended, w.next = true, next
				break
			}
			rec.Start = l.position(s.seq, off)
			rec.End = rec.Start + base.LSN(n)
			rec.BodyStart = rec.End - base.LSN(len(rec.Body))
			if rec.Start < from || upto > 0 && rec.Start >= upto {
				continue
			}
			if err := fn(rec); err != nil {
				return walk{}, nil, err
			}
		}
		if !w.ended {
			w.tail = r.Off()
		}
	}
	w.end = r.Off()
	return w, r.Buffer(), nil
}

// checkEnd looks behind the break at off in s for a block that knew of a later
// position as synced.
func (l *Log) checkEnd(s *seg, off int64, buf []byte) error {
	end := l.position(s.seq, off)
	synced, err := l.huntFile(s.file, &s.header, off, []uint32{s.header.Incarnation}, buf)
	if err != nil {
		return err
	}
	for _, later := range l.segs {
		if later.seq <= s.seq {
			continue
		}
		got, err := l.huntFile(later.file, &later.header, segment.HeaderSize, []uint32{later.header.Incarnation}, buf)
		if err != nil {
			return err
		}
		synced = max(synced, got, later.header.Synced)
	}
	// A segment whose header was damaged looks like one never written to. Its
	// blocks were written in this incarnation or one of the next.
	incs := []uint32{s.header.Incarnation}
	for inc := s.header.Incarnation; inc < l.opts.Incarnation && len(incs) < maxHunted; {
		inc++
		incs = append(incs, inc)
	}
	for _, f := range l.recovery.unused {
		if f.Seq() <= s.seq {
			continue
		}
		got, err := l.huntFile(f, &segment.Header{Seq: f.Seq(), Size: l.size}, segment.HeaderSize, incs, buf)
		if err != nil {
			return err
		}
		synced = max(synced, got)
	}
	if synced > end {
		return l.corruption(s.seq, off, fmt.Sprintf("the log breaks at position %d but was synced up to %d", end, synced))
	}
	return nil
}

// huntFile returns the greatest synced position in a block of f at or after off.
func (l *Log) huntFile(
	f *segment.File, h *segment.Header, off int64, incs []uint32, buf []byte,
) (base.LSN, error) {
	return segment.NewReader(segmentSource{f}, h, buf).Hunt(off, incs)
}

// segmentSource adapts a File, whose short reads are no errors.
type segmentSource struct{ f *segment.File }

// ReadAt implements io.ReaderAt for segment.Reader.
func (s segmentSource) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off) }

// StartWriting makes what Replay delivered durable and begins a new segment.
func (l *Log) StartWriting() error {
	rc := &l.recovery
	switch {
	case l.state != stateOpened:
		return errReplayLate
	case len(l.segs) > 0 && !rc.replayed:
		return errReplayFirst
	case len(l.segs) > 0 && l.opts.Incarnation <= rc.maxInc:
		return fmt.Errorf("saker: log: incarnation %d is not above %d", l.opts.Incarnation, rc.maxInc)
	}
	fs, dir := l.opts.FS, l.opts.Dir
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("saker: make log directory: %w", err)
	}
	if err := segment.SyncDir(fs, fs.PathDir(dir)); err != nil {
		return err
	}
	seq := rc.maxSeq + 1
	prevEnd, err := l.sealTail(seq)
	if err != nil {
		return err
	}
	l.supply = segment.NewSupply(fs, dir, l.size, seq, l.opts.KeepFree)
	l.dropStale()
	if err := l.firstSegment(seq, prevEnd); err != nil {
		return errors.Join(err, l.supply.Stop())
	}
	l.state = stateWriting
	l.wg.Add(1)
	go l.writeLoop()
	l.supply.Want(seq + 1)
	return nil
}

// sealTail syncs the segments that were replayed, which may so far be in the
// system's cache alone, and closes the last of them, naming next. It returns
// the position after the end record.
func (l *Log) sealTail(next uint64) (base.LSN, error) {
	rc := &l.recovery
	if len(rc.walked) == 0 {
		return 0, nil
	}
	s := rc.walked[len(rc.walked)-1]
	if err := s.file.OpenForWriting(); err != nil {
		return 0, err
	}
	at := rc.tail
	synced := l.position(s.seq, at)
	// Everything is synced before the block that says so.
	for _, w := range rc.walked {
		if err := w.file.Sync(); err != nil {
			return 0, err
		}
	}
	block := make([]byte, segment.BlockHeaderSize, segment.BlockHeaderSize+endRecordSize)
	block = putRecordHeader(block, typeEnd, 8, 0)
	block = binary.LittleEndian.AppendUint64(block, next)
	segment.SealBlock(block, segment.Place{Seq: s.seq, Incarnation: s.header.Incarnation, Off: at}, synced)
	if err := s.file.WriteAt(block, at); err != nil {
		return 0, err
	}
	if err := s.file.Sync(); err != nil {
		return 0, err
	}
	s.used = at + int64(len(block))
	return l.position(s.seq, s.used), nil
}

// dropStale hands all files that are not part of the log to the supply: those
// never written to, and those not in the chain although it began before them.
// Segments from before the chain stay until Checkpointed: some may hold groups
// of transactions that ended later, and are to be pinned by then.
func (l *Log) dropStale() {
	rc := &l.recovery
	for _, f := range rc.unused {
		l.supply.Give(f)
	}
	rc.unused = nil
	if len(rc.walked) == 0 {
		return
	}
	kept := l.segs[:0]
	for _, s := range l.segs {
		if s.seq > rc.walked[0].seq && !slices.Contains(rc.walked, s) {
			l.supply.Give(s.file)
			continue
		}
		kept = append(kept, s)
	}
	clear(l.segs[len(kept):])
	l.segs = kept
	l.since.Store(l.bytesSinceLocked(l.ckpt))
}

// firstSegment makes the first segment of this opening durable, so that its
// beginning may serve as a checkpoint position.
func (l *Log) firstSegment(seq uint64, prevEnd base.LSN) error {
	f, err := l.supply.Take(seq)
	if err != nil {
		return err
	}
	s := &seg{seq: seq, file: f, used: segment.HeaderSize}
	l.segs = append(l.segs, s)
	var h [segment.HeaderSize]byte
	segment.PutHeader(h[:], &segment.Header{
		Seq: seq, Incarnation: l.opts.Incarnation, Size: l.size, PrevEnd: prevEnd, Synced: prevEnd,
	})
	if err := f.WriteAt(h[:], 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	l.writer.seg = s
	end := l.position(seq, segment.HeaderSize)
	l.end.Store(uint64(end))
	l.synced.Store(uint64(end))
	return nil
}
