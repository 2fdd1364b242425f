package command

import (
	"context"
	"errors"

	"github.com/sakerdb/saker/engine"
)

// Store is a store that may be opened several times; its counters go on.
type Store struct {
	*engine.DB // nil while it is closed
	dir        string
	o          *engine.Options
	past       engine.Metrics // of earlier openings
}

// Open opens the store.
func (s *Store) Open(dir string, o *engine.Options) (err error) {
	s.dir, s.o = dir, o
	s.DB, err = engine.Open(dir, o)
	return err
}

// Close verifies the store and closes it, whatever is wrong with it.
func (s *Store) Close(ctx context.Context) error {
	err := s.Verify(ctx)
	s.past = s.Seen()
	err = errors.Join(err, s.DB.Close())
	s.DB = nil
	return err
}

// Table returns the table of the name, made if there is none.
func (s *Store) Table(ctx context.Context, name string) (*engine.Table, error) {
	t, err := s.DB.Table(name)
	if errors.Is(err, engine.ErrTableNotFound) {
		t, err = s.CreateTable(ctx, name)
	}
	return t, err
}

// Seen returns the metrics of now with the counters of all openings.
func (s *Store) Seen() engine.Metrics {
	p := &s.past
	if s.DB == nil {
		return *p
	}
	m := s.Metrics()
	m.RecordMemoryPeak = max(m.RecordMemoryPeak, p.RecordMemoryPeak)
	m.RecordMemoryCap = max(m.RecordMemoryCap, p.RecordMemoryCap)
	m.LowMemoryEpisodes += p.LowMemoryEpisodes
	m.ChilledRecords += p.ChilledRecords
	m.ThawedRecords += p.ThawedRecords
	m.BackloggedChains += p.BackloggedChains
	m.RestoredChains += p.RestoredChains
	m.FrameMerges += p.FrameMerges
	m.LeafSplits += p.LeafSplits
	m.ColdReads += p.ColdReads
	m.Commits += p.Commits
	m.Rollbacks += p.Rollbacks
	m.Conflicts += p.Conflicts
	m.Deadlocks += p.Deadlocks
	m.Waits += p.Waits
	return m
}
