package engine

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// S3: what a writer has read in frames holds for the list it read, no other. While
// it reads, with nothing locked, another transaction changes the record, commits
// and leaves memory: only the new list knows of it.
func TestProofHoldsForItsListOnly(t *testing.T) {
	for name, write := range map[string]func(tx *Tx, tb *Table) error{
		"put":    func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("k"), []byte("lost update")) },
		"insert": func(tx *Tx, tb *Table) error { return tx.Insert(tb, []byte("k"), []byte("lost update")) },
		"update": func(tx *Tx, tb *Table) error { return tx.Update(tb, []byte("k"), []byte("lost update")) },
		"delete": func(tx *Tx, tb *Table) error { return tx.Delete(tb, []byte("k")) },
		"lock":   func(tx *Tx, tb *Table) error { _, err := tx.GetForUpdate(tb, []byte("k")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions()
			h := &hookFS{FS: vfs.NewMem()}
			o.FS = h
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "old") })
			writer := mustBegin(t, db, TxOptions{})
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "other", "newer than the snapshot") })
			evictAll(t, db) // one frame with both: it must be read
			eventually(t, "flush", func() bool { return db.space.Stats().BufferUsed <= 0 })
			changed := func() {
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "new") })
				backlogAll(t, db)
			}
			h.read.Store(&changed)
			wantErr(t, name, write(writer, tb), ErrConflict)
			if h.read.Load() != nil {
				t.Fatal("no frame was read")
			}
			rollback(t, writer)
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", "new") })
			mustClose(t, db)
		})
	}
}
