package versionchain

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
)

// Registry finds the outcome of a transaction by the TxnID in a version. A
// transaction is in it from before its first version until after its last one
// carries a timestamp or is gone (L7): an id that is not in it is corruption.
// It is safe for concurrent use.
type Registry struct{ shards [64]registryShard }

type registryShard struct {
	mu   sync.RWMutex // guards m, and stores to last
	m    map[base.TxnID]*Outcome
	last atomic.Pointer[Outcome] // the one asked for last: a leaf's versions often have one writer
	_    [24]byte
}

// Add enters o.
func (r *Registry) Add(o *Outcome) {
	s := &r.shards[uint64(o.ID)%64]
	s.mu.Lock()
	if s.m == nil {
		s.m = make(map[base.TxnID]*Outcome)
	}
	s.m[o.ID] = o
	s.mu.Unlock()
}

// Remove forgets the transaction.
func (r *Registry) Remove(id base.TxnID) {
	s := &r.shards[uint64(id)%64]
	s.mu.Lock()
	delete(s.m, id)
	s.last.Store(nil)
	s.mu.Unlock()
}

// Get returns the outcome, or nil when the id is unknown.
func (r *Registry) Get(id base.TxnID) *Outcome {
	s := &r.shards[uint64(id)%64]
	if o := s.last.Load(); o != nil && o.ID == id {
		return o
	}
	s.mu.RLock()
	o := s.m[id]
	if o != nil {
		s.last.Store(o)
	}
	s.mu.RUnlock()
	return o
}

// Len returns the number of transactions in the registry.
func (r *Registry) Len() int {
	n := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.RLock()
		n += len(s.m)
		s.mu.RUnlock()
	}
	return n
}

// Each calls fn for every outcome, in no order, with no lock held.
func (r *Registry) Each(fn func(*Outcome)) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.RLock()
		all := make([]*Outcome, 0, len(s.m))
		for _, o := range s.m {
			all = append(all, o)
		}
		s.mu.RUnlock()
		for _, o := range all {
			fn(o)
		}
	}
}

// Reader says whose eyes look at a chain: what was published at Snapshot, and
// the live versions of Self (nil for a reader that writes nothing).
type Reader struct {
	Snapshot base.CommitTS
	Self     *Outcome
	Reg      *Registry
}

// Sees resolves a version of the given owner. For an own live version ts is
// MaxTS; otherwise the timestamp of a version that Snapshot includes.
func (r *Reader) Sees(o *Outcome, e base.Epoch) (ts base.CommitTS, ok bool) {
	if o == r.Self {
		return base.MaxTS, !o.DeadEpoch(e)
	}
	st, ts := o.Status()
	if seeded.On(seeded.VisibleUndecided) && st == Active {
		return r.Snapshot, true
	}
	if st != Committed || ts > r.Snapshot || (o.DeadEpoch(e) && !seeded.On(seeded.VisibleRolledBack)) {
		return 0, false
	}
	return ts, true
}

// Found is a visible version.
type Found struct {
	Off uint16 // offset in the page, 0 when nothing was found
	Ver Ver
	TS  base.CommitTS // MaxTS for an own live version
}

// Visible walks the chain of record i from its newest version and returns the
// first one that r sees, locks passed over. What it finds is newer than anything
// that frames hold of the record; only if it finds nothing must they be asked.
// A stand-in that r sees counts as nothing found: its value is in a frame.
//
// Worked example. Three transactions wrote record k; t9 is active, the others
// were committed at 40 and 30:
//
//	slot → [t9 value d] → [40 tombstone] → [30 value b] → [20 value a]
//
//	reader          sees
//	t9 itself       d           own versions first
//	snapshot 45     tombstone   that is an answer: not found, and the walk ends
//	snapshot 35     b
//	snapshot 10     nothing     the frames of the leaf are asked next
//
// If savepoint epochs killed d, t9 sees the tombstone like everybody else.
func (p *Page) Visible(i int, r *Reader) (Found, error) {
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		if v.Dropped() {
			off = v.Prior
			continue
		}
		ts, ok := v.TS(), v.TS() <= r.Snapshot || (seeded.On(seeded.VisibleTooNew) && v.TS() == r.Snapshot+1)
		if v.Undecided() {
			o := r.Self
			if o == nil || o.ID != v.Txn() {
				if o = r.Reg.Get(v.Txn()); o == nil {
					return Found{}, unknownOwner(v.Txn())
				}
			}
			ts, ok = r.Sees(o, v.Epoch)
		}
		if ok && v.Kind() != base.KindLock {
			if v.Kind() == KindStandIn {
				break
			}
			return Found{Off: off, Ver: v, TS: ts}, nil
		}
		off = v.Prior
	}
	return Found{}, nil
}

// unknownOwner reports a version whose writer nobody knows (L7).
func unknownOwner(id base.TxnID) error {
	return &base.CorruptionError{File: "record memory", Why: fmt.Sprintf("version of unknown transaction %v", id)}
}

// Verdict is what a writer learns about a record before it adds a version.
type Verdict uint8

const (
	// Go says that the newest version permits a write.
	Go Verdict = iota
	// Unknown says that the chain does not tell: the frames must be asked.
	Unknown
	// Conflict says that a version was committed after the snapshot (S3).
	Conflict
	// Wait says that another live transaction wrote the record.
	Wait
)

// CheckWrite applies first-updater-wins to record i for writer r. For Wait it
// returns whom to wait for and the epoch of the version in the way (S5): nobody, if
// below that version the chain has one that is a conflict whatever comes of it.
// Aborted and dead versions are passed over; they are garbage.
func (p *Page) CheckWrite(i int, r *Reader) (verdict Verdict, on *Outcome, epoch base.Epoch, err error) {
	verdict = Unknown
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		if v.Dropped() {
			off = v.Prior
			continue
		}
		if !v.Undecided() {
			switch {
			case v.TS() > r.Snapshot && !seeded.On(seeded.SkippedConflict):
				return Conflict, nil, 0, nil
			case verdict == Unknown:
				return Go, nil, 0, nil
			default:
				return verdict, on, epoch, nil
			}
		}
		o := r.Self
		if o == nil || o.ID != v.Txn() {
			if o = r.Reg.Get(v.Txn()); o == nil {
				return 0, nil, 0, unknownOwner(v.Txn())
			}
		}
		switch found, decided := r.CheckOwner(o, v.Epoch); {
		case !decided:
		case found == Conflict, found == Go && verdict == Unknown:
			return found, o, v.Epoch, nil
		case found == Go:
			return verdict, on, epoch, nil
		case verdict == Unknown:
			verdict, on, epoch = Wait, o, v.Epoch
		}
		off = v.Prior
	}
	return verdict, on, epoch, nil
}

// CheckOwner is CheckWrite for one version of o: decided is false when the
// version is garbage and the one before it counts.
func (r *Reader) CheckOwner(o *Outcome, e base.Epoch) (verdict Verdict, decided bool) {
	if o.DeadEpoch(e) {
		return Unknown, false
	}
	if o == r.Self {
		return Go, true
	}
	switch st, ts := o.Status(); st {
	case Aborted:
		return Unknown, false
	case Committed:
		if ts > r.Snapshot && !seeded.On(seeded.SkippedConflict) {
			return Conflict, true
		}
		return Go, true
	default:
		return Wait, true
	}
}

// StampAll gives every version of record i that id wrote the timestamp ts and
// takes it off its transaction's list; it returns how many there were.
func (p *Page) StampAll(i int, id base.TxnID, ts base.CommitTS) int {
	n := 0
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		if v.Stamp == UndecidedStamp(id) {
			v.Stamp = uint64(ts)
			if v.Flags&FlagListed != 0 {
				v.Flags &^= FlagListed
				v.Uses--
			}
			p.putVersion(int(off), &v)
			if !v.Dropped() {
				n++
			}
		}
		off = v.Prior
	}
	return n
}

// Holds reports whether record i has a version that id wrote in epoch from or
// later.
func (p *Page) Holds(i int, id base.TxnID, from base.Epoch) bool {
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		if v.Stamp == UndecidedStamp(id) && v.Epoch >= from && !v.Dropped() {
			return true
		}
		off = v.Prior
	}
	return false
}
