package txn

import (
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// enterWrite begins a statement that writes t. REQUIRES: tx.mu is held.
func (tx *Tx) enterWrite(t *recordcache.Table) error {
	if err := tx.enter(t); err != nil {
		return err
	}
	return tx.mayWrite(t)
}

// mayWrite returns nil if the transaction may write t, and counts it among t's
// writers. REQUIRES: tx.mu is held, the transaction is open and knows t.
func (tx *Tx) mayWrite(t *recordcache.Table) error {
	if tx.readOnly {
		return base.ErrReadOnly
	}
	if err := tx.m.Failure(); err != nil {
		return err
	}
	if tx.out == nil {
		if err := tx.m.register(tx); err != nil {
			return err
		}
	}
	if slices.Contains(tx.tables, t) {
		return nil
	}
	t.Writers.Add(1)
	if t.Dropped.Load() != 0 {
		t.Writers.Add(-1)
		return base.ErrTableNotFound
	}
	tx.trackMu.Lock()
	tx.tables = append(tx.tables, t)
	tx.trackMu.Unlock()
	return nil
}
