package savepoint

import (
	"sort"

	"github.com/sakerdb/saker/internal/base"
)

// Intervals is a sorted list of disjoint dead intervals, ends included.
type Intervals []base.EpochRange

// Contains reports whether e is dead. O(log n).
func (iv Intervals) Contains(e base.Epoch) bool {
	if len(iv) == 0 {
		return false
	}
	i := sort.Search(len(iv), func(i int) bool { return iv[i].To >= e })
	return i < len(iv) && iv[i].From <= e
}

// Add returns the list with r added, as a new value; iv is not changed.
// Intervals that r touches or covers are merged into it. Add must be called on
// the newest value of a list only: values share memory, so that adding at the
// end does not copy.
func (iv Intervals) Add(r base.EpochRange) Intervals {
	if n := len(iv); n == 0 || uint64(iv[n-1].To)+1 < uint64(r.From) {
		return append(iv, r)
	}
	i := sort.Search(len(iv), func(i int) bool { return uint64(iv[i].To)+1 >= uint64(r.From) })
	j := i
	for j < len(iv) && uint64(iv[j].From) <= uint64(r.To)+1 {
		r.From = min(r.From, iv[j].From)
		r.To = max(r.To, iv[j].To)
		j++
	}
	out := make(Intervals, 0, len(iv)-(j-i)+1)
	out = append(out, iv[:i]...)
	out = append(out, r)
	return append(out, iv[j:]...)
}

// Mark is a live savepoint: the epoch that it began and what the owner of the
// stack wants to find again on rollback to it.
type Mark struct {
	Start      base.Epoch
	Refs       int        // length of the transaction's write list then
	Departures base.Leave // departures then: equal on rollback, nothing has left memory
	Written    base.Epoch // every live write then was in an epoch below
	Changed    base.Epoch // the same of those that were no locks, if the owner counts them
}

// Stack holds the live savepoints of one transaction, outermost first.
// The zero value is a transaction without savepoints in epoch zero.
type Stack struct {
	now   base.Epoch
	marks []Mark
}

// lastEpoch is where the counter ends: greater numbers mean something else.
const lastEpoch = ^base.Epoch(0) - 2

// Full reports whether the counter is used up: there is neither a savepoint nor a
// rollback to one any more. It never starts again, for dead epochs stay dead.
func (s *Stack) Full() bool { return s.now >= lastEpoch }

// Now returns the current epoch, which new versions carry.
func (s *Stack) Now() base.Epoch { return s.now }

// Stretch returns the epoch since which no live savepoint began.
func (s *Stack) Stretch() base.Epoch {
	if len(s.marks) == 0 {
		return 0
	}
	return s.marks[len(s.marks)-1].Start
}

// StretchOf returns the epoch since which, seen from e, no live savepoint began.
func (s *Stack) StretchOf(e base.Epoch) base.Epoch {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].Start > e })
	if i == 0 {
		return 0
	}
	return s.marks[i-1].Start
}

// Push begins a savepoint and returns its start epoch, which names it. It
// returns false when the counter is used up.
func (s *Stack) Push(m Mark) (base.Epoch, bool) {
	if s.Full() {
		return 0, false
	}
	s.now++
	m.Start = s.now
	s.marks = append(s.marks, m)
	return m.Start, true
}

// Find returns the live savepoint that began with start.
func (s *Stack) Find(start base.Epoch) (Mark, bool) {
	i := s.index(start)
	if i < 0 {
		return Mark{}, false
	}
	return s.marks[i], true
}

// RollbackTo drops the savepoints inside start, keeps start itself and returns
// the epochs that are now dead. REQUIRES: Find(start) succeeded, and not Full.
func (s *Stack) RollbackTo(start base.Epoch) base.EpochRange {
	s.marks = s.marks[:s.index(start)+1]
	dead := base.EpochRange{From: start, To: s.now}
	s.now++
	return dead
}

// Release drops start and the savepoints inside it; what they wrote belongs to
// the stretch around them. REQUIRES: Find(start) succeeded.
func (s *Stack) Release(start base.Epoch) {
	s.marks = s.marks[:s.index(start)]
	if !s.Full() {
		s.now++ // what is written from here on is told from what was before
	}
}

// Reset makes the stack that of a new transaction.
func (s *Stack) Reset() {
	s.now = 0
	s.marks = s.marks[:0]
}

func (s *Stack) index(start base.Epoch) int {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].Start >= start })
	if i < len(s.marks) && s.marks[i].Start == start {
		return i
	}
	return -1
}

// Starts returns the start epochs of the live savepoints, ascending.
func (s *Stack) Starts() []base.Epoch {
	out := make([]base.Epoch, len(s.marks))
	for i := range s.marks {
		out[i] = s.marks[i].Start
	}
	return out
}
