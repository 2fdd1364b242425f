package main

import (
	"context"
	"errors"

	"github.com/sakerdb/saker/engine"
)

// What the harness expects of some calls.
var (
	errNotFound          = engine.ErrNotFound
	errKeyExists         = engine.ErrKeyExists
	errSavepointNotFound = engine.ErrSavepointNotFound
)

// engineStore is the store under test.
type engineStore struct {
	db     *engine.DB
	tables [tableCount]*engine.Table
}

// openEngine opens the engine with what the command line says, and its defaults
// for everything else.
func openEngine(ctx context.Context, dir string, c *config) (store, error) {
	db, err := engine.Open(dir, &engine.Options{
		Memory:         int64(c.memory),
		RecordMemory:   int64(c.recordMemory),
		ChillThreshold: int64(c.chill),
	})
	if err != nil {
		return nil, err
	}
	s := &engineStore{db: db}
	for id, name := range tableNames {
		t, err := db.Table(name)
		if errors.Is(err, engine.ErrTableNotFound) {
			t, err = db.CreateTable(ctx, name)
		}
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		s.tables[id] = t
	}
	return s, nil
}

func (s *engineStore) begin(ctx context.Context, readOnly bool) (txn, error) {
	tx, err := s.db.Begin(ctx, engine.TxOptions{ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	return &engineTxn{tx: tx, tables: &s.tables}, nil
}

func (s *engineStore) close() error { return s.db.Close() }

func (s *engineStore) gauges() gauges {
	m := s.db.Metrics()
	return gauges{
		recordMemoryCap:    m.RecordMemoryCap,
		recordMemoryUsed:   m.RecordMemoryUsed,
		recordMemoryPeak:   m.RecordMemoryPeak,
		lowMemoryEpisodes:  m.LowMemoryEpisodes,
		chilledRecords:     m.ChilledRecords,
		thawedRecords:      m.ThawedRecords,
		backloggedChains:   m.BackloggedChains,
		restoredChains:     m.RestoredChains,
		diskBytesWritten:   m.DiskBytesWritten,
		tempTables:         m.TempTables,
		sweeping:           m.Sweeping,
		activeTransactions: m.ActiveTransactions,
	}
}

// engineTxn passes calls on; it holds the tables so that none is looked up.
type engineTxn struct {
	tx     *engine.Tx
	tables *[tableCount]*engine.Table
}

func (x *engineTxn) get(dst []byte, t tableID, key []byte) ([]byte, error) {
	return x.tx.AppendGet(dst, x.tables[t], key)
}

func (x *engineTxn) put(t tableID, key, value []byte) error {
	return x.tx.Put(x.tables[t], key, value)
}

func (x *engineTxn) insert(t tableID, key, value []byte) error {
	return x.tx.Insert(x.tables[t], key, value)
}

func (x *engineTxn) update(t tableID, key, value []byte) error {
	return x.tx.Update(x.tables[t], key, value)
}

func (x *engineTxn) scan(t tableID, from, to []byte, reverse bool, fn func(key, value []byte) bool) error {
	r := engine.Range{From: from, To: to, Reverse: reverse}
	for row, err := range x.tx.Scan(x.tables[t], r) {
		if err != nil {
			return err
		}
		if !fn(row.Key, row.Value) {
			return nil
		}
	}
	return nil
}

func (x *engineTxn) savepoint() (mark, error) { return x.tx.Savepoint() }

func (x *engineTxn) rollbackTo(m mark) error { return x.tx.RollbackTo(savepointOf(m)) }

func (x *engineTxn) release(m mark) error { return x.tx.Release(savepointOf(m)) }

// savepointOf is the zero savepoint, which no transaction has, for anything else.
func savepointOf(m mark) engine.Savepoint {
	sp, _ := m.(engine.Savepoint)
	return sp
}

func (x *engineTxn) commit() error { return x.tx.Commit() }

func (x *engineTxn) rollback() error { return x.tx.Rollback() }
