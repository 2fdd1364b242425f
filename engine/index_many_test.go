package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// manyKeys is an index function: "<from> <n>" is n index keys from a number on.
func manyKeys(row Row, emit func([]byte)) {
	var from, n int
	if _, err := fmt.Sscan(string(row.Value), &from, &n); err != nil {
		return
	}
	for i := range n {
		emit(binary.BigEndian.AppendUint64(nil, uint64(from+i*7919%n)))
	}
}

// entriesByRow counts the entries of an index, by row.
func entriesByRow(t tester, tx *Tx, ix *Index) map[string]int {
	t.Helper()
	n := map[string]int{}
	var last []byte
	for row, err := range tx.ScanIndex(ix, Range{}) {
		if err != nil {
			t.Fatalf("scan of index: %v", err)
		}
		if ix.Unique() && last != nil && string(last) >= string(row.IndexKey) {
			t.Fatalf("%x after %x", row.IndexKey, last)
		}
		last = append(last[:0], row.IndexKey...)
		n[string(row.Key)]++
	}
	return n
}

// Rows with ten thousand entries each, in the least record memory: they are inserted,
// get other entries, are deleted, and all of it is taken back, by several transactions
// at once; then the store crashes.
//
// Verify asked the index's function for all entries of a row once for each of them: it
// took minutes for these rows, and looked as if it hung.
func TestRowsWithManyEntries(t *testing.T) {
	const clients = 4
	entries := 10000
	if testing.Short() {
		entries = 3000
	}
	for _, unique := range []bool{false, true} {
		t.Run(fmt.Sprint("unique=", unique), func(t *testing.T) {
			o := crashOptions(t)
			o.Memory, o.RecordMemory = 4<<20, 1<<20
			if unique {
				o.ChillThreshold = 1
			}
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			var calls atomic.Int64
			create := func(db *DB, tb *Table) *Index {
				ix, err := db.CreateIndex(ctx, tb, "i", unique, func(row Row, emit func([]byte)) {
					calls.Add(1)
					manyKeys(row, emit)
				})
				check(t, err)
				return ix
			}
			ix := create(db, tb)
			row := func(n int) []byte { return fmt.Appendf(nil, "%d %d", n*entries, entries) }
			has := func(tx *Tx, ix *Index, want map[string]int) {
				t.Helper()
				got := entriesByRow(t, tx, ix)
				if len(got) != len(want) {
					t.Fatalf("entries of rows %v, want %v", got, want)
				}
				for k, n := range want {
					if got[k] != n {
						t.Fatalf("entries of rows %v, want %v", got, want)
					}
				}
			}
			// Each client has rows of its own, and goes through all that may happen.
			client := func(c int) error {
				key := fmt.Appendf(nil, "row %d", c)
				v := func(i int) []byte { return row(c*10 + i) }
				do := func(fn func(tx *Tx) error) error {
					tx, err := db.Begin(ctx, TxOptions{Isolation: Isolation(c % 3)})
					if err != nil {
						return err
					}
					defer func() { _ = tx.Rollback() }()
					return fn(tx)
				}
				return errors.Join(
					do(func(tx *Tx) error { return errors.Join(tx.Insert(tb, key, v(0)), tx.Commit()) }),
					do(func(tx *Tx) error { return errors.Join(tx.Update(tb, key, v(1)), tx.Commit()) }),
					do(func(tx *Tx) error { return errors.Join(tx.Delete(tb, key), tx.Rollback()) }),
					do(func(tx *Tx) error {
						sp, err := tx.Savepoint()
						err = errors.Join(err, tx.Delete(tb, key), tx.Insert(tb, key, v(2)), tx.RollbackTo(sp))
						err = errors.Join(err, tx.Put(tb, key, v(3)), tx.RollbackTo(sp))
						return errors.Join(err, tx.Put(tb, key, v(4)), tx.Insert(tb, append(key, '+'), v(5)), tx.Commit())
					}),
					do(func(tx *Tx) error {
						if err := tx.Insert(tb, append(key, '-'), v(4)); unique && !errors.Is(err, ErrKeyExists) || !unique && err != nil {
							return fmt.Errorf("insert: %w", err)
						}
						return tx.Rollback()
					}),
					do(func(tx *Tx) error { return errors.Join(tx.Delete(tb, append(key, '+')), tx.Commit()) }),
				)
			}
			done := make(chan error, clients)
			began := time.Now()
			for c := range clients {
				go func() { done <- client(c) }()
			}
			for range clients {
				check(t, <-done)
			}
			t.Logf("%v; peak %d KiB of %d", time.Since(began), db.arena.Peak()>>10, db.arena.Cap()>>10)
			want := map[string]int{}
			for c := range clients {
				want[fmt.Sprintf("row %d", c)] = entries
			}
			inView(t, db, func(tx *Tx) { has(tx, ix, want) })
			waitSwept(t, db)
			before := calls.Load()
			checkStore(t, db)
			if n := calls.Load() - before; n > 10*clients {
				t.Errorf("verify called the index's function %d times for %d rows", n, clients)
			}
			open := mustBegin(t, db, TxOptions{})
			check(t, open.Put(tb, []byte("row 0"), row(999)))
			again := mustOpen(t, crashed(o, 50))
			tb2 := mustTable(t, again, "t")
			ix2 := create(again, tb2)
			inView(t, again, func(tx *Tx) { has(tx, ix2, want) })
			checkStore(t, again)
			inUpdate(t, again, func(tx *Tx) { del(t, tx, tb2, "row 1") })
			delete(want, "row 1")
			inView(t, again, func(tx *Tx) { has(tx, ix2, want) })
			mustClose(t, again)
			rollback(t, open)
			mustClose(t, db)
		})
	}
}
