package recordcache

import (
	"sync/atomic"

	"github.com/sakerdb/saker/internal/base"
)

// Index is a handle of a secondary index. It stays valid until the index or its
// table is dropped or the store closed, and may be used by any number of
// transactions at once.
//
// The cache knows nothing of indexes: entries are rows of a table like any other,
// which the transactions that write the indexed table keep in step (package txn).
type Index struct {
	name    string
	unique  bool
	rows    *Table
	entries *Table

	fn    atomic.Pointer[IndexFunc]
	ready atomic.Uint64
}

// IndexFunc calls emit with each index key of a row.
type IndexFunc func(key, value []byte, emit func(indexKey []byte))

// NewIndex returns the index of rows that is kept in entries, detached and not
// ready.
func NewIndex(name string, unique bool, rows, entries *Table) *Index {
	return &Index{name: name, unique: unique, rows: rows, entries: entries}
}

// Name returns the index's name.
func (x *Index) Name() string { return x.name }

// Unique reports whether no two rows may have the same index key.
func (x *Index) Unique() bool { return x.unique }

// Table returns the table that is indexed.
func (x *Index) Table() *Table { return x.rows }

// Attached reports whether the index has its function: until then its table
// cannot be written.
func (x *Index) Attached() bool { return x.fn.Load() != nil }

// Entries returns the table of the entries, which is the store's own.
func (x *Index) Entries() *Table { return x.entries }

// Attach gives the index its function.
func (x *Index) Attach(fn IndexFunc) { x.fn.Store(&fn) }

// Func returns the function, nil while the index is detached.
func (x *Index) Func() IndexFunc {
	if p := x.fn.Load(); p != nil {
		return *p
	}
	return nil
}

// SetReady says from which timestamp on the entries are complete.
func (x *Index) SetReady(ts base.CommitTS) { x.ready.Store(uint64(ts)) }

// Ready returns the timestamp from which on the entries are complete, 0 while the
// index is being built.
func (x *Index) Ready() base.CommitTS { return base.CommitTS(x.ready.Load()) }
