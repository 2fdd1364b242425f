package engine

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncHookFS calls a function once, before what is in a log segment is synced next.
// The segments that are prepared in the background are synced with Sync, not so.
type syncHookFS struct {
	vfs.FS
	hook atomic.Pointer[func()]
}

type syncHookFile struct {
	vfs.File
	fs *syncHookFS
}

func (h *syncHookFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err == nil && strings.Contains(name, logDir) {
		f = &syncHookFile{f, h}
	}
	return f, err
}

func (h *syncHookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := h.FS.Create(name, c)
	return h.wrap(name, f, err)
}

func (h *syncHookFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := h.FS.OpenReadWrite(name, c, opts...)
	return h.wrap(name, f, err)
}

func (f *syncHookFile) SyncData() error {
	if fn := f.fs.hook.Swap(nil); fn != nil {
		(*fn)()
	}
	return f.File.SyncData()
}

// While the drop of a table was made durable a row was chilled: the log ended behind
// the drop's record, at a position that no commit ever came to, and in an idle store
// the table kept its space for ever.
func TestDropBesideChill(t *testing.T) {
	o := memOptions()
	h := &syncHookFS{FS: o.FS}
	o.FS = h
	db := mustOpen(t, o)
	gone, tb := mustTable(t, db, "gone"), mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, gone, "k", "v") })
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", string(value(1, 1000)))
	hook := func() { chillAll(t, db) }
	h.hook.Store(&hook)
	check(t, db.DropTable(ctx, "gone"))
	if db.Metrics().ChilledRecords == 0 {
		t.Fatal("nothing was chilled beside the drop")
	}
	rollback(t, tx)
	if db.drops.len() > 0 && !db.droppable() {
		t.Error("the space of the table stays until somebody commits")
	}
	mustClose(t, db)
}

// Removing the data of dropped tables was a change of the catalog: while another was
// under way, or a checkpoint was about it, neither Checkpoint nor CollectSpace saw to
// it, and both returned with all the space still taken.
func TestDropBesideChangeOfCatalog(t *testing.T) {
	for name, now := range map[string]func(*DB) error{
		"Checkpoint":   func(db *DB) error { return db.Checkpoint(ctx) },
		"CollectSpace": func(db *DB) error { return db.CollectSpace(ctx) },
	} {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		const rows = 20000
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, rows, 100) })
		check(t, db.DropTable(ctx, "t"))
		check(t, db.ddl.lock(ctx)) // somebody creates a table, say
		check(t, now(db))
		if n, left := db.space.RunBytes(), db.drops.len(); n > rows*100/10 || left != 0 {
			t.Errorf("%s leaves %d bytes in runs, %d tables to remove", name, n, left)
		}
		db.ddl.unlock()
		mustClose(t, db)
	}
}
