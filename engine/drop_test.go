package engine

import "testing"

// A dropped table with a number ceiling, replayed.
func TestDroppedTableWithCeilingStaysDropped(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		_, err := tx.Append(tb, []byte("v"))
		check(t, err)
	})
	check(t, db.DropTable(ctx, "t"))
	_, err := db.space.Flush()
	check(t, err)
	o2 := crashed(o, 0)
	db2 := mustOpen(t, o2)
	if n := db2.Tables(); len(n) != 0 {
		t.Fatalf("tables %q", n)
	}
	db3 := reopen(t, db2, o2)
	if n := db3.Tables(); len(n) != 0 {
		t.Fatalf("tables after the second opening: %q", n)
	}
	mustClose(t, db3)
	mustClose(t, db)
}

// A name that was dropped and used again while a checkpoint ran.
func TestNameUsedAgainDuringCheckpoint(t *testing.T) {
	o := crashOptions(t)
	db := mustOpen(t, o)
	mustTable(t, db, "t")
	check(t, db.DropTable(ctx, "t"))
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	check(t, db.ckpt.mu.lock(ctx))
	_, err := db.removeDropped(ctx, db.log.End()) // the end of a checkpoint that began before all this
	db.ckpt.mu.unlock()
	check(t, err)
	_, err = db.space.Flush()
	check(t, err)
	db2 := mustOpen(t, crashed(o, 0))
	tb2, err := db2.Table("t")
	check(t, err)
	inView(t, db2, func(tx *Tx) { gets(t, tx, tb2, "k", "v") })
	mustClose(t, db2)
	mustClose(t, db)
}
