package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var ctx = context.Background()

func memOptions() *Options {
	return &Options{FS: vfs.NewMem(), Memory: 16 << 20, LogSegmentSize: 256 << 10, LogLimit: 2 << 20, MapMemTable: 64 << 10, RunSize: 1 << 20}
}

func mustOpen(tb testing.TB, o *Options) *DB {
	tb.Helper()
	db, err := Open("db", o)
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

func mustTable(tb testing.TB, db *DB, name string) *Table {
	tb.Helper()
	table, err := db.Table(name)
	if errors.Is(err, ErrTableNotFound) {
		table, err = db.CreateTable(ctx, name)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return table
}

func mustBegin(tb testing.TB, db *DB, o TxOptions) *Tx {
	tb.Helper()
	tx, err := db.Begin(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	return tx
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func TestSmoke(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	for round := range 3 {
		tx := mustBegin(t, db, TxOptions{})
		for i := range uint64(2000) {
			check(t, tx.Put(tb, u64(i), fmt.Appendf(nil, "value %d of round %d", i, round)))
		}
		check(t, tx.Commit())
	}
	verify := func(db *DB, tb *Table) {
		t.Helper()
		check(t, db.View(ctx, func(tx *Tx) error {
			n := uint64(0)
			for row, err := range tx.Scan(tb, Range{}) {
				if err != nil {
					return err
				}
				if got, want := string(row.Value), fmt.Sprintf("value %d of round 2", n); got != want || binary.BigEndian.Uint64(row.Key) != n {
					return fmt.Errorf("row %d: %x %q", n, row.Key, got)
				}
				n++
			}
			if n != 2000 {
				return fmt.Errorf("%d rows", n)
			}
			for row, err := range tx.Scan(tb, Range{Reverse: true}) {
				if err != nil {
					return err
				}
				n--
				if binary.BigEndian.Uint64(row.Key) != n {
					return fmt.Errorf("reverse row %d: %x", n, row.Key)
				}
			}
			if n != 0 {
				return fmt.Errorf("reverse ended at %d", n)
			}
			return nil
		}))
	}
	verify(db, tb)
	check(t, db.Verify(ctx))
	check(t, db.Close())
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	verify(db, tb)
	check(t, db.Verify(ctx))
	check(t, db.Close())
}

// One transaction far larger than record memory, by key and at random.
func TestLargeTransaction(t *testing.T) {
	for _, random := range []bool{false, true} {
		t.Run(fmt.Sprint("random=", random), func(t *testing.T) {
			o := memOptions()
			o.RecordMemory = 1 << 20
			o.ChillThreshold = 256 << 10
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			key := func(i uint64) []byte {
				if random {
					return u64(i * 0x9e3779b97f4a7c15)
				}
				return u64(i)
			}
			const n = 100000
			tx := mustBegin(t, db, TxOptions{})
			for i := range uint64(n) {
				if err := tx.Insert(tb, key(i), fmt.Appendf(nil, "%0100d", i)); err != nil {
					t.Fatalf("row %d: %v\n%v", i, err, db.Metrics())
				}
			}
			verify := func(tx *Tx, tb *Table) {
				t.Helper()
				for i := uint64(0); i < n; i += 7 {
					v, err := tx.Get(tb, key(i))
					if err != nil || string(v) != fmt.Sprintf("%0100d", i) {
						t.Fatalf("row %d: %q %v", i, v, err)
					}
				}
				rows := 0
				for _, err := range tx.Scan(tb, Range{}) {
					check(t, err)
					rows++
				}
				if rows != n {
					t.Fatalf("scan found %d rows", rows)
				}
			}
			other := mustBegin(t, db, TxOptions{ReadOnly: true})
			for _, err := range other.Scan(tb, Range{}) {
				t.Fatalf("uncommitted row is visible: %v", err)
			}
			verify(tx, tb)
			check(t, tx.Commit())
			for _, err := range other.Scan(tb, Range{}) {
				t.Fatalf("row committed after the snapshot is visible: %v", err)
			}
			check(t, other.Rollback())
			check(t, db.View(ctx, func(tx *Tx) error { verify(tx, tb); return nil }))
			check(t, db.Verify(ctx))
			t.Log("\n" + db.Metrics().String())
			check(t, db.Close())
			db = mustOpen(t, o)
			tb = mustTable(t, db, "t")
			check(t, db.View(ctx, func(tx *Tx) error { verify(tx, tb); return nil }))
			check(t, db.Verify(ctx))
			check(t, db.Close())
		})
	}
}
