package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
)

// maxTableName is the greatest length of a table name, in bytes.
const maxTableName = 255

// CreateTable creates an empty table; it exists durably when the call returns.
// ErrTableExists, ErrInvalidName.
func (db *DB) CreateTable(ctx context.Context, name string) (t *Table, err error) {
	err = db.change(ctx, func(context.Context) error {
		t, err = db.createTable(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("saker: create table: %w", err)
	}
	return t, nil
}

// change runs one change of the catalog, when it is its turn.
func (db *DB) change(ctx context.Context, fn func(context.Context) error) error {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := db.mayChange(ctx); err != nil {
		return ended(ctx, err)
	}
	if err := db.ddl.lock(ctx); err != nil {
		return ended(ctx, err)
	}
	defer db.ddl.unlock()
	return ended(ctx, fn(ctx))
}

// createTable is CreateTable. REQUIRES: db.ddl is held.
func (db *DB) createTable(name string) (*Table, error) {
	if name == "" || len(name) > maxTableName || isEntries(name) {
		return nil, fmt.Errorf("%w: %d bytes, %.20q", ErrInvalidName, len(name), name)
	}
	db.mu.RLock()
	_, exists := db.tables[name]
	db.mu.RUnlock()
	if exists {
		return nil, fmt.Errorf("%w: %q", ErrTableExists, name)
	}
	return db.addNew(name)
}

// addNew makes a table of that name, which no other has. REQUIRES: db.ddl is held.
func (db *DB) addNew(name string) (*Table, error) {
	id := db.nextTable + 1
	d := &seriallog.DDL{Op: seriallog.OpCreateTable, Table: id, Name: name}
	t := db.cache.AddTable(id, name)
	err := db.m.DDL(d, func(e txnEdit) { putTable(e, id, name) }, nil)
	if err != nil {
		db.cache.ForgetTable(id)
		return nil, err
	}
	db.nextTable = id
	db.mu.Lock()
	db.tables[name] = t
	db.mu.Unlock()
	return t, nil
}

// DropTable drops a table with all its rows and indexes. It waits for the transactions that
// have written the table; later writers, and handles used by transactions that
// begin after it, get ErrTableNotFound. Older snapshots still read it.
// ErrIndexNotReady while an index of it is being built.
func (db *DB) DropTable(ctx context.Context, name string) error {
	err := db.change(ctx, func(ctx context.Context) error { return db.dropTable(ctx, name) })
	if err != nil {
		return fmt.Errorf("saker: drop table: %w", err)
	}
	return nil
}

// dropTable is DropTable. REQUIRES: db.ddl is held.
func (db *DB) dropTable(ctx context.Context, name string) error {
	t, err := db.Table(name)
	if err != nil {
		return err
	}
	indexes := indexesOf(t)
	for _, ix := range indexes {
		if ix.Ready() == 0 {
			return fmt.Errorf("%w: %q", ErrIndexNotReady, ix.Name())
		}
	}
	// From here on no transaction begins to write it; those that have, end.
	t.Dropped.Store(uint64(base.MaxTS))
	for t.Writers.Load() > 0 {
		select {
		case <-ctx.Done():
			t.Dropped.Store(0)
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	if err := db.commitDrop(t); err != nil {
		return err
	}
	// A crash between the two leaves indexes without table: openIndexes drops them.
	for _, ix := range indexes {
		if err := db.dropIndex(ix); err != nil {
			return err
		}
	}
	return nil
}

// commitDrop drops a table durably. REQUIRES: db.ddl is held.
func (db *DB) commitDrop(t *Table) error {
	d := &seriallog.DDL{Op: seriallog.OpDropTable, Table: t.ID, Name: t.Name}
	err := db.m.DDL(d, func(e txnEdit) {
		t.Dropped.Store(uint64(d.TS)) // in the step that takes it: commits from here on know
		e.DeleteTable(t.ID)
		e.SetMeta(dropName(t.ID), []byte(t.Name))
	}, nil)
	if err != nil {
		return err
	}
	t.DropEnd, _ = db.m.Published() // not the end of the log: no commit may ever pass that
	db.mu.Lock()
	delete(db.tables, t.Name)
	db.mu.Unlock()
	db.drops.add(t)
	db.ckpt.poke()
	return nil
}

// lastTable is the meta row with the greatest table id ever used: ids do not
// repeat, though tables are dropped (L7).
const lastTable = "tables"

func putTable(e txnEdit, id base.TableID, name string) {
	e.PutTable(id, name, nil)
	e.SetMeta(lastTable, binary.BigEndian.AppendUint32(nil, uint32(id)))
}

func dropName(id base.TableID) string { return fmt.Sprintf("drop/%d", id) }

func (db *DB) mayChange(ctx context.Context) error {
	switch {
	case db.o.ReadOnly:
		return ErrReadOnly
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return db.failed()
}

// drops are the tables that were dropped and whose data is not removed yet. It has a
// mutex of its own: changes of the catalog may take long, and space need not wait.
type drops struct {
	mu     sync.Mutex
	tables []*Table
}

func (d *drops) add(t *Table) {
	d.mu.Lock()
	d.tables = append(d.tables, t)
	d.mu.Unlock()
}

func (d *drops) remove(t *Table) {
	d.mu.Lock()
	d.tables = slices.DeleteFunc(d.tables, func(x *Table) bool { return x == t })
	d.mu.Unlock()
}

func (d *drops) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tables)
}

// removable returns the tables whose data may go.
func (d *drops) removable(oldest base.CommitTS, pos base.LSN) (list []*Table) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.tables {
		if removable(t, oldest, pos) {
			list = append(list, t)
		}
	}
	return list
}

// droppable reports whether a checkpoint would remove the data of a dropped table, or
// one is doing so.
func (db *DB) droppable() bool {
	if db.drops.len() == 0 {
		return false
	}
	pos, _ := db.m.Published()
	return len(db.drops.removable(db.snaps.Horizon().Oldest(), pos)) > 0
}

// removable reports whether nobody reads the dropped table, or writes it as one may
// the entries of an index, and whether the drop is below the checkpoint position:
// recovery must not meet the record of a drop whose mark is gone.
func removable(t *Table, oldest base.CommitTS, pos base.LSN) bool {
	return base.CommitTS(t.Dropped.Load()) <= oldest && t.Writers.Load() == 0 && t.DropEnd <= pos
}

// removeDropped removes the data of dropped tables that no snapshot reads, and
// reports whether there was any. Their runs go with the next flush. A table that cannot
// be removed is in no other's way. REQUIRES: db.ckpt.mu is held.
func (db *DB) removeDropped(ctx context.Context, pos base.LSN) (removed bool, err error) {
	for _, t := range db.drops.removable(db.snaps.Horizon().Oldest(), pos) {
		if e := db.removeData(ctx, t); e != nil {
			err = errors.Join(err, e)
			continue
		}
		db.drops.remove(t)
		removed = true
	}
	return removed, err
}

// removeData removes the data of a dropped table, and then the mark of the drop.
func (db *DB) removeData(ctx context.Context, t *Table) error {
	db.cache.ForgetTable(t.ID)
	if err := db.cache.DropData(ctx, t); err != nil {
		return err
	}
	if err := db.space.ReserveEdits(ctx, 1); err != nil {
		return err
	}
	e := db.space.BeginEdit()
	e.SetMeta(dropName(t.ID), nil)
	e.End()
	return nil
}
