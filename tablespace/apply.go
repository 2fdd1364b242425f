package tablespace

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// batchBytes bounds one Pebble batch, unless a single edit is larger.
const batchBytes = 1 << 20

// memEntryBytes is what an entry costs in a memtable besides its bytes.
const memEntryBytes = 100

// maxSublevels is the number of L0 sublevels above which the applier waits for
// compactions. Pebble's own stalls are switched off: they wait for a failing
// disk for ever, with the commit lock held.
const maxSublevels = 16

// applier is what only the applier goroutine touches.
type applier struct {
	ops      []op     // being applied
	edits    []queued // being applied
	touched  []*Run   // in the batch
	key, val []byte
	prefix   bool // recovery has ended: the surviving prefix advances
	unflush  int  // estimate of bytes in the memtable
	flushed  <-chan struct{}
}

// applyLoop is the applier goroutine (L10): it takes the whole queue, syncs
// what it relies on and writes it to Pebble in order.
func (s *Space) applyLoop() {
	defer s.wg.Done()
	a := &s.a
	for {
		s.q.mu.Lock()
		for len(s.q.edits) == 0 && !s.q.closing && s.p.get() == nil {
			s.q.idle = true
			s.q.work.Wait()
			s.q.idle = false
		}
		if len(s.q.edits) == 0 || s.p.get() != nil {
			s.q.mu.Unlock()
			return
		}
		a.ops, s.q.ops = s.q.ops, a.ops[:0]
		a.edits, s.q.edits = s.q.edits, a.edits[:0]
		s.q.mu.Unlock()
		if err := s.applyAll(); err != nil {
			s.p.fail(err)
			return
		}
		clear(a.ops)
	}
}

// applyAll applies a.edits.
func (s *Space) applyAll() error {
	if err := s.syncFor(s.a.edits, s.a.ops); err != nil {
		return err
	}
	limit := min(batchBytes, int(s.o.MemTableSize/4))
	first, firstOp := 0, 0
	for first < len(s.a.edits) {
		b := s.db.NewBatch()
		next, at, places := first, firstOp, 0
		for next < len(s.a.edits) && b.Len() < limit {
			end := s.a.edits[next].ops
			if err := s.encode(b, s.a.ops[at:end]); err != nil {
				return errors.Join(err, b.Close())
			}
			at = end
			places += s.a.edits[next].places
			next++
		}
		seq := s.a.edits[next-1].seq
		if err := s.commit(b, seq); err != nil {
			return err
		}
		s.q.pop(s.a.ops[firstOp:at], seq)
		s.q.mu.Lock()
		s.q.applied = seq
		s.q.mu.Unlock()
		s.q.done.Broadcast()
		s.room.release(int64(places))
		first, firstOp = next, at
	}
	return nil
}

// syncFor syncs the runs added to by edits that ask for it, and the log.
func (s *Space) syncFor(edits []queued, ops []op) error {
	needLog := false
	at := 0
	for _, e := range edits {
		if e.needSync {
			needLog = true
			for i := range ops[at:e.ops] {
				o := &ops[at+i]
				if o.kind != opAdd {
					continue
				}
				if err := o.run.Sync(); err != nil && !errors.Is(err, ErrRunNotFound) {
					return err
				}
			}
		}
		at = e.ops
	}
	if !needLog || s.o.SyncLog == nil {
		return nil
	}
	return s.o.SyncLog()
}

// encode adds the ops of one edit to the batch.
func (s *Space) encode(b *pebble.Batch, ops []op) error {
	a := &s.a
	var err error
	for i := range ops {
		o := &ops[i]
		switch o.kind {
		case opEntry:
			p := o.pending
			a.key = entryKey(a.key[:0], p.table, p.low)
			if p.deleted {
				err = b.Delete(a.key, nil)
			} else {
				a.val = appendEntry(a.val[:0], a.key, &p.en)
				err = b.Set(a.key, a.val, nil)
			}
		case opAdd: // the frame is in its run, the map has nothing of it
		case opRef:
			o.run.applied.Add(int64(o.delta))
			if !o.run.touched {
				o.run.touched = true
				a.touched = append(a.touched, o.run)
			}
		case opSet:
			err = b.Set(o.key, o.val, nil)
		case opUnset:
			err = b.Delete(o.key, nil)
		case opEndRecovery:
			a.prefix = true
		}
		if err != nil {
			return fmt.Errorf("saker: encode map edit: %w", err)
		}
	}
	return nil
}

// commit writes the batch, with the run rows and the prefix as of seq.
func (s *Space) commit(b *pebble.Batch, seq base.EditSeq) error {
	a := &s.a
	defer func() { a.touched = a.touched[:0] }()
	for _, r := range a.touched {
		r.touched = false
		key := key8(keyRun, uint64(r.id))
		n := r.applied.Load()
		var err error
		if n > 0 {
			err = b.Set(key, appendUints(nil, key, uint64(n), r.size.Load(), uint64(r.owner)), nil)
		} else {
			err = b.Delete(key, nil)
		}
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if a.prefix {
		key := []byte{keyPrefix}
		if err := b.Set(key, appendUints(nil, key, uint64(seq)), nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	size := b.Len() + memEntryBytes*int(b.Count())
	err := s.db.Apply(b, pebble.NoSync)
	err = errors.Join(err, b.Close())
	if err == nil {
		err = s.p.get() // Pebble reports some failures only to its logger
	}
	if err != nil {
		return fmt.Errorf("saker: apply map edits: %w", err)
	}
	s.batches.Add(1)
	s.recovered.Store(a.prefix)
	for i, r := range a.touched {
		if r.applied.Load() == 0 {
			s.idle(r, seq)
		}
		a.touched[i] = nil
	}
	return s.pace(size)
}

// pace starts a flush when the memtable is full enough, and waits if the one
// before is not done.
func (s *Space) pace(size int) error {
	a := &s.a
	a.unflush += size
	if int64(a.unflush) < s.o.MemTableSize*7/8 {
		return nil
	}
	a.unflush = 0
	if a.flushed != nil {
		if err := s.await(a.flushed); err != nil {
			return err
		}
	}
	for {
		m := s.mapMetrics()
		if m == nil {
			return s.p.get()
		}
		if m.Levels[0].Sublevels <= maxSublevels {
			break
		}
		select {
		case <-s.p.ch:
			return s.p.get()
		case <-s.compacted:
		}
	}
	ch, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("saker: flush leaf map: %w", err)
	}
	a.flushed = ch
	return nil
}

// await waits for a flush, or for the first failure: a failing flush is
// repeated for ever.
func (s *Space) await(flushed <-chan struct{}) error {
	select {
	case <-flushed:
		return nil
	case <-s.p.ch:
		return s.p.get()
	}
}

// WaitApplied waits until every edit up to seq is in Pebble, not flushed.
func (s *Space) WaitApplied(seq base.EditSeq) error {
	if s.o.ReadOnly {
		return nil
	}
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	for s.q.applied < seq {
		if err := s.p.get(); err != nil {
			return err
		}
		if s.q.closed {
			return base.ErrClosed
		}
		s.q.done.Wait()
	}
	return nil
}

// Flush makes the map durable and returns the last edit that is. Then it
// unlinks the runs that no durable edit lists and nobody uses.
func (s *Space) Flush() (base.EditSeq, error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	if err := s.WaitApplied(s.LastSeq()); err != nil {
		return 0, err
	}
	s.q.mu.Lock()
	seq := s.q.applied
	s.q.mu.Unlock()
	ch, err := s.db.AsyncFlush()
	if err != nil {
		return 0, fmt.Errorf("saker: flush leaf map: %w", err)
	}
	if err := s.await(ch); err != nil {
		return 0, err
	}
	s.views.drop() // idle iterators keep old files
	s.unlinkIdle(seq)
	return seq, nil
}
