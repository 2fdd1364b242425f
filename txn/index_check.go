package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

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

	buf   []byte // of found: keys of entries and of their rows
	found []buildEntry
}

// entries looks for the rows of entries, from a key on, and returns the last one
// looked at, nil at the end. It takes them row by row: a row with many of them would
// go through the index's function once for each.
func (c *indexCheck) entries(tx *Tx, from []byte) (last []byte, err error) {
	c.buf, c.found = c.buf[:0], c.found[:0]
	n := 0
	for e, err := range tx.Scan(c.ix.Entries(), Range{From: from}) {
		if err != nil {
			return nil, err
		}
		c.note(e.Key, e.Value)
		if n++; n == checkRows || len(c.buf) > buildBytes {
			last = bytes.Clone(e.Key)
			break
		}
	}
	slices.SortStableFunc(c.found, func(x, y buildEntry) int { return bytes.Compare(c.row(x), c.row(y)) })
	for len(c.found) > 0 {
		pk, n := c.row(c.found[0]), 1
		for n < len(c.found) && bytes.Equal(c.row(c.found[n]), pk) {
			n++
		}
		if err := c.ofRow(tx, pk, c.found[:n]); err != nil {
			return nil, err
		}
		c.found = c.found[n:]
	}
	return last, nil
}

func (c *indexCheck) entry(e buildEntry) []byte { return c.buf[e.from:e.mid] }
func (c *indexCheck) row(e buildEntry) []byte   { return c.buf[e.mid:e.to] }

// note keeps an entry that can be taken apart.
func (c *indexCheck) note(entry, value []byte) {
	_, pk, ok := base.CutIndexKey(nil, entry)
	if c.ix.Unique() && ok {
		ok, pk = len(pk) == 0, value
	}
	if !ok || len(pk) == 0 {
		c.report(badEntry(c.ix, entry, "is none"))
		return
	}
	from := len(c.buf)
	c.buf = append(append(c.buf, entry...), pk...)
	c.found = append(c.found, buildEntry{from, from + len(entry), len(c.buf)})
}

// ofRow checks entries of one row.
func (c *indexCheck) ofRow(tx *Tx, pk []byte, entries []buildEntry) error {
	row, err := tx.Get(c.ix.Table(), pk)
	gone := errors.Is(err, base.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	known := !gone && c.ix.Attached() && c.u.collect(c.ix, &c.set, pk, row) == nil // or rows reports it
	for _, e := range entries {
		switch {
		case gone:
			c.report(badEntry(c.ix, c.entry(e), "is of a row that is not there"))
		case known && !c.set.has(c.entry(e)):
			c.report(badEntry(c.ix, c.entry(e), fmt.Sprintf("is not one of its row, %x", pk[:min(len(pk), 64)])))
		}
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
		if err := c.rowEntries(tx, row); err != nil {
			return nil, err
		}
		if n++; n == checkRows {
			last = bytes.Clone(row.Key)
		}
	}
	return last, nil
}

func (c *indexCheck) rowEntries(tx *Tx, row Row) error {
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
