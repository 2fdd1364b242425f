package engine

import (
	"bytes"
	"fmt"
	"testing"
)

// One record whose versions do not fit into a page.
func TestOneRecordFillsPage(t *testing.T) {
	t.Run("savepoints", func(t *testing.T) {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		tx := mustBegin(t, db, TxOptions{})
		for i := range 8 {
			_, err := tx.Savepoint()
			check(t, err)
			put(t, tx, tb, "k", string(value(i, 8000)))
			gets(t, tx, tb, "k", string(value(i, 8000)))
			checkStore(t, db)
		}
		commit(t, tx)
		inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", string(value(7, 8000))) })
		mustClose(t, db)
	})
	t.Run("snapshots", func(t *testing.T) {
		db := mustOpen(t, memOptions())
		tb := mustTable(t, db, "t")
		var readers []*Tx
		for i := range 8 {
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", string(value(i, 8000))) })
			readers = append(readers, mustBegin(t, db, TxOptions{ReadOnly: true}))
			for j, r := range readers {
				gets(t, r, tb, "k", string(value(j, 8000)))
			}
			checkStore(t, db)
		}
		for _, r := range readers {
			rollback(t, r)
		}
		mustClose(t, db)
	})
}

// A settle that cannot compact a page leaves dropped versions in it. Their
// transaction is forgotten all the same, and nobody may ask for it then: neither
// in a page that grows later nor in one that moves.
func TestDroppedVersionOfForgottenTransaction(t *testing.T) {
	for name, c := range map[string]struct {
		before     bool
		rows, size int
	}{
		"page grows": {false, 4, 500},
		"page moves": {true, 1, 900},
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions()
			o.ChillThreshold = 1 << 10
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			if c.before {
				inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k0", "x") })
				check(t, db.Checkpoint(ctx))
			}
			a := mustBegin(t, db, TxOptions{})
			fillRows(t, a, mustTable(t, db, "other"), 0, 40, 100) // makes a large
			sp, err := a.Savepoint()
			check(t, err)
			put(t, a, tb, "k5", string(value(1, 400)))
			check(t, a.RollbackTo(sp))
			b := mustBegin(t, db, TxOptions{})
			for i := range c.rows {
				put(t, b, tb, fmt.Sprintf("k%d", 6+i), string(value(1, c.size)))
			}
			rollback(t, b)
			commit(t, a)
			for range 2 {
				check(t, db.Checkpoint(ctx))
			}
			checkStore(t, db)
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k5", "") })
			mustClose(t, db)
		})
	}
}

// A frame of one row is large by its key, too; a lock in it hides nothing.
func TestLockInFrameHidesNothing(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	long := string(bytes.Repeat([]byte("k"), 4400))
	inUpdate(t, db, func(tx *Tx) { // leaves with long fences
		for i := range 40 {
			put(t, tx, tb, fmt.Sprintf("%02d", i)+long, "n")
		}
	})
	evictAll(t, db)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "05", "v") })
	backlogAll(t, db) // one row, one frame of more than 8 KiB
	tx := mustBegin(t, db, TxOptions{})
	_, err := tx.GetForUpdate(tb, []byte("05"))
	check(t, err)
	backlogAll(t, db)
	commit(t, tx)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "05", "v") })
	mergeAt(t, db, tb, []byte("05"))
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "05", "v") })
	mustClose(t, db)
}

// Large values under keys whose bounds a list does not keep: the leaf must split
// all the same, or its list outgrows record memory and writers spin for ever.
func TestLargeValuesUnderLongKeysSplit(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	v := value(1, 8200)
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	for i := range 400 {
		k := append(fmt.Appendf(nil, "%05d", i*7919%400), bytes.Repeat([]byte("k"), 65)...)
		check(t, tx.Put(tb, k, v))
		if i%100 == 0 {
			pruneAll(t, db)
		}
	}
	if n := db.cache.Leaves(); n < 3 {
		t.Errorf("M5: 400 large values in %d leaves, %d bytes of descriptors", n, db.arena.Charged())
	}
	commit(t, tx)
	checkStore(t, db)
	mustClose(t, db)
}

// Many large values in one leaf.
func TestManyLargeValues(t *testing.T) {
	o := memOptions()
	o.RecordMemory = 1 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	v := value(1, 9000)
	for i := range 3000 {
		if i%500 == 0 {
			pruneAll(t, db)
		}
		inUpdate(t, db, func(tx *Tx) { check(t, tx.Put(tb, fmt.Appendf(nil, "k%06d", i*7919%3000), v)) })
	}
	checkStore(t, db)
	inView(t, db, func(tx *Tx) {
		n := 0
		for row, err := range tx.Scan(tb, Range{}) {
			check(t, err)
			if string(row.Value) != string(v) {
				t.Fatal(string(row.Key))
			}
			n++
		}
		if n != 3000 {
			t.Fatal(n)
		}
	})
	mustClose(t, db)
}

// The shared run is full and another begins, under the lock of the edit queue.
func TestSharedRunRollsOver(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1 << 10
	o.RunSize = 64 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	for r := range 20 {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 50 {
				put(t, tx, tb, fmt.Sprintf("k%05d", (i*37+r)%3000), string(value(i, 500)))
			}
		})
		backlogAll(t, db)
	}
	check(t, db.Checkpoint(ctx))
	mustClose(t, db)
}

// A leaf full of chilled headers comes back at once: its rows need more buffer than
// a page, which went below zero (M1).
func TestThawWholeLeaf(t *testing.T) {
	o := memOptions()
	o.LogLimit = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{NoSync: true})
	v := value(1, 8000)
	for i := range 400 {
		put(t, tx, tb, fmt.Sprintf("k%03d", i), string(v))
		chillAll(t, db)
	}
	backlogAll(t, db)
	eventually(t, "flush", func() bool { return db.space.Stats().BufferUsed <= 0 })
	commit(t, tx)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k007", string(v)) })
	check(t, db.Checkpoint(ctx))
	if n := db.space.Stats().BufferUsed; n < 0 {
		t.Errorf("M1: %d bytes of buffer in use", n)
	}
	mustClose(t, db)
}
