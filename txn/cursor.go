package txn

import (
	"bytes"
	"iter"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

// Scan returns the rows of r in key order, descending with Reverse, as the
// transaction's snapshot and its own writes have them; at ReadCommitted as of when the
// iteration begins. The bytes of a Row are
// valid until the next iteration. An error ends the scan and comes as the last
// pair. Own writes made while scanning are seen from the next row on.
func (tx *Tx) Scan(t *recordcache.Table, r Range) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		c := tx.Cursor(t, r)
		defer c.close()
		ok := c.First
		if r.Reverse {
			ok = c.Last
		}
		n := 0
		for more := ok(); more; {
			n++
			if !yield(Row{Key: c.Key(), Value: c.Value()}, nil) {
				return
			}
			if n == r.Limit {
				return // without a look at the row behind
			}
			if r.Reverse {
				more = c.Prev()
			} else {
				more = c.Next()
			}
		}
		if err := c.Err(); err != nil {
			yield(Row{}, err)
		}
	}
}

// Cursor walks the rows of a range in either direction. It is stable in its
// transaction's snapshot, at ReadCommitted in one of its own, taken when it is made;
// and it sees the transaction's own writes as of when it moves. It belongs to the goroutine of its transaction. Limit and Reverse of
// the range do not bind it.
type Cursor struct {
	tx      *Tx
	t       *recordcache.Table
	from    []byte
	to      []byte
	it      recordcache.Iter
	sc      recordcache.Scratch
	reverse bool
	valid   bool
	seen    uint64 // the transaction's writes when the view was taken
	key     []byte // position, a copy
	err     error
	closed  bool
	ended   bool // it moved past the last row in its direction, or its range has none
	index   int  // in tx.cursors
	tracks  bool // it has read something that is not in the transaction's read set

	snap   *snapshot           // at ReadCommitted, until it or the transaction ends
	reader versionchain.Reader // at ReadCommitted: as of snap

	entry *entryRow // of a cursor over the entries of an index
}

// Cursor returns a cursor over r, not yet positioned. Close it.
func (tx *Tx) Cursor(t *recordcache.Table, r Range) *Cursor {
	return tx.open(&Cursor{tx: tx, t: t, from: bytes.Clone(r.From), to: bytes.Clone(r.To)})
}

// open enters a new cursor into its transaction's list.
func (tx *Tx) open(c *Cursor) *Cursor {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.alive() == nil {
		c.index = len(tx.cursors)
		tx.cursors = append(tx.cursors, c)
		if tx.iso == ReadCommitted {
			c.snap = tx.m.snaps.open()
		}
	}
	return c
}

// First moves to the first row and reports whether there is one.
func (c *Cursor) First() bool { return c.begin(c.from, c.to, false) }

// Last moves to the last row and reports whether there is one.
func (c *Cursor) Last() bool { return c.begin(c.from, c.to, true) }

// Seek moves to the first row whose key is not below key.
func (c *Cursor) Seek(key []byte) bool {
	from := key
	if bytes.Compare(from, c.from) < 0 {
		from = c.from
	}
	return c.begin(from, c.to, false)
}

// SeekBefore moves to the last row whose key is below key; none is below nil.
func (c *Cursor) SeekBefore(key []byte) bool {
	to := key
	if to == nil {
		to = []byte{}
	}
	if c.to != nil && bytes.Compare(c.to, to) < 0 {
		to = c.to
	}
	return c.begin(c.from, to, true)
}

func (c *Cursor) begin(from, to []byte, reverse bool) bool {
	tx := c.tx
	if tx == nil {
		c.err = base.ErrTxDone // a zero Cursor
		return false
	}
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.alive() == nil {
		c.track()
	}
	c.valid, c.ended, c.reverse = false, true, reverse
	if !c.usable() {
		return false
	}
	if to != nil && bytes.Compare(from, to) >= 0 {
		return false
	}
	c.it.Reset(c.t, c.eyes(), &c.sc, from, to, reverse)
	c.seen = tx.writes
	c.tracks = tx.reads.on
	return c.step()
}

// usable checks cursor, transaction and table. REQUIRES: tx.mu is held.
func (c *Cursor) usable() bool {
	if c.closed {
		c.err = base.ErrTxDone
		return false
	}
	err := c.tx.alive()
	if err == nil {
		err = c.tx.knows(c.t, c.eyes().Snapshot)
	}
	if err != nil {
		c.err = err
	}
	if c.entry != nil && c.err == nil {
		c.err = c.tx.mayRead(c.entry.ix, c.eyes().Snapshot)
	}
	return c.err == nil
}

// eyes returns what the cursor sees with. REQUIRES: tx.mu is held, the transaction
// is open.
func (c *Cursor) eyes() *versionchain.Reader {
	if c.snap == nil {
		return &c.tx.w.Reader
	}
	c.reader = versionchain.Reader{Snapshot: c.snap.ts, Self: c.tx.out, Reg: c.tx.m.Reg}
	return &c.reader
}

// letGo gives back the cursor's own snapshot. REQUIRES: tx.mu is held, the
// transaction is open or about to end.
func (c *Cursor) letGo() {
	if c.snap != nil {
		c.tx.m.snaps.close(c.snap)
		c.snap = nil
	}
}

func (c *Cursor) step() bool {
	for shown := false; !shown; {
		c.valid = c.it.Next()
		c.ended = !c.valid
		if !c.valid {
			c.err = c.it.Err()
			return false
		}
		if c.entry == nil {
			return true
		}
		shown, c.err = c.tx.readEntry(c.entry, c.eyes(), c.it.Key(), c.it.Value())
		if c.valid = c.err == nil; !c.valid {
			return false
		}
	}
	return true
}

// Next moves to the next row in ascending order. On a cursor that was not
// positioned, or is before its first row, it is First; behind the last row it
// stays there.
func (c *Cursor) Next() bool { return c.move(false) }

// Prev moves to the next row in descending order. On a cursor that was not
// positioned, or is behind its last row, it is Last; before the first row it stays
// there.
func (c *Cursor) Prev() bool { return c.move(true) }

func (c *Cursor) move(reverse bool) bool {
	tx := c.tx
	if tx == nil {
		c.err = base.ErrTxDone
		return false
	}
	tx.mu.Lock()
	if c.valid && c.reverse == reverse && tx.alive() == nil && c.seen == tx.writes && c.err == nil {
		ok := c.step()
		tx.mu.Unlock()
		return ok
	}
	valid := c.valid
	if valid {
		c.key = append(c.key[:0], c.it.Key()...)
	}
	tx.mu.Unlock()
	if !valid {
		if c.err != nil || (c.ended && c.reverse == reverse) {
			return false
		}
		if reverse {
			return c.Last()
		}
		return c.First()
	}
	if reverse {
		return c.begin(c.from, c.key, true)
	}
	return c.begin(append(c.key, 0), c.to, false)
}

// Key returns the current key; valid until the cursor moves.
func (c *Cursor) Key() []byte {
	if !c.valid {
		return nil
	}
	return c.it.Key()
}

// Value returns the current value; valid until the cursor moves.
func (c *Cursor) Value() []byte {
	if !c.valid {
		return nil
	}
	return c.it.Value()
}

// Err returns the error that ended the walk, nil at the end of the range.
func (c *Cursor) Err() error { return c.err }

// Close releases the cursor. It never fails.
func (c *Cursor) Close() error {
	c.close()
	return nil
}

func (c *Cursor) close() {
	if c.tx == nil {
		return
	}
	c.tx.mu.Lock()
	defer c.tx.mu.Unlock()
	if c.tx.alive() == nil {
		c.track()
		c.forget()
		c.letGo()
	}
	c.valid, c.closed = false, true
	c.it.Close()
}

// forget takes the cursor off its open transaction's list. REQUIRES: tx.mu is
// held.
func (c *Cursor) forget() {
	if open := c.tx.cursors; c.index < len(open) && open[c.index] == c {
		last := len(open) - 1
		open[c.index] = open[last]
		open[c.index].index = c.index
		open[last] = nil
		c.tx.cursors = open[:last]
	}
}
