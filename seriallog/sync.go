package seriallog

import (
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// How a sync is shared
//
// A caller of Sync that finds no leader leads: it takes all chunks, writes
// them, syncs, and publishes. One goroutine alone pays one write and one sync
// and meets nobody. A caller that finds a leader whose chunks include its
// record waits for that round. Any other waits for the next round; the first of
// these is its heir and is handed the leadership when the round before is over,
// so that by then everything appended meanwhile goes along.
//
//	leader  ├─ write, sync ─┤├─ done: wake round 1, hand over to heir
//	A B C     append, Sync   │
//	heir = A                 ├─ write, sync ─┤├─ wake B C
//
// The background writer leads without a sync when half of the buffer is full or
// somebody waits for room in it.

// group is the state of leadership. Guarded by Log.mu.
type group struct {
	busy      bool     // somebody leads
	flightEnd base.LSN // what the leader is going to sync; 0: it does not
	cur, next *round   // of the leader; of those that wait for the next one
}

// round is one write and sync with somebody waiting for it.
type round struct {
	heir chan struct{} // closed to make the waiter of it leader
	done chan struct{} // closed when over
}

// writer is what only the leader touches.
type writer struct {
	seg   *seg   // written to last
	dirty []*seg // written to since their last sync, in order
	lazy  int64  // bytes written since the system was last asked to write out
}

// lazyBytes is how much the background writer leaves to the system's cache
// before it asks for it to be written out, so that the next sync is short.
const lazyBytes = 4 << 20

// Sync waits until everything below upto is on stable storage.
func (l *Log) Sync(upto base.LSN) error {
	if upto <= l.Synced() {
		return nil
	}
	l.mu.Lock()
	if upto > l.End() {
		l.mu.Unlock()
		return fmt.Errorf("saker: log: sync of position %d beyond the end %d", upto, l.End())
	}
	g := &l.group
	switch {
	case upto <= l.Synced() || l.Err() != nil:
		l.mu.Unlock()
		return l.verdict(upto)
	case !g.busy:
		g.busy = true
	case upto <= g.flightEnd:
		if g.cur == nil {
			g.cur = &round{done: make(chan struct{})}
		}
		done := g.cur.done
		l.mu.Unlock()
		<-done
		return l.verdict(upto)
	case g.next != nil:
		done := g.next.done
		l.mu.Unlock()
		<-done
		return l.verdict(upto)
	default:
		r := &round{heir: make(chan struct{}), done: make(chan struct{})}
		g.next = r
		l.mu.Unlock()
		<-r.heir
		l.mu.Lock()
	}
	l.leadLocked(true)
	l.mu.Unlock()
	return l.verdict(upto)
}

// verdict says what a round that covered upto came to.
func (l *Log) verdict(upto base.LSN) error {
	if upto <= l.Synced() {
		return nil
	}
	return l.Err()
}

// leadLocked writes everything appended so far, syncs it if sync is set, and
// hands the leadership on. REQUIRES: l.mu is held and the caller leads; l.mu is
// released during I/O.
func (l *Log) leadLocked(sync bool) {
	b, g := &l.buffer, &l.group
	if l.Err() == nil {
		if b.active != nil {
			b.pending = append(b.pending, b.active)
			b.active = nil
		}
		b.flight, b.pending = b.pending, b.flight[:0]
		b.unsent = 0
		target, synced := l.End(), l.Synced()
		if sync {
			g.flightEnd = target
		}
		l.mu.Unlock()
		err := l.write(synced)
		if err == nil && sync {
			err = l.syncDirty()
		} else if err == nil {
			err = l.writeOut()
		}
		if err == nil && sync {
			l.synced.Store(uint64(target))
		} else if err != nil {
			l.fail(err)
		}
		l.mu.Lock()
		g.flightEnd = 0
	}
	if g.cur != nil {
		close(g.cur.done)
	}
	if g.cur, g.next = g.next, nil; g.cur != nil {
		close(g.cur.heir)
		return
	}
	g.busy = false
	if l.state == stateClosing {
		l.quiet.Broadcast()
	}
	if l.starvedLocked() {
		l.wake.Signal()
	}
}

// write writes the chunks in flight. Only the leader calls it, without l.mu.
func (l *Log) write(synced base.LSN) error {
	// Nobody else changes flight; written chunks are taken off its front.
	for i, c := range l.buffer.flight {
		seq := l.SegmentOf(c.start)
		w := &l.writer
		if w.seg == nil || w.seg.seq != seq {
			if err := l.beginSegment(seq); err != nil {
				return err
			}
		}
		off := l.offset(c.start)
		if c.head > 0 {
			segment.PutHeader(c.buf, &segment.Header{
				Seq: seq, Incarnation: l.opts.Incarnation, Size: l.size, PrevEnd: c.prevEnd, Synced: synced,
			})
		}
		place := segment.Place{Seq: seq, Incarnation: l.opts.Incarnation, Off: off + int64(c.head)}
		segment.SealBlock(c.buf[c.head:], place, synced)
		if err := w.seg.file.WriteAt(c.buf, off); err != nil {
			return err
		}
		if n := len(w.dirty); n == 0 || w.dirty[n-1] != w.seg {
			w.dirty = append(w.dirty, w.seg)
		}
		w.lazy += int64(len(c.buf))
		l.written(i, c)
	}
	return nil
}

// written takes chunk i out of flight: from now on it is read from the file.
func (l *Log) written(i int, c *chunk) {
	l.mu.Lock()
	l.buffer.flight[i] = nil
	l.buffer.spare = append(l.buffer.spare, c)
	l.stats.writes++
	l.stats.written += uint64(len(c.buf))
	cost := c.cost
	l.mu.Unlock()
	l.credits.give(cost)
}

// beginSegment takes the file of the next segment. Only the leader calls it.
func (l *Log) beginSegment(seq uint64) error {
	f, err := l.supply.Take(seq)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.writer.seg = l.segLocked(seq)
	l.writer.seg.file = f
	l.mu.Unlock()
	return nil
}

// syncDirty syncs what was written, earlier segments first (L2). Only the
// leader calls it.
func (l *Log) syncDirty() error {
	w := &l.writer
	for _, s := range w.dirty {
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.stats.syncs += uint64(len(w.dirty))
	l.mu.Unlock()
	clear(w.dirty)
	w.dirty = w.dirty[:0]
	w.lazy = 0
	return nil
}

// writeOut asks the system to write out what is only in its cache, now and
// then. Only the leader calls it.
func (l *Log) writeOut() error {
	w := &l.writer
	if w.lazy < lazyBytes {
		return nil
	}
	w.lazy = 0
	return w.seg.file.SyncTo(l.size)
}

// writeLoop is the background writer.
func (l *Log) writeLoop() {
	defer l.wg.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state == stateWriting {
		if l.group.busy || l.Err() != nil || !l.starvedLocked() {
			l.wake.Wait()
			continue
		}
		l.group.busy = true
		l.leadLocked(false)
	}
}
