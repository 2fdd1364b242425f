package tablespace

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// Verify checks what the disk can show of the map, as of one applied edit: every
// row decodes, leaves do not overlap (P4), run rows count exactly the list
// entries (L10), and every listed committed frame of a run that exists lies
// within it (a crash may cut short what an owner without outcome wrote).
func (s *Space) Verify(ctx context.Context) error {
	it, err := s.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		return fmt.Errorf("saker: verify leaf map: %w", err)
	}
	c := checker{s: s, listed: map[base.RunID]int64{}, rows: map[base.RunID]int64{}}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err == nil {
			err = c.row(it.Key(), value)
		}
		if err == nil {
			err = ctx.Err()
		}
	}
	if err == nil {
		err = it.Error()
	}
	_ = it.Close()
	if err == nil {
		err = c.counts()
	}
	if err != nil {
		return fmt.Errorf("saker: verify leaf map: %w", err)
	}
	return nil
}

type checker struct {
	s       *Space
	listed  map[base.RunID]int64 // by the entries
	rows    map[base.RunID]int64 // by the run rows
	table   []byte               // of the entry before, as bytes of its key
	high    []byte               // of the entry before
	open    bool                 // the entry before has no high
	entries int
}

func (c *checker) row(key, value []byte) error {
	var err error
	switch key[0] {
	case keyEntry:
		return c.entry(key, value)
	case keyRun:
		var count int64
		var id base.RunID
		id, count, _, err = decodeRun(key, value)
		c.rows[id] = count
	case keyOutcome:
		_, err = decodeOutcome(key, value)
	case keyTable:
		_, err = decodeTable(key, value)
	case keyMeta:
		_, err = decodeMeta(key, value)
	case keyCheckpoint:
		var a, b uint64
		err = decodeUints(key, value, &a, &b)
	case keyPrefix:
		var a uint64
		err = decodeUints(key, value, &a)
	default:
		err = &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("unknown row %q", key)}
	}
	return err
}

func (c *checker) entry(key, value []byte) error {
	en, err := decodeEntry(key, value)
	if err != nil {
		return err
	}
	bad := func(why string) error {
		table := binary.BigEndian.Uint32(key[1:])
		return &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("leaf of table %d at %q: %s", table, en.Low, why)}
	}
	if en.High != nil && bytes.Compare(en.Low, en.High) >= 0 {
		return bad("fences out of order")
	}
	if bytes.Equal(c.table, key[:entryKeyPrefix]) && (c.open || bytes.Compare(c.high, en.Low) > 0) {
		return bad("overlaps the leaf before")
	}
	c.table = append(c.table[:0], key[:entryKeyPrefix]...)
	c.high, c.open = append(c.high[:0], en.High...), en.High == nil
	c.entries++
	for i := range en.Frames {
		f := &en.Frames[i]
		c.listed[f.Run]++
		if r := c.s.Find(f.Run); f.Owner == 0 && r != nil && (f.Off < runHeaderSize || f.Off+uint64(f.Len) > r.size.Load()) {
			return bad("a frame lies outside of its run")
		}
	}
	return nil
}

func (c *checker) counts() error {
	for run, n := range c.listed {
		if c.rows[run] != n {
			return &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("run %x is listed %d times and counts %d", uint64(run), n, c.rows[run])}
		}
	}
	for run, n := range c.rows {
		if c.listed[run] == 0 {
			return &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("run %x is not listed and counts %d", uint64(run), n)}
		}
	}
	return nil
}
