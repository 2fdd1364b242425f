package seriallog

import (
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// Stats are sizes and counts of a log.
type Stats struct {
	End, Synced     base.LSN
	AppendedBytes   uint64 // records and their overhead
	WrittenBytes    uint64
	Writes          uint64
	Syncs           uint64
	Segments        int // in use
	FreeSegments    int // waiting to be used again
	PinnedSegments  int
	Recycled        uint64 // segments made of files that were no longer needed
	SinceCheckpoint int64  // bytes appended after the checkpoint position (L9)
	BufferedBytes   int64  // reserved, or appended and not yet written
	Waiting         int    // callers of Reserve
}

// counters are guarded by Log.mu.
type counters struct {
	appended, written, writes, syncs uint64
}

// Checkpointed says that recovery needs no record below pos any longer, other
// than those in pinned segments (L5, L6).
func (l *Log) Checkpointed(pos base.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos <= l.ckpt {
		return
	}
	l.ckpt = pos
	l.since.Store(l.bytesSinceLocked(pos))
	l.reuseLocked()
}

// SinceCheckpoint returns the bytes appended after the checkpoint position.
func (l *Log) SinceCheckpoint() int64 { return l.since.Load() }

// Passed returns how many segments, however little is in them, a checkpoint at pos
// would let go. Each opening begins one, and those of before the checkpoint position
// that it finds stay until the next checkpoint.
func (l *Log) Passed(pos base.LSN) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold > 0 {
		return 0
	}
	for _, s := range l.segs {
		if s.seq < l.SegmentOf(pos) && s.pins == 0 && s.readers == 0 {
			n++
		}
	}
	return n
}

// Pin keeps a segment from being reused, until Unpin was called as often. It
// returns false if the log does not hold the segment. Recovery pins the segments
// that replayed commits name between Replay and the first Checkpointed.
func (l *Log) Pin(seg uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.segLocked(seg)
	if s == nil {
		return false
	}
	s.pins++
	return true
}

// Unpin takes back one Pin.
func (l *Log) Unpin(seg uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.segLocked(seg); s != nil && s.pins > 0 {
		s.pins--
		if s.pins == 0 {
			l.reuseLocked()
		}
	}
}

// HoldReuse keeps all segments from being reused, for a backup that copies
// them, until ReleaseReuse was called as often.
func (l *Log) HoldReuse() {
	l.mu.Lock()
	l.hold++
	l.mu.Unlock()
}

// ReleaseReuse takes back one HoldReuse.
func (l *Log) ReleaseReuse() {
	l.mu.Lock()
	l.hold--
	l.reuseLocked()
	l.mu.Unlock()
}

// Files returns the names of the segment files in the log directory that hold
// records, in order. They are good for as long as reuse is held.
func (l *Log) Files() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, s := range l.segs {
		if s.file != nil {
			names = append(names, segment.Name(s.seq))
		}
	}
	return names
}

// Stats returns sizes and counts.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Stats{
		End:             l.End(),
		Synced:          l.Synced(),
		AppendedBytes:   l.stats.appended,
		WrittenBytes:    l.stats.written,
		Writes:          l.stats.writes,
		Syncs:           l.stats.syncs,
		Segments:        len(l.segs),
		SinceCheckpoint: l.since.Load(),
		BufferedBytes:   l.opts.BufferSize - l.credits.left(),
		Waiting:         int(l.credits.waiting.Load()),
	}
	for _, s := range l.segs {
		if s.pins > 0 {
			st.PinnedSegments++
		}
	}
	if l.supply != nil {
		st.FreeSegments = l.supply.Free()
		st.Recycled = l.supply.Reused()
	}
	return st
}

// reuseLocked gives away the segments that nothing needs (invariant 4).
// REQUIRES: l.mu is held.
func (l *Log) reuseLocked() {
	if l.state != stateWriting || l.hold > 0 || l.Err() != nil {
		return
	}
	// A segment that is not wholly synced has bytes that the leader is going to
	// sync, whatever the caller says about the checkpoint.
	limit := min(l.SegmentOf(l.ckpt), l.SegmentOf(l.Synced()))
	if len(l.segs) == 0 || l.segs[0].seq >= limit {
		return
	}
	kept := l.segs[:0]
	for _, s := range l.segs {
		if s.seq < limit && s.pins == 0 && s.readers == 0 {
			l.supply.Give(s.file)
			continue
		}
		kept = append(kept, s)
	}
	clear(l.segs[len(kept):])
	l.segs = kept
}

// BytesSince returns the bytes appended after pos, which is not before the
// checkpoint position.
func (l *Log) BytesSince(pos base.LSN) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytesSinceLocked(pos)
}

// bytesSinceLocked returns the bytes appended after pos. REQUIRES: l.mu is held.
func (l *Log) bytesSinceLocked(pos base.LSN) (n int64) {
	at := l.SegmentOf(pos)
	for _, s := range l.segs {
		switch {
		case s.seq == at:
			n += max(0, s.used-max(l.offset(pos), segment.HeaderSize))
		case s.seq > at:
			n += s.used - segment.HeaderSize
		}
	}
	return n
}
