package main

import "context"

// tableID says which of the two tables of the harness an operation means.
type tableID int

const (
	tableRows      tableID = iota // the rows that the run is about
	tableBystander                // what the bystander holds (bystander.go)
	tableCount
)

var tableNames = [tableCount]string{"rows", "bystander"}

// store and txn are what the harness needs of an engine. The real one is behind
// them in engine.go; the tests of the harness itself put a faulty one there, to
// see that each fault is found. An interface call is 2 ns of a row's cost.
type store interface {
	begin(ctx context.Context, readOnly bool) (txn, error)
	gauges() gauges
	close() error
}

type txn interface {
	get(dst []byte, t tableID, key []byte) ([]byte, error) // appends the value to dst
	put(t tableID, key, value []byte) error
	insert(t tableID, key, value []byte) error
	update(t tableID, key, value []byte) error
	// scan calls fn for each row in [from, to), nil being open, until it says
	// false. The bytes are valid during the call.
	scan(t tableID, from, to []byte, reverse bool, fn func(key, value []byte) bool) error
	savepoint() (mark, error)
	rollbackTo(m mark) error
	release(m mark) error
	commit() error
	rollback() error
}

// mark is a savepoint of the engine.
type mark any

// opener opens the store in a directory; both tables exist afterwards.
type opener func(ctx context.Context, dir string, c *config) (store, error)

// gauges is the part of the engine's metrics that the harness reports.
type gauges struct {
	recordMemoryCap  int64
	recordMemoryUsed int64
	recordMemoryPeak int64

	lowMemoryEpisodes uint64
	chilledRecords    uint64
	thawedRecords     uint64
	backloggedChains  uint64
	restoredChains    uint64
	diskBytesWritten  uint64

	tempTables         int64
	sweeping           int64 // rollbacks whose leftovers are being removed
	activeTransactions int64
}

// add returns the metrics of both openings of the store together.
func (g gauges) add(h gauges) gauges {
	h.recordMemoryCap = max(g.recordMemoryCap, h.recordMemoryCap)
	h.recordMemoryPeak = max(g.recordMemoryPeak, h.recordMemoryPeak)
	h.lowMemoryEpisodes += g.lowMemoryEpisodes
	h.chilledRecords += g.chilledRecords
	h.thawedRecords += g.thawedRecords
	h.backloggedChains += g.backloggedChains
	h.restoredChains += g.restoredChains
	h.diskBytesWritten += g.diskBytesWritten
	return h
}
