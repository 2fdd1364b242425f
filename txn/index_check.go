package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// checkRows is how many rows or entries are checked as of one snapshot: each with
// what belongs to it, so that a check of a large table holds no old versions.
const checkRows = 4096

// CheckIndex reports every entry of ix without its row and every row without its
// entries; while the index is detached, only entries of rows that do not exist.
func (m *Manager) CheckIndex(ctx context.Context, ix *recordcache.Index, report func(error)) error {
	c := &indexCheck{ix: ix, u: newUpkeep(), report: report}
	walks := []func(*Tx, []byte) ([]byte, error){c.entries}
	if ix.Attached() {
		walks = append(walks, c.rows)
	}
	for _, walk := range walks {
		for from, more := []byte(nil), true; more; {
			tx, err := m.Begin(ctx, Options{ReadOnly: true})
			if err != nil {
				return err
			}
			last, err := walk(tx, from)
			_ = tx.Rollback() // it has written nothing
			switch {
			case errors.Is(err, base.ErrTableNotFound):
				return nil // dropped meanwhile
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			}
			from, more = append(bytes.Clone(last), 0), last != nil
		}
	}
	return nil
}

// indexCheck is one check of an index.
type indexCheck struct {
	ix     *recordcache.Index
	u      *upkeep
	set    entrySet
	report func(error)
}

// entries looks for the row of each entry, from a key on, and returns the last one
// looked at, nil at the end.
func (c *indexCheck) entries(tx *Tx, from []byte) (last []byte, err error) {
	n := 0
	for e, err := range tx.Scan(c.ix.Entries(), Range{From: from, Limit: checkRows}) {
		if err != nil {
			return nil, err
		}
		if err := c.entry(tx, e.Key, e.Value); err != nil {
			return nil, err
		}
		if n++; n == checkRows {
			last = bytes.Clone(e.Key)
		}
	}
	return last, nil
}

func (c *indexCheck) entry(tx *Tx, entry, value []byte) error {
	_, pk, ok := base.CutIndexKey(nil, entry)
	if c.ix.Unique() && ok {
		ok, pk = len(pk) == 0, value
	}
	if !ok || len(pk) == 0 {
		c.report(badEntry(c.ix, entry, "is none"))
		return nil
	}
	row, err := tx.Get(c.ix.Table(), pk)
	if errors.Is(err, base.ErrNotFound) {
		c.report(badEntry(c.ix, entry, "is of a row that is not there"))
		return nil
	}
	if err != nil || !c.ix.Attached() {
		return err
	}
	// If the function fails, rows reports it.
	if c.u.collect(c.ix, &c.set, pk, row) == nil && !c.set.has(entry) {
		c.report(badEntry(c.ix, entry, fmt.Sprintf("is not one of its row, %x", pk[:min(len(pk), 64)])))
	}
	return nil
}

// rows looks for the entries of each row, as entries does for rows.
func (c *indexCheck) rows(tx *Tx, from []byte) (last []byte, err error) {
	n := 0
	for row, err := range tx.Scan(c.ix.Table(), Range{From: from, Limit: checkRows}) {
		if err != nil {
			return nil, err
		}
		if err := c.row(tx, row); err != nil {
			return nil, err
		}
		if n++; n == checkRows {
			last = bytes.Clone(row.Key)
		}
	}
	return last, nil
}

func (c *indexCheck) row(tx *Tx, row Row) error {
	if err := c.u.collect(c.ix, &c.set, row.Key, row.Value); err != nil {
		c.report(fmt.Errorf("saker: check of row %x: %w", row.Key[:min(len(row.Key), 64)], err))
		return nil
	}
	for i := range c.set.at {
		entry := c.set.get(i)
		pk, err := tx.Get(c.ix.Entries(), entry)
		switch {
		case errors.Is(err, base.ErrNotFound):
			c.report(badEntry(c.ix, entry, fmt.Sprintf("of row %x is missing", row.Key[:min(len(row.Key), 64)])))
		case err != nil:
			return err
		case c.ix.Unique() && !bytes.Equal(pk, row.Key):
			c.report(badEntry(c.ix, entry, fmt.Sprintf("is not of row %x", row.Key[:min(len(row.Key), 64)])))
		}
	}
	return nil
}
