package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
)

// A secondary index is a table of entries, whose name tells whose index it is:
//
//	\x00index/<id of the indexed table>/<unique|plain>/<name>
//
// It has no record numbers; its ceiling, which log and map keep (OpCeiling), is the
// timestamp from which on the entries are complete, 0 while they are built. So an
// index costs no format of its own, and whatever holds for tables holds for it.
//
//	CreateIndex   table of entries, durable ─► writers keep it up ─► the builder adds
//	              what rows have ─► ceiling, durable: ready
//	DropIndex     drop of the table of entries, durable ─► writers let it be
//	Open          ready: known, detached until CreateIndex gives the function
//	              still built, or without its table: dropped

const (
	entriesPrefix = "\x00index/"
	plainIndex    = "plain"
	uniqueIndex   = "unique"

	// maxIndexName is the greatest length of the name of an index, in bytes.
	maxIndexName = 255
)

// isEntries reports whether a table name is one that users cannot give.
func isEntries(name string) bool { return strings.HasPrefix(name, entriesPrefix) }

func entriesName(t *Table, name string, unique bool) string {
	kind := plainIndex
	if unique {
		kind = uniqueIndex
	}
	return fmt.Sprintf("%s%d/%s/%s", entriesPrefix, t.ID, kind, name)
}

// parseEntries takes apart what entriesName has made.
func parseEntries(s string) (table base.TableID, name string, unique, ok bool) {
	s, ok = strings.CutPrefix(s, entriesPrefix)
	id, s, ok2 := strings.Cut(s, "/")
	kind, name, ok3 := strings.Cut(s, "/")
	n, err := strconv.ParseUint(id, 10, 32)
	ok = ok && ok2 && ok3 && err == nil && name != "" && (kind == plainIndex || kind == uniqueIndex)
	return base.TableID(n), name, kind == uniqueIndex, ok
}

// indexesOf returns the indexes of t, by name.
func indexesOf(t *Table) []*Index {
	if p := t.Indexes.Load(); p != nil {
		return *p
	}
	return nil
}

func findIndex(t *Table, name string) *Index {
	for _, ix := range indexesOf(t) {
		if ix.Name() == name {
			return ix
		}
	}
	return nil
}

// setIndexes replaces the indexes of t. REQUIRES: db.ddl is held, or Open runs.
func setIndexes(t *Table, all []*Index) {
	if len(all) == 0 {
		t.Indexes.Store(nil)
		return
	}
	slices.SortFunc(all, func(a, b *Index) int { return strings.Compare(a.Name(), b.Name()) })
	t.Indexes.Store(&all)
}

// CreateIndex makes an index of t: fn calls emit with the index keys of a row, none
// or several. Each may have any bytes, or none, and is copied. With unique no two
// rows may have the same key. The index is kept in the transactions that write the
// table; from the call's return on, transactions that begin read it. It is there after
// a reopening, too.
//
// fn must be pure: equal rows, equal keys, in every run of the program that opens
// the store, or the index will not agree with the table (Verify tells). It must not
// change or keep the row or emit, nor use the store; it is called from any goroutines,
// several at once. A panic in it is the error of the statement, ErrIndexFunc.
//
// The index is built beside writers. The call waits for the transactions that had
// written the table when it began; ctx and Close end it. Then, and after any error,
// nothing of the index is left. ErrKeyExists, with the key, if two rows have one key
// of a unique index; ErrKeyTooLarge, if the key of an entry exceeds MaxKeySize: two
// bytes, the index key with each zero byte taken twice, and the row's key if the
// index is not unique.
//
// After a reopening an index is known, but has no function: reads work, writes to
// its table fail with ErrIndexDetached until CreateIndex with the same table, name
// and unique gives the function again. That builds nothing. ErrIndexExists for an
// index that has its function or differs in unique; ErrInvalidName,
// ErrTableNotFound.
func (db *DB) CreateIndex(ctx context.Context, t *Table, name string, unique bool, fn func(row Row, emit func(indexKey []byte))) (*Index, error) {
	ix, err := db.createIndex(ctx, t, name, unique, fn)
	if err != nil {
		return nil, fmt.Errorf("saker: create index: %w", err)
	}
	return ix, nil
}

func (db *DB) createIndex(ctx context.Context, t *Table, name string, unique bool, fn func(Row, func([]byte))) (*Index, error) {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if fn == nil {
		return nil, fmt.Errorf("%w: nil", ErrIndexFunc)
	}
	if name == "" || len(name) > maxIndexName {
		return nil, fmt.Errorf("%w: %d bytes", ErrInvalidName, len(name))
	}
	ix, built, err := db.beginIndex(ctx, t, name, unique, func(key, value []byte, emit func([]byte)) {
		fn(Row{Key: key, Value: value}, emit)
	})
	if err != nil || built {
		return ix, ended(ctx, err)
	}
	if err := db.buildIndex(ctx, ix); err != nil {
		return nil, err
	}
	return ix, nil
}

// buildIndex makes the index ready, or drops it, even if its function ends the
// goroutine.
func (db *DB) buildIndex(ctx context.Context, ix *Index) (err error) {
	done := false
	defer func() {
		if err != nil || !done {
			err = errors.Join(ended(ctx, err), db.abandonIndex(ix))
		}
	}()
	p := IndexProgress{Table: ix.Table().Name, Index: ix.Name()}
	err = db.m.BuildIndex(ctx, ix, func(rows, entries int) {
		p.Rows += uint64(rows)
		p.Entries += uint64(entries)
		db.indexing(p)
	})
	if err == nil {
		err = db.finishIndex(ctx, ix)
	}
	done = true
	return err
}

// beginIndex makes an index that writers keep up and that is not ready, or gives
// one that is built its function.
func (db *DB) beginIndex(ctx context.Context, t *Table, name string, unique bool, fn func(key, value []byte, emit func([]byte))) (ix *Index, built bool, err error) {
	if err := db.mayChange(ctx); err != nil {
		return nil, false, err
	}
	if err := db.ddl.lock(ctx); err != nil {
		return nil, false, err
	}
	defer db.ddl.unlock()
	if err := db.ownTable(t); err != nil {
		return nil, false, err
	}
	if ix := findIndex(t, name); ix != nil {
		if ix.Unique() != unique || ix.Attached() {
			return nil, false, fmt.Errorf("%w: %q", ErrIndexExists, name)
		}
		ix.Attach(fn)
		return ix, true, nil
	}
	entries, err := db.addNew(entriesName(t, name, unique))
	if err != nil {
		return nil, false, err
	}
	ix = recordcache.NewIndex(name, unique, t, entries)
	ix.Attach(fn)
	setIndexes(t, append(slices.Clone(indexesOf(t)), ix))
	return ix, false, nil
}

// ownTable returns nil if t is a table of the store that users may have.
func (db *DB) ownTable(t *Table) error {
	if t == nil || !t.Of(db.cache) || t.Dropped.Load() != 0 || isEntries(t.Name) {
		return ErrTableNotFound
	}
	return nil
}

// finishIndex makes an index ready whose entries are complete. What the builder has
// committed is in the log before this, so it is durable, too (L2).
func (db *DB) finishIndex(ctx context.Context, ix *Index) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t, ready := ix.Entries(), db.m.Clock()
	d := &seriallog.DDL{Op: seriallog.OpCeiling, Table: t.ID, Ceiling: uint64(ready)}
	meta := binary.BigEndian.AppendUint64(nil, d.Ceiling)
	if err := db.m.DDL(d, func(e txnEdit) { e.PutTable(t.ID, t.Name, meta) }, nil); err != nil {
		return err
	}
	ix.SetReady(ready)
	return nil
}

// abandonIndex drops an index that could not be built. If that fails, the store has
// failed, and the next opening does it.
func (db *DB) abandonIndex(ix *Index) error {
	if err := db.ddl.lock(context.Background()); err != nil {
		return err
	}
	defer db.ddl.unlock()
	return db.dropIndex(ix)
}

// dropIndex drops an index. Writers keep it up until the drop is durable: who does
// not any more must not be able to commit before that. REQUIRES: db.ddl is held.
func (db *DB) dropIndex(ix *Index) error {
	if err := db.commitDrop(ix.Entries()); err != nil {
		return err
	}
	t := ix.Table()
	setIndexes(t, slices.DeleteFunc(slices.Clone(indexesOf(t)), func(x *Index) bool { return x == ix }))
	return nil
}

// DropIndex drops an index of t. It waits for nobody. Transactions that begin after it
// get ErrIndexNotFound; those that began before still read the index, unless they
// have written the table. The space comes back when they have ended.
// ErrIndexNotFound; ErrIndexNotReady while it is being built: end that with the
// context of CreateIndex.
func (db *DB) DropIndex(ctx context.Context, t *Table, name string) error {
	err := db.change(ctx, func(context.Context) error {
		ix, err := db.Index(t, name)
		if err != nil {
			return err
		}
		if ix.Ready() == 0 {
			return fmt.Errorf("%w: %q", ErrIndexNotReady, name)
		}
		return db.dropIndex(ix)
	})
	if err != nil {
		return fmt.Errorf("saker: drop index: %w", err)
	}
	return nil
}

// Index returns the index of t with that name. It may be one that is being built:
// reads say so. ErrIndexNotFound, ErrTableNotFound.
func (db *DB) Index(t *Table, name string) (*Index, error) {
	if db.closed.Load() {
		return nil, ErrClosed
	}
	if err := db.ownTable(t); err != nil {
		return nil, err
	}
	ix := findIndex(t, name)
	if ix == nil {
		return nil, fmt.Errorf("%w: %q", ErrIndexNotFound, name)
	}
	return ix, nil
}

// Indexes returns the names of the indexes of t, sorted.
func (db *DB) Indexes(t *Table) []string {
	if db.ownTable(t) != nil {
		return nil
	}
	var names []string
	for _, ix := range indexesOf(t) {
		names = append(names, ix.Name())
	}
	return names
}

// openIndexes finds the indexes among the tables, and drops those that were not
// finished, or whose table is gone. REQUIRES: nothing else of the store is at work:
// the checkpointer looks at what is dropped.
func (db *DB) openIndexes() error {
	var left []*Table
	db.mu.RLock()
	for full, t := range db.tables {
		id, name, unique, ok := parseEntries(full)
		if !ok {
			continue
		}
		rows := db.cache.Table(id)
		if rows == nil || rows.Dropped.Load() != 0 || t.NumberCeiling == 0 {
			left = append(left, t)
			continue
		}
		ix := recordcache.NewIndex(name, unique, rows, t)
		ix.SetReady(base.CommitTS(t.NumberCeiling))
		setIndexes(rows, append(slices.Clone(indexesOf(rows)), ix))
	}
	db.mu.RUnlock()
	if db.o.ReadOnly {
		return nil // they are in nobody's way
	}
	for _, t := range left {
		if err := db.commitDrop(t); err != nil {
			return err
		}
	}
	return nil
}
