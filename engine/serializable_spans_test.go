package engine

import "testing"

// A scan to the end of a table, and then one from its beginning. The bound behind
// all keys has no bytes, as the first of all keys has none: the second range was
// taken for one that begins where the first ends, so that nothing of it was noted,
// and a phantom in it went unseen.
func TestSerializableFromTheEndToTheBeginning(t *testing.T) {
	for name, scans := range map[string]func(tx *Tx, tb *Table){
		"scans": func(tx *Tx, tb *Table) {
			scanAll(t, tx, tb, Range{From: []byte("m")})
			scanAll(t, tx, tb, Range{To: []byte("c")})
		},
		"cursor": func(tx *Tx, tb *Table) {
			c := tx.Cursor(tb, Range{})
			for ok := c.Seek([]byte("m")); ok; ok = c.Next() {
			}
			if !c.First() || string(c.Key()) != "b" {
				t.Fatalf("the first is %q: %v", c.Key(), c.Err())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			defer mustClose(t, db)
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "b", "1"); put(t, tx, tb, "n", "1") })
			t1 := serial(t, db)
			scans(t1, tb)
			put(t, t1, tb, "z", "read")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "phantom") })
			wantSkew(t, t1)
		})
	}
}

// A drop that waits for a writer of the table has changed nothing, and may never:
// readers of the table commit before it. They failed, again and again, as long as the
// drop waited.
func TestSerializableBeforeADrop(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb, other := mustTable(t, db, "t"), mustTable(t, db, "other")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "1") })
	writer := serial(t, db)
	put(t, writer, tb, "b", "1")
	dropped := make(chan error, 1)
	go func() { dropped <- db.DropTable(ctx, "t") }()
	eventually(t, "the drop is announced", func() bool { return tb.Dropped.Load() != 0 })
	reader := serial(t, db)
	gets(t, reader, tb, "a", "1")
	put(t, reader, other, "a is", "1")
	commit(t, reader)
	late := serial(t, db)
	gets(t, late, tb, "a", "1")
	put(t, late, other, "a was", "1")
	gets(t, writer, tb, "a", "1")
	commit(t, writer)
	check(t, <-dropped)
	wantSkew(t, late)
	mustClose(t, db)
}
