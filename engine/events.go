package engine

import (
	"log/slog"
	"time"

	"github.com/sakerdb/saker/txn"
)

// EventListener is told what happens inside a store. Every function is optional,
// must be quick, and may be called from any goroutine. It may call Metrics, Tables
// and Table; anything else might wait for the work that its caller is doing.
type EventListener struct {
	// LowMemory: the low-memory flag rose (true) or fell.
	LowMemory func(low bool)
	// Checkpoint ended.
	Checkpoint func(CheckpointInfo)
	// Recovering: Open has read another 16 MiB or so of log, or listed another 1024
	// frames. Called by Open before it returns; an opening with less work than that
	// does not call it.
	Recovering func(RecoveryProgress)
	// Recovered: Open has replayed the log.
	Recovered func(RecoveryInfo)
	// Indexing: CreateIndex has put the entries of some more rows.
	Indexing func(IndexProgress)
	// LongTransaction: a transaction is open longer than Options.TxAgeLimit; told once
	// for each.
	LongTransaction func(LongTransactionInfo)
	// Failed: a write or sync failed; the store must be reopened.
	Failed func(error)
}

// LongTransactionInfo describes a transaction that is open too long.
type LongTransactionInfo = txn.LongTransaction

// CheckpointInfo describes a checkpoint.
type CheckpointInfo struct {
	Duration time.Duration
	Err      error
}

// IndexProgress says how far CreateIndex has come.
type IndexProgress struct {
	Table, Index  string
	Rows, Entries uint64
}

// RecoveryInfo describes what Open had to do.
type RecoveryInfo struct {
	Duration     time.Duration
	Transactions int // committed transactions replayed
	Rows         int // rows replayed
	Frames       int // frames listed again
	FilesRemoved int // run files of transactions that never committed
}

func (db *DB) lowMemory(m *txn.Manager, low bool) {
	m.SetLowMemory(low)
	if db.o.Logger != nil {
		db.o.Logger.Debug("low memory", slog.Bool("low", low))
	}
	if e := db.o.Events; e != nil && e.LowMemory != nil {
		e.LowMemory(low)
	}
}

func (db *DB) recovered(i RecoveryInfo) {
	if db.o.Logger != nil {
		db.o.Logger.Info("recovered", slog.Duration("took", i.Duration), slog.Int("transactions", i.Transactions),
			slog.Int("rows", i.Rows), slog.Int("frames", i.Frames), slog.Int("files_removed", i.FilesRemoved))
	}
	if e := db.o.Events; e != nil && e.Recovered != nil {
		e.Recovered(i)
	}
}

func (db *DB) indexing(p IndexProgress) {
	if e := db.o.Events; e != nil && e.Indexing != nil {
		e.Indexing(p)
	}
}

func (db *DB) checkpointed(i CheckpointInfo) {
	if db.o.Logger != nil {
		db.o.Logger.Debug("checkpoint", slog.Duration("took", i.Duration), slog.Any("err", i.Err))
	}
	if e := db.o.Events; e != nil && e.Checkpoint != nil {
		e.Checkpoint(i)
	}
}
