package engine

import (
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/txn"
)

type (
	// Table is a handle of a table. It stays valid until the table is dropped or
	// the store closed, and may be used by any number of transactions at once.
	Table = recordcache.Table
	// Tx is a transaction.
	Tx = txn.Tx
	// TxOptions are the options of Begin.
	TxOptions = txn.Options
	// Isolation is an isolation level.
	Isolation = txn.Isolation
	// Row is a row of a scan; its bytes are valid until the next iteration.
	Row = txn.Row
	// Range is a range of keys [From, To).
	Range = txn.Range
	// Cursor walks a range in both directions.
	Cursor = txn.Cursor
	// Index is a handle of a secondary index. It stays valid until the index or its
	// table is dropped or the store closed, and may be used by any number of
	// transactions at once.
	Index = recordcache.Index
	// IndexRow is a row of a scan over an index; its bytes are valid until the next
	// iteration.
	IndexRow = txn.IndexRow
	// IndexCursor walks a range of an index in both directions.
	IndexCursor = txn.IndexCursor
	// Savepoint names a point of a transaction.
	Savepoint = txn.Savepoint
)

// Isolation levels.
const (
	Snapshot      = txn.Snapshot
	ReadCommitted = txn.ReadCommitted
	Serializable  = txn.Serializable
)
