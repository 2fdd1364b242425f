package engine

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
)

// byWords is the function of the tests' indexes: each word of the value is an index
// key, "-" none, "_" the empty key.
func byWords(row Row, emit func([]byte)) {
	for w := range bytes.FieldsSeq(row.Value) {
		switch string(w) {
		case "-":
		case "_":
			emit(nil)
		default:
			emit(w)
		}
	}
}

// firstWord is the function of unique indexes: few rows have a key.
func firstWord(row Row, emit func([]byte)) {
	if w, _, ok := strings.Cut(string(row.Value), " "); ok && w[0] == 'u' {
		emit([]byte(w))
	}
}

// putMoreThanABatch stores k0000=w0 to k1499=w1499: more than a builder reads at a time.
func putMoreThanABatch(t tester, db *DB, tb *Table) {
	t.Helper()
	inUpdate(t, db, func(tx *Tx) {
		for i := range 1500 {
			put(t, tx, tb, fmt.Sprintf("k%04d", i), fmt.Sprintf("w%d", i))
		}
	})
}

func mustIndex(tb testing.TB, db *DB, t *Table, name string, unique bool) *Index {
	tb.Helper()
	ix, err := db.CreateIndex(ctx, t, name, unique, byWords)
	if err != nil {
		tb.Fatalf("create index %q: %v", name, err)
	}
	return ix
}

func indexRow(ik, k, v []byte) string { return fmt.Sprintf("%q→%q=%q", ik, k, v) }

// indexOf is what an index over byWords must show: computed from the rows that tx
// sees, in order.
func indexOf(t tester, tx *Tx, tb *Table) (rows []string) {
	t.Helper()
	return indexBy(t, tx, tb, byWords)
}

// indexBy is indexOf of another function.
func indexBy(t tester, tx *Tx, tb *Table, fn func(Row, func([]byte))) (rows []string) {
	t.Helper()
	type entry struct{ ik, k, v []byte }
	var all []entry
	for row, err := range tx.Scan(tb, Range{}) {
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		seen := map[string]bool{}
		fn(row, func(ik []byte) {
			if !seen[string(ik)] {
				seen[string(ik)] = true
				all = append(all, entry{bytes.Clone(ik), bytes.Clone(row.Key), bytes.Clone(row.Value)})
			}
		})
	}
	sort.Slice(all, func(i, j int) bool {
		if c := bytes.Compare(all[i].ik, all[j].ik); c != 0 {
			return c < 0
		}
		return bytes.Compare(all[i].k, all[j].k) < 0
	})
	for _, e := range all {
		rows = append(rows, indexRow(e.ik, e.k, e.v))
	}
	return rows
}

// scanned is what an index shows, by scans in both directions and a cursor.
func scanned(t tester, tx *Tx, ix *Index, r Range) (rows []string) {
	t.Helper()
	for row, err := range tx.ScanIndex(ix, r) {
		if err != nil {
			t.Fatalf("scan of index: %v", err)
		}
		rows = append(rows, indexRow(row.IndexKey, row.Key, row.Value))
	}
	var back []string
	rr := r
	rr.Reverse = true
	for row, err := range tx.ScanIndex(ix, rr) {
		if err != nil {
			t.Fatalf("scan of index in reverse: %v", err)
		}
		back = append(back, indexRow(row.IndexKey, row.Key, row.Value))
	}
	slices.Reverse(back)
	if r.Limit == 0 && !slices.Equal(rows, back) {
		t.Fatalf("scan of index in reverse: %q, forward %q", back, rows)
	}
	return rows
}

// sameIndex compares an index with the rows that tx sees.
func sameIndex(t tester, tx *Tx, ix *Index) {
	t.Helper()
	sameIndexBy(t, tx, ix, byWords)
}

// sameIndexBy is sameIndex of another function.
func sameIndexBy(t tester, tx *Tx, ix *Index, fn func(Row, func([]byte))) {
	t.Helper()
	want, got := indexBy(t, tx, ix.Table(), fn), scanned(t, tx, ix, Range{})
	if slices.Equal(got, want) {
		return
	}
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("index %q: entry %d of %d is %.80s; of the rows it is %.80s, of %d", ix.Name(), i, len(got), g, w, len(want))
		}
	}
}
