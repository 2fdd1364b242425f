package txn

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

// IndexRow is one row of a scan over an index. Its bytes are valid until the next
// iteration.
type IndexRow struct{ IndexKey, Key, Value []byte }

// entryRow is what an entry under a cursor leads to.
type entryRow struct {
	ix       *recordcache.Index
	indexKey []byte
	key      []byte // of the row; a part of the entry
	value    []byte
}

// ScanIndex returns the rows whose index keys lie in r, in the order of index key
// and key, descending with Reverse: each row once for each of its index keys in the
// range. Entry and row are of one snapshot. All else is as for Scan.
// ErrIndexNotFound; ErrIndexNotReady if the index is younger than the snapshot.
func (tx *Tx) ScanIndex(ix *recordcache.Index, r Range) iter.Seq2[IndexRow, error] {
	return func(yield func(IndexRow, error) bool) {
		c := tx.IndexCursor(ix, r)
		defer c.c.close()
		ok, next := c.First, c.Next
		if r.Reverse {
			ok, next = c.Last, c.Prev
		}
		n := 0
		for more := ok(); more; more = next() {
			n++
			if !yield(IndexRow{IndexKey: c.IndexKey(), Key: c.Key(), Value: c.Value()}, nil) {
				return
			}
			if n == r.Limit {
				return // without a look at the row behind
			}
		}
		if err := c.Err(); err != nil {
			yield(IndexRow{}, err)
		}
	}
}

// IndexCursor walks the rows of a range of an index, in the order of index key and
// key, in either direction. What holds for a Cursor holds for it.
type IndexCursor struct {
	c     Cursor
	entry entryRow
}

// IndexCursor returns a cursor over the rows whose index keys lie in r, not yet
// positioned. Close it. Errors as of ScanIndex come with the first move.
func (tx *Tx) IndexCursor(ix *recordcache.Index, r Range) *IndexCursor {
	c := &IndexCursor{entry: entryRow{ix: ix}}
	c.c = Cursor{tx: tx, from: indexBound(r.From), to: indexBound(r.To), entry: &c.entry}
	if ix != nil {
		c.c.t = ix.Entries()
	}
	tx.open(&c.c)
	return c
}

// indexBound returns where the entries of an index key begin; nil is open.
func indexBound(indexKey []byte) []byte {
	if indexKey == nil {
		return nil
	}
	return base.AppendIndexKey(nil, indexKey)
}

// First moves to the first row and reports whether there is one.
func (c *IndexCursor) First() bool { return c.c.First() }

// Last moves to the last row and reports whether there is one.
func (c *IndexCursor) Last() bool { return c.c.Last() }

// Seek moves to the first row whose index key is not below indexKey.
func (c *IndexCursor) Seek(indexKey []byte) bool { return c.c.Seek(base.AppendIndexKey(nil, indexKey)) }

// SeekBefore moves to the last row whose index key is below indexKey; none is below
// nil.
func (c *IndexCursor) SeekBefore(indexKey []byte) bool { return c.c.SeekBefore(indexBound(indexKey)) }

// Next moves to the next row in ascending order, as Cursor.Next does.
func (c *IndexCursor) Next() bool { return c.c.Next() }

// Prev moves to the next row in descending order, as Cursor.Prev does.
func (c *IndexCursor) Prev() bool { return c.c.Prev() }

// IndexKey returns the current index key; valid until the cursor moves.
func (c *IndexCursor) IndexKey() []byte {
	if !c.c.valid {
		return nil
	}
	return c.entry.indexKey
}

// Key returns the key of the current row; valid until the cursor moves.
func (c *IndexCursor) Key() []byte {
	if !c.c.valid {
		return nil
	}
	return c.entry.key
}

// Value returns the value of the current row; valid until the cursor moves.
func (c *IndexCursor) Value() []byte {
	if !c.c.valid {
		return nil
	}
	return c.entry.value
}

// Err returns the error that ended the walk, nil at the end of the range.
func (c *IndexCursor) Err() error {
	if errors.Is(c.c.err, base.ErrTableNotFound) {
		return base.ErrIndexNotFound
	}
	return c.c.err
}

// Close releases the cursor. It never fails.
func (c *IndexCursor) Close() error { return c.c.Close() }

// mayRead returns nil if the entries of ix are complete as of ts, for this
// transaction. Of a dropped index they are so only while it writes nothing to the
// table. REQUIRES: tx.mu is held, the transaction is open.
func (tx *Tx) mayRead(ix *recordcache.Index, ts base.CommitTS) error {
	rows := ix.Table()
	if d := base.CommitTS(rows.Dropped.Load()); d != 0 && d <= ts {
		return base.ErrIndexNotFound
	}
	if ix.Entries().Dropped.Load() != 0 && slices.Contains(tx.tables, rows) {
		return base.ErrIndexNotFound
	}
	if ready := ix.Ready(); ready == 0 || ready > ts && !seeded.On(seeded.EarlyIndex) {
		return base.ErrIndexNotReady
	}
	return nil
}

// readEntry takes an entry apart and reads its row. The entry is passed over, not
// shown, if it is older than what the transaction has made of the row: a cursor at
// ReadCommitted has a snapshot of its own, and its transaction erases the entries that
// a row has when it is written, which may be others by then. REQUIRES: tx.mu is held,
// the transaction is open.
func (tx *Tx) readEntry(e *entryRow, r *versionchain.Reader, key, value []byte) (shown bool, err error) {
	indexKey, pk, ok := base.CutIndexKey(e.indexKey[:0], key)
	e.indexKey = indexKey
	if e.ix.Unique() && ok {
		ok, pk = len(pk) == 0, value
	}
	if !ok {
		return false, badEntry(e.ix, key, "is none")
	}
	e.key = pk
	if tx.reads.on {
		tx.readKey(e.ix.Table(), pk)
	}
	row, found, err := e.ix.Table().Get(r, &tx.sc, e.value[:0], pk)
	if e.value = row; err != nil {
		return false, err
	}
	// Without its function, nobody has written the table but to lock rows.
	mixed := r.Snapshot != tx.w.Snapshot && e.ix.Func() != nil && slices.Contains(tx.tables, e.ix.Table())
	if !found && !mixed {
		return false, badEntry(e.ix, key, "is of a row that is not there")
	}
	if e.value == nil {
		e.value = []byte{}
	}
	if mixed && found {
		return emits(e.ix, pk, e.value, key)
	}
	return found, nil
}

// badEntry reports an entry that disagrees with the indexed table.
func badEntry(ix *recordcache.Index, entry []byte, why string) error {
	return &base.CorruptionError{
		File: "index " + ix.Name() + " of table " + ix.Table().Name,
		Why:  fmt.Sprintf("entry %x %s", entry[:min(len(entry), 64)], why),
	}
}
