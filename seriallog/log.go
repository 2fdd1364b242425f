package seriallog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

const (
	// DefaultSegmentSize is Options.SegmentSize when zero.
	DefaultSegmentSize = 16 << 20
	// DefaultBufferSize is Options.BufferSize when zero.
	DefaultBufferSize = 4 << 20
	// DefaultKeepFree is Options.KeepFree when zero.
	DefaultKeepFree = 8

	minSegmentSize = 64 << 10
	maxSegmentSize = 1 << 32
	minBufferSize  = 128 << 10

	// maxBody is the greatest body of a record, and so about the greatest
	// block; commit metas may take maxMeta on top.
	maxBody = 1 << 20
	maxMeta = 64 << 10

	// segmentSlack is room at the end of each segment for the block with the
	// end record, and for no position to be that of the next segment.
	segmentSlack = segment.BlockHeaderSize + endRecordSize + 8
)

// Options say where the log is and how large its parts are.
type Options struct {
	FS          vfs.FS
	Dir         string
	SegmentSize int64       // default 16 MiB; a log keeps the size it was made with
	BufferSize  int64       // default 4 MiB: bytes reserved or appended and not yet written
	KeepFree    int         // default 8: files kept for reuse; more are removed
	Incarnation uint32      // of this opening; greater than all before
	OnFailure   func(error) // called once, without locks, after the first failed write or sync; must not call the log
}

// Log is a serial log.
type Log struct {
	opts      Options
	size      int64 // of a segment
	maxRecord int   // greatest record, header included

	credits  credits
	reserved atomic.Int64  // granted and not yet appended
	end      atomic.Uint64 // position after the last record
	synced   atomic.Uint64
	since    atomic.Int64 // bytes appended after the checkpoint position
	failure  atomic.Pointer[error]

	mu       sync.Mutex // chunks, segments, leadership; never held across I/O
	wake     sync.Cond  // the background writer waits for work
	quiet    sync.Cond  // Close waits for readers
	state    state
	segs     []*seg // ascending
	ckpt     base.LSN
	hold     int // reuse is held while positive
	reading  int // reads of files in progress
	buffer   buffer
	group    group
	writer   writer
	recovery recovery
	supply   *segment.Supply

	wg    sync.WaitGroup
	stats counters
}

type state uint8

const (
	stateOpened  state = iota // Replay and Read only
	stateWriting              // everything
	stateClosing              // no appends
	stateClosed
)

// seg is one segment that belongs to the log.
type seg struct {
	seq     uint64
	file    *segment.File  // nil until the leader writes to it
	header  segment.Header // as read by Open
	used    int64          // end of what was appended
	pins    int
	readers int
}

// Open finds the segments in o.Dir. It writes nothing. Replay may follow, and
// must if the log is not empty; then StartWriting.
func Open(o Options) (*Log, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	l := &Log{opts: o, size: o.SegmentSize}
	l.wake.L, l.quiet.L = &l.mu, &l.mu
	if err := l.scan(); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.maxRecord = int(min(
		recordHeaderSize+maxMeta+maxBody,
		l.size-segment.HeaderSize-segment.BlockHeaderSize-segmentSlack,
		o.BufferSize/2-int64(RecordOverhead())))
	l.credits.free = o.BufferSize
	return l, nil
}

// complete fills in defaults and checks what was given.
func (o *Options) complete() error {
	var errs []error
	if o.FS == nil {
		errs = append(errs, errors.New("saker: log: no file system"))
	}
	o.SegmentSize = cmp.Or(o.SegmentSize, DefaultSegmentSize)
	o.BufferSize = cmp.Or(o.BufferSize, DefaultBufferSize)
	o.KeepFree = cmp.Or(o.KeepFree, DefaultKeepFree)
	if o.SegmentSize < minSegmentSize || o.SegmentSize > maxSegmentSize {
		errs = append(errs, fmt.Errorf("saker: log: segment size %d is not in [%d, %d]",
			o.SegmentSize, minSegmentSize, int64(maxSegmentSize)))
	}
	if o.BufferSize < minBufferSize {
		errs = append(errs, fmt.Errorf("saker: log: buffer size %d is less than %d", o.BufferSize, minBufferSize))
	}
	if o.KeepFree < 0 {
		errs = append(errs, fmt.Errorf("saker: log: %d files to keep", o.KeepFree))
	}
	return errors.Join(errs...)
}

// scan opens the files of the directory and tells segments from files that were
// prepared and never written to.
func (l *Log) scan() error {
	names, err := l.opts.FS.List(l.opts.Dir)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("saker: list log directory: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		seq, ok := segment.ParseName(name)
		if !ok {
			continue
		}
		l.recovery.maxSeq = max(l.recovery.maxSeq, seq)
		f, err := segment.OpenFile(l.opts.FS, l.opts.Dir, seq)
		if err != nil {
			return err
		}
		h, ok, err := f.ReadHeader()
		if err != nil || !ok {
			l.recovery.unused = append(l.recovery.unused, f)
			if err != nil {
				return err
			}
			continue
		}
		l.segs = append(l.segs, &seg{seq: seq, file: f, header: h, used: h.Size})
		l.recovery.maxInc = max(l.recovery.maxInc, h.Incarnation)
		if len(l.segs) == 1 && h.Size >= minSegmentSize && h.Size <= maxSegmentSize {
			l.size = h.Size
		}
		if h.Size != l.size {
			return l.corruption(seq, 24, fmt.Sprintf("segment size %d, expected %d", h.Size, l.size))
		}
	}
	slices.SortFunc(l.segs, func(a, b *seg) int { return cmp.Compare(a.seq, b.seq) })
	return nil
}

// SegmentSize returns the size of the log's segments.
func (l *Log) SegmentSize() int64 { return l.size }

// SegmentOf returns the sequence number of the segment that holds position lsn.
func (l *Log) SegmentOf(lsn base.LSN) uint64 { return uint64(lsn) / uint64(l.size) }

// MaxBody returns the greatest body of a group.
func (l *Log) MaxBody() int { return min(maxBody, l.maxRecord-recordHeaderSize-groupMetaSize) }

// End returns the position after the last record.
func (l *Log) End() base.LSN { return base.LSN(l.end.Load()) }

// Synced returns the position below which everything is on stable storage.
func (l *Log) Synced() base.LSN { return base.LSN(l.synced.Load()) }

// Err returns nil, or the error that poisoned the log.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// offset returns the place of lsn within its segment.
func (l *Log) offset(lsn base.LSN) int64 { return int64(uint64(lsn) % uint64(l.size)) }

// position returns the position at off in segment seq.
func (l *Log) position(seq uint64, off int64) base.LSN {
	return base.LSN(seq*uint64(l.size) + uint64(off))
}

// corruption reports damage in a segment.
func (l *Log) corruption(seq uint64, off int64, why string) error {
	return &base.CorruptionError{
		File:   l.opts.FS.PathJoin(l.opts.FS.PathBase(l.opts.Dir), segment.Name(seq)),
		Offset: off,
		Why:    why,
	}
}

// segLocked returns segment seq, nil if the log does not hold it.
// REQUIRES: l.mu is held.
func (l *Log) segLocked(seq uint64) *seg {
	// Most questions are about the newest segments.
	for i := len(l.segs) - 1; i >= 0 && i >= len(l.segs)-2; i-- {
		if l.segs[i].seq == seq {
			return l.segs[i]
		}
	}
	i, ok := slices.BinarySearchFunc(l.segs, seq, func(s *seg, seq uint64) int { return cmp.Compare(s.seq, seq) })
	if !ok {
		return nil
	}
	return l.segs[i]
}

// fail poisons the log (L8). Only the leader calls it, without l.mu.
func (l *Log) fail(err error) {
	poison := base.Poisoned(err)
	if !l.failure.CompareAndSwap(nil, &poison) {
		return
	}
	l.credits.fail(poison)
	if l.opts.OnFailure != nil {
		l.opts.OnFailure(err)
	}
}

// Close writes and syncs what is buffered, marks the log as ended and closes
// its files. It returns the error that poisoned the log, if one did.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.state >= stateClosing {
		l.mu.Unlock()
		return nil
	}
	writing := l.state == stateWriting
	l.state = stateClosing
	if writing && l.Err() == nil {
		l.endSegmentLocked(0)
	}
	l.wake.Broadcast()
	l.mu.Unlock()
	l.credits.fail(base.ErrClosed)
	var err error
	if writing {
		err = l.Sync(l.End())
		l.wg.Wait()
		if serr := l.supply.Stop(); err == nil {
			err = serr
		}
	}
	l.mu.Lock()
	for l.reading > 0 || l.group.busy {
		l.quiet.Wait()
	}
	l.state = stateClosed
	l.mu.Unlock()
	if cerr := l.closeFiles(); err == nil {
		err = cerr
	}
	return err
}

// closeFiles closes all files of the log and returns the first error.
func (l *Log) closeFiles() error {
	var first error
	note := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	l.mu.Lock()
	unused, segs := l.recovery.unused, l.segs
	l.recovery.unused, l.segs = nil, nil
	l.mu.Unlock()
	for _, f := range unused {
		note(f.Close())
	}
	for _, s := range segs {
		if s.file != nil {
			note(s.file.Close())
		}
	}
	return first
}
