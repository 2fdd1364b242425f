package tablespace

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// Fate is what has become of a transaction.
type Fate uint8

const (
	// FateUnknown is that of a transaction that nobody knows.
	FateUnknown Fate = iota
	// FateLive has no outcome yet.
	FateLive
	// FateCommitted has a timestamp.
	FateCommitted
	// FateAborted was rolled back.
	FateAborted
)

// CheckOptions say what Check looks at and whom it asks.
type CheckOptions struct {
	// Report is called for every finding: a *base.CorruptionError with file and
	// offset where there is one.
	Report func(error)
	// Frames asks for every frame and every run file to be read. It REQUIRES Fate
	// and Dropped.
	Frames bool
	// Fate tells the outcome of an owner, at the time of the call.
	Fate func(base.TxnID) (Fate, base.CommitTS)
	// Dropped reports whether a table that is not in the catalog may have entries
	// still, given the named values of the map.
	Dropped func(base.TableID, map[string][]byte) bool
}

// Verify is Check of the map alone; it returns the findings joined.
func (s *Space) Verify(ctx context.Context) error {
	var f base.Findings
	if err := s.Check(ctx, CheckOptions{Report: f.Add}); err != nil {
		return fmt.Errorf("saker: verify leaf map: %w", err)
	}
	if err := f.Err(); err != nil {
		return fmt.Errorf("saker: verify leaf map: %w", err)
	}
	return nil
}

// Check verifies what the disk shows of the space, as of one applied edit, and
// goes on behind what it finds:
//
//   - every row of the map decodes; every block of its files has its checksum
//   - leaves are sorted and do not overlap (P4), their tables exist, no entry is
//     newer than the edits that survive (L10, L11)
//   - run rows count exactly the list entries (L10)
//   - a listed frame of a committed or live owner is there, whole, and what the
//     list says of it is true: table, owner, timestamps, leave number, rows,
//     filter, bounds; it overlaps the leaf
//   - an owner is known, or of an earlier incarnation; one committed before the
//     checkpoint has an outcome row (L7)
//   - run files hold frames and index blocks without a gap, each with its
//     checksum; the index names exactly the frames before it
//   - every run file is of a run that something needs
//
// Reading and writing go on meanwhile; run files are not unlinked. The error is
// that of ctx.
func (s *Space) Check(ctx context.Context, o CheckOptions) error {
	release := s.holdUnlink()
	defer func() { _ = release() }() // what cannot be removed is found at the next opening
	if err := s.WaitApplied(s.LastSeq()); err != nil && s.p.get() == nil {
		return err
	}
	c := &checker{
		s: s, CheckOptions: o, ctx: ctx,
		listed: map[base.RunID]*listedRun{}, counts: map[base.RunID]int64{}, outcomes: map[base.TxnID]struct{}{},
		tables: map[base.TableID]string{}, names: map[string]base.TableID{}, used: map[base.TableID]struct{}{},
		meta: map[string][]byte{},
	}
	steps := []func() error{c.rows, c.mapFiles}
	if o.Frames {
		steps = append(steps, c.runFiles, c.orphans)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// checker is the state of one Check.
type checker struct {
	CheckOptions
	s   *Space
	ctx context.Context

	listed   map[base.RunID]*listedRun
	counts   map[base.RunID]int64 // by the run rows
	outcomes map[base.TxnID]struct{}
	tables   map[base.TableID]string
	names    map[string]base.TableID
	used     map[base.TableID]struct{} // tables with entries
	meta     map[string][]byte
	ckpt     base.CommitTS
	prefix   base.EditSeq

	table []byte // of the entry before, as bytes of its key
	high  []byte // of the entry before
	open  bool   // the entry before has no high
	buf   []byte
	blind bool // some of the map could not be read
}

// listedRun is what the entries say of a run.
type listedRun struct {
	n       int64
	end     uint64 // of the last frame that must be there
	decided bool   // it is of an owner that committed: it was synced as a whole
}

func (c *checker) corrupt(file string, off uint64, format string, args ...any) {
	c.Report(&base.CorruptionError{File: file, Offset: int64(off), Why: fmt.Sprintf(format, args...)})
}

func (c *checker) mapPath() string { return c.s.o.FS.PathJoin(c.s.o.Dir, mapDirName) }

// rows checks the rows of the map: first all but the entries, for which the
// others must be known, then those.
func (c *checker) rows() error {
	snap := c.s.db.NewSnapshot()
	defer func() { _ = snap.Close() }()
	ranges := [][2][]byte{
		{nil, {keyEntry}},
		{{keyEntry + 1}, nil},
		{{keyEntry}, {keyEntry + 1}},
	}
	for _, r := range ranges {
		if err := c.walk(snap, r[0], r[1]); err != nil {
			return err
		}
		if c.blind {
			return nil // what was not seen must not be missed
		}
	}
	for run, l := range c.listed {
		if c.counts[run] != l.n {
			c.corrupt(c.mapPath(), 0, "L10: run %x is listed %d times and counts %d", uint64(run), l.n, c.counts[run])
		}
	}
	for run, n := range c.counts {
		if c.listed[run] == nil {
			c.corrupt(c.mapPath(), 0, "L10: run %x is not listed and counts %d", uint64(run), n)
		}
	}
	for id := range c.used {
		if _, ok := c.tables[id]; !ok && c.Dropped != nil && !c.Dropped(id, c.meta) {
			c.corrupt(c.mapPath(), 0, "entries of table %d, which does not exist", id)
		}
	}
	return nil
}

// walk checks the rows with keys in [from, to). Where Pebble cannot go on, the
// rest of the range cannot be seen.
func (c *checker) walk(snap *pebble.Snapshot, from, to []byte) error {
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		c.unreadable(err)
		return c.ctx.Err()
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%64 == 0 && c.ctx.Err() != nil {
			break
		}
		value, err := it.ValueAndErr()
		if err != nil {
			c.unreadable(err)
			break
		}
		if err := c.row(it.Key(), value); err != nil {
			c.Report(err)
		}
	}
	if err := it.Error(); err != nil {
		c.unreadable(err)
	}
	_ = it.Close()
	return c.ctx.Err()
}

// unreadable reports what Pebble says of its files: damage, or an error of the disk.
func (c *checker) unreadable(err error) {
	c.blind = true
	if ce := (*base.CorruptionError)(nil); !errors.As(err, &ce) {
		err = c.s.mapError("read leaf map", err)
	}
	c.Report(err)
}

func (c *checker) row(key, value []byte) error {
	var err error
	switch key[0] {
	case keyEntry:
		return c.entry(key, value)
	case keyRun:
		var count int64
		var id base.RunID
		if id, count, _, err = decodeRun(key, value); err == nil {
			c.counts[id] = count
		}
	case keyOutcome:
		var o Outcome
		if o, err = decodeOutcome(key, value); err == nil {
			c.outcomes[o.Txn] = struct{}{}
		}
	case keyTable:
		var t TableRow
		if t, err = decodeTable(key, value); err == nil {
			if other, twice := c.names[t.Name]; twice {
				c.corrupt(c.mapPath(), 0, "tables %d and %d have the name %q", other, t.ID, t.Name)
			}
			c.tables[t.ID], c.names[t.Name] = t.Name, t.ID
		}
	case keyMeta:
		var v []byte
		if v, err = decodeMeta(key, value); err == nil {
			c.meta[string(key[1:])] = v
		}
	case keyCheckpoint:
		var pos uint64
		err = decodeUints(key, value, &pos, (*uint64)(&c.ckpt))
	case keyPrefix:
		err = decodeUints(key, value, (*uint64)(&c.prefix))
	default:
		err = &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("unknown row %q", key)}
	}
	return err
}
