package tablespace

import "github.com/sakerdb/saker/internal/base"

// Walk is a cursor for lookups in key order. Every answer is as of the call,
// like Lookup's; the neighbour of the last answer costs a step, not a search.
// It keeps an iterator of Pebble open and must be closed soon (M8). Not safe
// for concurrent use.
type Walk struct {
	v     view
	table base.TableID
}

// NewWalk returns a walk over the entries of the table.
func (s *Space) NewWalk(table base.TableID) *Walk {
	return &Walk{v: view{s: s}, table: table}
}

// Lookup is Space.Lookup. It is cheap when key is the High of the entry that
// the call before returned.
func (w *Walk) Lookup(key []byte) (en Entry, found bool, holeLow, holeHigh []byte, err error) {
	return w.v.lookup(w.table, key, false)
}

// LookupBefore is Space.LookupBefore. It is cheap when key is the Low of the
// entry that the call before returned.
func (w *Walk) LookupBefore(key []byte) (en Entry, found bool, holeLow, holeHigh []byte, err error) {
	return w.v.lookup(w.table, key, true)
}

// Close releases the iterator. The walk may be used again and closed again.
func (w *Walk) Close() { w.v.close() }
