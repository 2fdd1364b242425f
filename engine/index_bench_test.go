package engine

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// benchmarkIndexedPut writes rows of 100 bytes at random keys, a hundred in a
// transaction, into a table with n indexes over four bytes of the value, which each
// write changes.
func benchmarkIndexedPut(b *testing.B, n int, unique bool) {
	b.Helper()
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20, NoSync: true})
	for i := range n {
		_, err := db.CreateIndex(ctx, tb, fmt.Sprint(i), unique, func(row Row, emit func([]byte)) {
			emit(row.Value[8*i : 8*i+8])
		})
		check(b, err)
	}
	const rows = 1 << 18
	v, key := randomValue(100), make([]byte, 8)
	put := func(i uint64, tx *Tx) {
		binary.BigEndian.PutUint64(key, mix(i)%rows)
		for j := range n {
			binary.BigEndian.PutUint64(v[8*j:], mix(i+rows<<j))
		}
		fatal(b, tx.Put(tb, key, v))
	}
	for i := uint64(0); i < rows; {
		tx := mustBegin(b, db, TxOptions{})
		for range 1024 {
			put(i, tx)
			i++
		}
		fatal(b, tx.Commit())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		tx := mustBegin(b, db, TxOptions{})
		for range min(100, b.N-i) {
			put(uint64(rows+i), tx)
			i++
		}
		fatal(b, tx.Commit())
	}
}

func BenchmarkPutIndexes(b *testing.B) {
	for _, c := range []struct {
		name   string
		n      int
		unique bool
	}{{"none", 0, false}, {"plain", 1, false}, {"unique", 1, true}, {"two", 2, false}} {
		b.Run(c.name, func(b *testing.B) { benchmarkIndexedPut(b, c.n, c.unique) })
	}
}

// BenchmarkPutIndexUnchanged writes rows whose index keys stay.
func BenchmarkPutIndexUnchanged(b *testing.B) {
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20, NoSync: true})
	_, err := db.CreateIndex(ctx, tb, "i", false, func(row Row, emit func([]byte)) { emit(row.Key[6:]) })
	check(b, err)
	v, key := randomValue(100), make([]byte, 8)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		tx := mustBegin(b, db, TxOptions{})
		for range min(100, b.N-i) {
			binary.BigEndian.PutUint64(key, mix(uint64(i))%(1<<18))
			fatal(b, tx.Put(tb, key, v))
			i++
		}
		fatal(b, tx.Commit())
	}
}

// BenchmarkScanIndex reads rows by an index, in another order than theirs.
func BenchmarkScanIndex(b *testing.B) {
	db, tb := loaded(b, 1<<18)
	ix, err := db.CreateIndex(ctx, tb, "i", false, func(row Row, emit func([]byte)) {
		emit(binary.BigEndian.AppendUint64(nil, mix(binary.BigEndian.Uint64(row.Key))))
	})
	check(b, err)
	tx := mustBegin(b, db, TxOptions{ReadOnly: true})
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		for _, err := range tx.ScanIndex(ix, Range{Limit: b.N - n}) {
			fatal(b, err)
			n++
		}
	}
	b.StopTimer()
	check(b, tx.Rollback())
}

// BenchmarkCreateIndex builds an index over rows of 100 bytes.
func BenchmarkCreateIndex(b *testing.B) {
	db, tb := loaded(b, 1<<18)
	b.ResetTimer()
	for range b.N {
		_, err := db.CreateIndex(ctx, tb, "i", false, func(row Row, emit func([]byte)) { emit(row.Value[:8]) })
		check(b, err)
		b.StopTimer()
		check(b, db.DropIndex(ctx, tb, "i"))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*(1<<18)/b.Elapsed().Seconds(), "rows/s")
}
