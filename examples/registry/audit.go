package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

var errAudit = errors.New("stored registry is not what its history gives")

// memRecords are records in memory.
type memRecords map[string][]byte

func memKey(t table, key []byte) string { return string(rune('0'+t)) + string(key) }

func (m memRecords) get(t table, key []byte) ([]byte, error) {
	v, ok := m[memKey(t, key)]
	if !ok {
		return nil, engine.ErrNotFound
	}
	return v, nil
}

func (m memRecords) put(t table, key, value []byte) error {
	m[memKey(t, key)] = bytes.Clone(value)
	return nil
}

// audit computes the registry from the genesis and the whole block index, as a
// node without a stored one would have to, and compares all records. Memory grows
// with the registry, not the history.
func (r *Registry) audit(ctx context.Context) (blocks int, err error) {
	err = r.Query(ctx, func(v *View) error {
		m := memRecords{}
		c := change{r: m, st: state{Genesis: v.State.Genesis, SlotTime: v.State.SlotTime, Founders: v.State.Founders}}
		if err := c.genesis(); err != nil {
			return err
		}
		for row, err := range v.tx.Scan(r.tables[blockTable], engine.Range{}) {
			if err != nil {
				return err
			}
			b, err := decodeBlockRow(row.Value)
			if err != nil {
				return err
			}
			if err := c.replay(&b); err != nil {
				return err
			}
			delete(m, memKey(blockTable, row.Key)) // compared already
			blocks++
		}
		if err := c.advance(v.State.Slot, int(v.State.Slot)); err != nil {
			return err
		}
		return v.compare(m)
	})
	return blocks, err
}

// replay advances to a block's slot and applies it.
func (c *change) replay(row *blockRow) error {
	b := &row.Block
	if b.Slot < c.st.Slot {
		return fmt.Errorf("%w: block %d goes back to slot %d", errAudit, b.Height, b.Slot)
	}
	if err := c.advance(b.Slot, int(b.Slot-c.st.Slot)); err != nil {
		return err
	}
	if err := c.validate(b, b.hash()); err != nil {
		return fmt.Errorf("%w: block %d: %w", errAudit, b.Height, err)
	}
	if err := c.apply(b, b.hash()); err != nil {
		return fmt.Errorf("%w: block %d: %w", errAudit, b.Height, err)
	}
	if row.Hash != c.st.Hash || row.Supply != c.st.Supply {
		return fmt.Errorf("%w: block %d has other results", errAudit, b.Height)
	}
	return nil
}

// compare tells whether the view has exactly the records of m.
func (v *View) compare(m memRecords) error {
	n := 0
	for t := range blockTable { // the tables before it
		for row, err := range v.tx.Scan(v.r.tables[t], engine.Range{}) {
			if err != nil {
				return err
			}
			n++
			if want, err := m.get(t, row.Key); err != nil || !bytes.Equal(want, row.Value) {
				return fmt.Errorf("%w: record %x of %s", errAudit, row.Key, tableNames[t])
			}
		}
	}
	if n != len(m) {
		return fmt.Errorf("%w: %d records, not %d", errAudit, n, len(m))
	}
	return nil
}
