package txn

import (
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// snapshots knows the published clock and the timestamps as of which somebody
// reads. Choosing and registering a snapshot is one step (S1), so the list is in
// ascending order and whoever asks for the horizon misses nobody.
type snapshots struct {
	clock atomic.Uint64

	mu         sync.Mutex // guards the list
	head, tail *snapshot
	free       *snapshot
}

type snapshot struct {
	ts         base.CommitTS
	n          int // transactions that read as of ts
	prev, next *snapshot
}

func (s *snapshots) now() base.CommitTS { return base.CommitTS(s.clock.Load()) }

// open registers a reader as of the clock.
func (s *snapshots) open() *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

// renew exchanges sn for a snapshot as of the clock; it is sn itself while the
// clock has not moved. The new one is registered in the step that lets the old
// one go (S1).
func (s *snapshots) renew(sn *snapshot) *snapshot {
	if s.now() == sn.ts {
		return sn
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.openLocked()
	s.closeLocked(sn)
	return next
}

// openLocked is open. REQUIRES: s.mu is held.
func (s *snapshots) openLocked() *snapshot {
	ts := s.now()
	if s.tail != nil && s.tail.ts == ts {
		s.tail.n++
		return s.tail
	}
	sn := s.free
	if sn != nil {
		s.free = sn.next
		*sn = snapshot{}
	} else {
		sn = &snapshot{}
	}
	sn.ts, sn.n, sn.prev = ts, 1, s.tail
	if s.tail != nil {
		s.tail.next = sn
	} else {
		s.head = sn
	}
	s.tail = sn
	return sn
}

func (s *snapshots) close(sn *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(sn)
}

// closeLocked is close. REQUIRES: s.mu is held.
func (s *snapshots) closeLocked(sn *snapshot) {
	if sn.n--; sn.n > 0 {
		return
	}
	if sn.prev != nil {
		sn.prev.next = sn.next
	} else {
		s.head = sn.next
	}
	if sn.next != nil {
		sn.next.prev = sn.prev
	} else {
		s.tail = sn.prev
	}
	sn.prev, sn.next = nil, s.free
	s.free = sn
}

// horizon returns the timestamps that are read, the clock included.
func (s *snapshots) horizon() versionchain.Horizon {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := make(versionchain.Horizon, 0, 8)
	for sn := s.head; sn != nil; sn = sn.next {
		h = append(h, sn.ts)
	}
	if now := s.now(); len(h) == 0 || h[len(h)-1] != now {
		h = append(h, now)
	}
	return h
}
