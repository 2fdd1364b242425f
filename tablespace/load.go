package tablespace

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// Loaded is what the disk held when the space was opened.
type Loaded struct {
	Outcomes     []Outcome  // by TxnID
	Tables       []TableRow // by TableID
	Checkpoint   base.LSN
	CheckpointTS base.CommitTS
	Meta         map[string][]byte
	// LastSeq is the last edit of the prefix that survived: a frame in the
	// index of a run with a greater Seq may be missing from the map.
	LastSeq base.EditSeq
	Runs    []RunRow // no particular order
}

// Loaded returns what the disk held when the space was opened. The caller must
// not change it.
func (s *Space) Loaded() *Loaded { return &s.loaded }

// load fills s.loaded and the registry of runs.
func (s *Space) load() error {
	s.loaded.Meta = map[string][]byte{}
	if err := s.loadRuns(); err != nil {
		return err
	}
	for _, kind := range []byte{keyMeta, keyOutcome, keyCheckpoint, keyRun, keyPrefix, keyTable} {
		if err := s.loadRows(kind); err != nil {
			return err
		}
	}
	for _, r := range s.runs {
		s.loaded.Runs = append(s.loaded.Runs, RunRow{
			Run: r.id, Owner: r.owner, Count: r.listed.Load(), Bytes: r.Size(), OnDisk: r.refs.Load()&gone == 0,
		})
	}
	return nil
}

// loadRuns registers the run files.
func (s *Space) loadRuns() error {
	names, err := s.o.FS.List(s.runDir)
	if err != nil {
		return fmt.Errorf("saker: list runs: %w", err)
	}
	for _, name := range names {
		id, ok := parseRunName(name)
		if !ok {
			continue // not ours
		}
		info, err := s.o.FS.Stat(s.o.FS.PathJoin(s.runDir, name))
		if err != nil {
			return fmt.Errorf("saker: stat run: %w", err)
		}
		r := &Run{s: s, id: id, found: true}
		n := uint64(info.Size())
		r.size.Store(n)
		r.written.Store(n)
		// Not known to be synced: the last process may have died before it was,
		// and what we read may only be in the operating system's cache.
		r.sealed.Store(true)
		s.runBytes.Add(int64(n))
		s.runs[id] = r
	}
	return nil
}

// adopt registers a run that has no file.
func (s *Space) adopt(id base.RunID) *Run {
	s.regMu.Lock()
	defer s.regMu.Unlock()
	if r := s.runs[id]; r != nil {
		return r
	}
	r := &Run{s: s, id: id, done: true}
	r.refs.Store(gone)
	r.sealed.Store(true)
	s.runs[id] = r
	return r
}

// loadRows decodes the rows of one kind.
func (s *Space) loadRows(kind byte) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		return s.mapError("read leaf map", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = s.loadRow(it.Key(), value)
		}
		if err != nil {
			_ = it.Close()
			return err
		}
	}
	if err := it.Close(); err != nil {
		return s.mapError("read leaf map", err)
	}
	return nil
}

func (s *Space) loadRow(key, value []byte) error {
	l := &s.loaded
	switch key[0] {
	case keyOutcome:
		o, err := decodeOutcome(key, value)
		l.Outcomes = append(l.Outcomes, o)
		return err
	case keyTable:
		t, err := decodeTable(key, value)
		l.Tables = append(l.Tables, t)
		return err
	case keyMeta:
		v, err := decodeMeta(key, value)
		l.Meta[string(key[1:])] = v
		return err
	case keyCheckpoint:
		return decodeUints(key, value, (*uint64)(&l.Checkpoint), (*uint64)(&l.CheckpointTS))
	case keyPrefix:
		return decodeUints(key, value, (*uint64)(&l.LastSeq))
	case keyRun:
		id, count, owner, err := decodeRun(key, value)
		if err != nil {
			return err
		}
		r := s.adopt(id)
		r.owner = owner
		r.listed.Store(count)
		r.applied.Store(count)
		r.named.Store(true)
	}
	return nil
}

// CollectFiles unlinks the run files that nothing has listed since the space was
// opened. To be called when recovery has re-added what the log names (L11). A run
// whose last entry was removed since is left to Flush: until then the map on disk
// lists it, or a commit record has it listed again (L10). So is one that is
// logged, which may be nil: a commit record names it, and only when the outcome
// row that recovery writes is durable may its file be missing.
func (s *Space) CollectFiles(logged func(base.RunID) bool) (removed int, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	var list []*Run
	s.regMu.RLock()
	for _, r := range s.runs {
		if s.isOld(r) && !r.named.Load() && r.refs.Load() == 0 {
			list = append(list, r)
		}
	}
	s.regMu.RUnlock()
	for _, r := range list {
		if logged != nil && logged(r.id) {
			s.idle(r, s.LastSeq())
			continue
		}
		s.unlink(r)
		removed++
	}
	return removed, nil
}

// Missing returns what is wrong with a store in which the run has no file although
// it must have one; nil if it has.
func (s *Space) Missing(id base.RunID) error {
	if s.Find(id) != nil {
		return nil
	}
	return &base.CorruptionError{File: s.runPath(id), Why: "the file of a run is missing"}
}

// isOld reports whether the run is of an earlier life of the store.
func (s *Space) isOld(r *Run) bool {
	return uint32(uint64(r.id)>>base.RunSeqBits) != s.o.Incarnation
}
