package txn

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
)

// Edit is a change of the catalog in the making.
type Edit = *tablespace.EditTx

// DDL commits a change of the catalog: a record in the log, and the edit of the
// catalog behind it. It sets d.TS. applied runs at publication.
func (m *Manager) DDL(d *seriallog.DDL, edit func(Edit), applied func()) error {
	ctx := context.Background()
	d.TS = base.MaxTS // the longest; what it does not need goes back
	cost := seriallog.DDLCost(d)
	if err := m.Log.Reserve(ctx, cost); err != nil {
		return err
	}
	if err := m.Space.ReserveEdits(ctx, 1); err != nil {
		m.Log.Unreserve(cost)
		return err
	}
	p := &pending{durable: true, apply: applied}
	err := m.commit.enqueue(p, recorderFunc(func(ts base.CommitTS) (base.LSN, error) {
		d.TS = ts
		end, err := m.Log.AppendDDL(d)
		if err != nil {
			return 0, err
		}
		m.Log.Unreserve(cost - seriallog.DDLCost(d))
		e := m.Space.BeginEdit()
		edit(e)
		e.NeedSync()
		e.End()
		return end, nil
	}), m.Log.Sync)
	if err != nil {
		m.Log.Unreserve(cost)
		m.Space.UnreserveEdits(1)
		return m.poisoned(err)
	}
	if err := m.commit.finish(p, m.Log, &m.snaps.snapshots); err != nil {
		return m.poisoned(err)
	}
	return nil
}

// numberBatch is how many record numbers one log record makes usable.
const numberBatch = 1 << 20

// Append stores value under the table's next record number and returns the key:
// eight bytes, big-endian. A number is handed out once, whatever becomes of the
// transaction. The caller owns the key.
func (tx *Tx) Append(t *recordcache.Table, value []byte) ([]byte, error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.enterWrite(t); err != nil {
		return nil, err
	}
	tx.waited = 0
	if len(value) > base.MaxValueSize {
		return nil, base.ErrValueTooLarge
	}
	for {
		n, err := tx.m.nextNumber(t)
		if err != nil {
			return nil, fmt.Errorf("saker: append: %w", err)
		}
		key := binary.BigEndian.AppendUint64(nil, n)
		err = tx.change(t, recordcache.ModeInsert, key, value)
		if err == nil {
			return key, nil
		}
		if err != base.ErrKeyExists { //nolint:errorlint // returned as it is by Write
			return nil, err
		}
		tx.renew()
	}
}

// nextNumber hands out a record number. Numbers up to a ceiling that is on
// stable storage may be used (L7).
func (m *Manager) nextNumber(t *recordcache.Table) (uint64, error) {
	t.NumberMu.Lock()
	defer t.NumberMu.Unlock()
	if t.Number >= t.NumberCeiling {
		ceiling := t.NumberCeiling + numberBatch
		d := &seriallog.DDL{Op: seriallog.OpCeiling, Table: t.ID, Ceiling: ceiling}
		meta := binary.BigEndian.AppendUint64(nil, ceiling)
		if err := m.DDL(d, func(e Edit) { e.PutTable(t.ID, t.Name, meta) }, nil); err != nil {
			return 0, err
		}
		t.NumberCeiling = ceiling
	}
	t.Number++
	return t.Number, nil
}

// ReturnRetired takes back what TakeRetired gave, when the walk failed.
func (m *Manager) ReturnRetired(list []retired) {
	m.mu.Lock()
	m.retired = append(m.retired, list...)
	m.mu.Unlock()
}
