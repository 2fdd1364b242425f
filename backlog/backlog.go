package backlog

import (
	"fmt"
	"sync"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Store makes temp tables and knows the run that takes committed frames.
type Store struct {
	space *tablespace.Space

	mu        sync.Mutex // guards the fields below
	temps     map[base.TxnID]*TempTable
	permanent *tablespace.Run
	full      []*tablespace.Run // no longer written, to be sealed
}

// NewStore returns a store on space.
func NewStore(space *tablespace.Space) *Store {
	return &Store{space: space, temps: make(map[base.TxnID]*TempTable)}
}

// Permanent returns the run for committed frames, a new one when the last is
// full. It does no I/O and may be called under a leaf lock.
func (s *Store) Permanent() (*tablespace.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.permanent != nil && !s.permanent.Full() {
		return s.permanent, nil
	}
	r, err := s.space.NewRun(0)
	if err != nil {
		return nil, err
	}
	if s.permanent != nil {
		s.full = append(s.full, s.permanent)
	}
	s.permanent = r
	return r, nil
}

// Roll ends the shared run that is being written; the next frame begins another.
func (s *Store) Roll() {
	s.mu.Lock()
	if s.permanent != nil {
		s.full = append(s.full, s.permanent)
		s.permanent = nil
	}
	s.mu.Unlock()
}

// PermanentID returns the id of the shared run that is being written, 0 if there
// is none.
func (s *Store) PermanentID() base.RunID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.permanent == nil {
		return 0
	}
	return s.permanent.ID()
}

// SealFull seals the shared runs that are full. Sealing takes the lock of the
// edit queue, under which Permanent may be called. REQUIRES: no lock is held.
func (s *Store) SealFull() {
	s.mu.Lock()
	full := s.full
	s.full = nil
	s.mu.Unlock()
	for _, r := range full {
		r.Seal()
	}
}

// Rollover ends the run for committed frames: the next frame goes into a new
// one. REQUIRES: no lock is held.
func (s *Store) Rollover() {
	s.mu.Lock()
	if s.permanent != nil && s.permanent.Size() > 0 {
		s.full = append(s.full, s.permanent)
		s.permanent = nil
	}
	s.mu.Unlock()
	s.SealFull()
}

// Temp returns the temp table of a transaction, and makes it if need be.
func (s *Store) Temp(o *versionchain.Outcome) *TempTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.temps[o.ID]
	if t == nil {
		t = &TempTable{store: s, out: o}
		s.temps[o.ID] = t
	}
	return t
}

// Lookup returns the temp table of a transaction, nil when it has none.
func (s *Store) Lookup(id base.TxnID) *TempTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.temps[id]
}

// Forget drops the table of tables' entry once its transaction is decided.
func (s *Store) Forget(id base.TxnID) {
	s.mu.Lock()
	delete(s.temps, id)
	s.mu.Unlock()
}

// Check reports what is wrong with the temp tables: each is of a transaction that
// reg knows, and has its runs as long as that is not aborted.
func (s *Store) Check(reg *versionchain.Registry, report func(error)) {
	s.mu.Lock()
	temps := make([]*TempTable, 0, len(s.temps))
	for _, t := range s.temps {
		temps = append(temps, t)
	}
	s.mu.Unlock()
	for _, t := range temps {
		bad := func(format string, args ...any) {
			if s.Lookup(t.out.ID) == t { // it may have been decided and forgotten meanwhile
				report(fmt.Errorf("saker: check: temp table of %v: "+format, append([]any{t.out.ID}, args...)...))
			}
		}
		if reg.Get(t.out.ID) != t.out {
			bad("L7: its transaction is not in the registry")
		}
		t.mu.Lock()
		runs := append([]*tablespace.Run(nil), t.runs...)
		t.mu.Unlock()
		for _, r := range runs {
			if r.Owner() != t.out.ID {
				bad("run %x is of %v", uint64(r.ID()), r.Owner())
			}
			if s.space.Find(r.ID()) == nil && !t.out.Aborted() && r.Listed() > 0 {
				bad("P2: run %x is gone", uint64(r.ID()))
			}
		}
	}
}

// Len returns the number of temp tables.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.temps)
}

// TempTable is the runs that hold frames of one live transaction.
type TempTable struct {
	store *Store
	out   *versionchain.Outcome

	mu   sync.Mutex // guards runs
	runs []*tablespace.Run
}

// Run returns the run for the owner's next frame. It does no I/O and may be
// called under a leaf lock.
func (t *TempTable) Run() (*tablespace.Run, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.runs); n > 0 && !t.runs[n-1].Full() {
		return t.runs[n-1], nil
	}
	if n := len(t.runs); n > 0 {
		t.runs[n-1].WriteIndex() // M5: the entries do not wait in memory for the commit
	}
	r, err := t.store.space.NewRun(t.out.ID)
	if err != nil {
		return nil, err
	}
	t.runs = append(t.runs, r)
	return r, nil
}

// Finish writes the index of the owner's runs and waits until they are on stable
// storage. What it returns belongs into the commit record (L1).
func (t *TempTable) Finish() ([]seriallog.RunTail, error) {
	t.mu.Lock()
	runs := append([]*tablespace.Run(nil), t.runs...)
	t.mu.Unlock()
	tails := make([]seriallog.RunTail, 0, len(runs))
	for _, r := range runs {
		tails = append(tails, seriallog.RunTail{Run: r.ID(), Tail: r.WriteIndex()})
	}
	for _, r := range runs {
		if err := r.Sync(); err != nil {
			return nil, err
		}
	}
	return tails, nil
}

// Seal lets go of the runs that nothing lists, since their frames were merged into
// others. REQUIRES: the edit with the outcome row has ended. Then no run that a
// commit record names goes before that row is durable, and recovery can tell a run
// that was replaced from one that is lost (L11).
func (t *TempTable) Seal() {
	t.mu.Lock()
	runs := append([]*tablespace.Run(nil), t.runs...)
	t.mu.Unlock()
	for _, r := range runs {
		r.Seal()
	}
}

// Tails writes the index of every run, without waiting for the disk, and
// returns what a sweep needs to find all frames.
func (t *TempTable) Tails() []seriallog.RunTail {
	t.mu.Lock()
	defer t.mu.Unlock()
	tails := make([]seriallog.RunTail, 0, len(t.runs))
	for _, r := range t.runs {
		tails = append(tails, seriallog.RunTail{Run: r.ID(), Tail: r.WriteIndex()})
	}
	return tails
}

// Runs returns the ids of the owner's runs.
func (t *TempTable) Runs() []base.RunID {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make([]base.RunID, len(t.runs))
	for i, r := range t.runs {
		ids[i] = r.ID()
	}
	return ids
}
