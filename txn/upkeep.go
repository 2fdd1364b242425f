package txn

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// upkeep is what one statement on an indexed table has to change in the indexes: of
// each, the entries of the row as it was, less those of the row as it is to be, and
// the other way round. Its memory is used again by the next statement; it belongs to
// the goroutine of its transaction.
type upkeep struct {
	key     []byte // of the row
	old     []byte // its value before the statement
	changes []change
	busy    bool // a statement is under way

	// Of the call of a function under way.
	into *entrySet // nil: none is
	ix   *recordcache.Index
	pk   []byte
	emit func([]byte)
}

// change is the part of one index.
type change struct {
	ix       *recordcache.Index
	old, now entrySet // what is to be erased, what is to be put
}

// entrySet is the keys of the entries of one row in one index.
type entrySet struct {
	buf []byte
	at  []entryKey // sorted, each once, when collected
	err error
	// only, if not nil, is the one entry that is wanted.
	only []byte
}

type entryKey struct{ from, to uint32 }

// maxEntries bounds the entries of one row in one index, by the bytes of their keys.
// With 20 bytes each a set takes 1.7 MiB then, with the fewest possible 6 MiB.
const maxEntries = 1 << 20

func (s *entrySet) get(i int) []byte { return s.buf[s.at[i].from:s.at[i].to:s.at[i].to] }

// has reports whether the entry is in the set.
func (s *entrySet) has(entry []byte) bool {
	_, ok := slices.BinarySearchFunc(s.at, entry, func(k entryKey, entry []byte) int {
		return bytes.Compare(s.buf[k.from:k.to], entry)
	})
	return ok
}

func (s *entrySet) reset() {
	s.buf, s.at, s.err = s.buf[:0], s.at[:0], nil
}

// size returns the bytes that the set takes.
func (s *entrySet) size() int { return cap(s.buf) + cap(s.at)*int(unsafe.Sizeof(entryKey{})) }

func newUpkeep() *upkeep {
	u := &upkeep{}
	u.emit = u.add
	return u
}

// add takes one index key from the function of an index.
func (u *upkeep) add(indexKey []byte) {
	s := u.into
	if s == nil || s.err != nil {
		return // called after the function has returned, or too much already
	}
	if len(indexKey) > base.MaxKeySize { // before it is copied
		s.err = fmt.Errorf("saker: index %q: key of %d bytes: %w", u.ix.Name(), len(indexKey), base.ErrKeyTooLarge)
		return
	}
	from := len(s.buf)
	s.buf = base.AppendIndexKey(s.buf, indexKey)
	if !u.ix.Unique() {
		s.buf = append(s.buf, u.pk...)
	}
	switch n := len(s.buf) - from; {
	case n > base.MaxKeySize:
		s.err = fmt.Errorf("saker: index %q: entry of %d bytes: %w", u.ix.Name(), n, base.ErrKeyTooLarge)
	case len(s.buf) > maxEntries:
		s.err = fmt.Errorf("saker: index %q: more than %d bytes of entries of one row: %w", u.ix.Name(), maxEntries, base.ErrKeyTooLarge)
	}
	if s.only != nil && !bytes.Equal(s.buf[from:], s.only) {
		s.buf = s.buf[:from]
		return
	}
	s.at = append(s.at, entryKey{uint32(from), uint32(len(s.buf))})
}

// collect asks the function of ix for the entries of a row. ErrKeyTooLarge,
// ErrIndexDetached, and ErrIndexFunc if it panics.
func (u *upkeep) collect(ix *recordcache.Index, s *entrySet, key, value []byte) (err error) {
	s.reset()
	fn := ix.Func()
	if fn == nil {
		return fmt.Errorf("saker: index %q: %w", ix.Name(), base.ErrIndexDetached)
	}
	u.into, u.ix, u.pk = s, ix, key
	defer func() {
		u.into, u.ix, u.pk = nil, nil, nil
		if r := recover(); r != nil {
			err = fmt.Errorf("saker: index %q: %w: %.200s", ix.Name(), base.ErrIndexFunc, fmt.Sprint(r))
		}
	}()
	if value == nil {
		value = []byte{} // as reads return it: equal rows look equal
	}
	fn(slices.Clip(key), slices.Clip(value), u.emit)
	if len(s.at) > 1 {
		slices.SortFunc(s.at, func(a, b entryKey) int { return bytes.Compare(s.buf[a.from:a.to], s.buf[b.from:b.to]) })
		s.at = slices.CompactFunc(s.at, func(a, b entryKey) bool { return bytes.Equal(s.buf[a.from:a.to], s.buf[b.from:b.to]) })
	}
	return s.err
}

// part leaves in each set what the other one has not; with all, now stays as it is.
func (c *change) part(all bool) {
	old, now := c.old.at[:0], c.now.at[:0]
	i, j := 0, 0
	for i < len(c.old.at) || j < len(c.now.at) {
		var d int
		switch {
		case i == len(c.old.at):
			d = 1
		case j == len(c.now.at):
			d = -1
		default:
			d = bytes.Compare(c.old.get(i), c.now.get(j))
		}
		if d < 0 {
			old = append(old, c.old.at[i])
		}
		if d > 0 || (all && d == 0) {
			now = append(now, c.now.at[j])
		}
		if d <= 0 {
			i++
		}
		if d >= 0 {
			j++
		}
	}
	c.old.at, c.now.at = old, now
}

// plan finds out what the statement changes in the indexes of set. found says
// whether there is a row, of value u.old; gone whether there is to be none. With all
// the entries that stay are put, too: cursors whose snapshot is older than these see
// them then, as they see the row.
func (u *upkeep) plan(set []*recordcache.Index, key, value []byte, found, gone, all bool) error {
	u.key = key
	for len(u.changes) < len(set) {
		u.changes = append(u.changes, change{})
	}
	u.changes = u.changes[:len(set)]
	for i, ix := range set {
		c := &u.changes[i]
		c.ix = ix
		c.old.reset()
		c.now.reset()
		if found {
			switch err := u.collect(ix, &c.old, key, u.old); {
			case errors.Is(err, base.ErrKeyTooLarge):
				c.old.reset() // it is older than the index, which has none of its entries
			case err != nil:
				return err
			}
		}
		if !gone {
			if err := u.collect(ix, &c.now, key, value); err != nil {
				return err
			}
		}
		if ix.Func() == nil {
			return fmt.Errorf("saker: index %q: %w", ix.Name(), base.ErrIndexDetached)
		}
		c.part(all && !ix.Unique())
	}
	return nil
}

// underWay reports whether a statement on an indexed table is under way.
func (u *upkeep) underWay() bool { return u != nil && u.busy }

// size returns the bytes that are kept.
func (u *upkeep) size() int {
	n := cap(u.old) + cap(u.changes)*int(unsafe.Sizeof(change{}))
	for _, c := range u.changes[:cap(u.changes)] {
		n += c.old.size() + c.now.size()
	}
	return n
}

// forget lets go of what belongs to a statement, and of all memory if that is more,
// of all indexes together, than is kept.
func (u *upkeep) forget() {
	u.key, u.busy = nil, false
	all := u.changes[:cap(u.changes)]
	if u.size() > spareScratch {
		u.old, u.changes, all = nil, nil, nil
	}
	for i := range all {
		c := &all[i]
		c.ix = nil
		c.old.reset()
		c.now.reset()
	}
}
