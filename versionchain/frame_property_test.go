package versionchain

import (
	"bytes"
	"fmt"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
)

// TestFrameProperty compares frames of random rows with the rows.
func TestFrameProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, rows := drawFrame(t)
		b := AppendFrame(nil, m, rows)
		if bound := frameSizeBound(m, rows); len(b) > bound {
			t.Fatalf("frame of %d bytes, bound %d", len(b), bound)
		}
		f, err := ParseFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Verify(); err != nil {
			t.Fatal(err)
		}
		checkFrameRapid(t, &f, rows)
		for range 8 {
			key := drawKey(t, "probe")
			want := sort.Search(len(rows), func(i int) bool { return bytes.Compare(rows[i].Key, key) >= 0 })
			exact := want < len(rows) && bytes.Equal(rows[want].Key, key)
			if i, ok := f.Search(key); i != want || ok != exact {
				t.Fatalf("Search(%q) = %d, %v; want %d, %v", key, i, ok, want, exact)
			}
		}
		// The same rows, read back and encoded again, are the same bytes.
		m2 := f.Meta()
		if again := AppendFrame(nil, &m2, rowsOf(&f)); !bytes.Equal(b, again) {
			t.Fatal("encoding is not a fixed point")
		}
	})
}

func checkFrameRapid(t *rapid.T, f *Frame, rows []Row) {
	if f.Len() != len(rows) {
		t.Fatalf("Len = %d, want %d", f.Len(), len(rows))
	}
	for i, got := range rowsOf(f) {
		if fmt.Sprint(got) != fmt.Sprint(rows[i]) {
			t.Fatalf("row %d = %v, want %v", i, got, rows[i])
		}
	}
}

func drawKey(t *rapid.T, label string) []byte {
	// Few letters and a long common beginning make equal heads frequent.
	tail := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 0xFF}), 0, 9).Draw(t, label)
	return append([]byte(rapid.SampledFrom([]string{"", "a", "prefix/"}).Draw(t, label+" prefix")), tail...)
}

func drawFrame(t *rapid.T) (*FrameMeta, []Row) {
	m := &FrameMeta{Table: base.TableID(rapid.Uint32().Draw(t, "table"))}
	owned := rapid.Bool().Draw(t, "owned")
	if owned {
		m.Owner = 1<<40 + 3
	}
	maxTS := rapid.SampledFrom([]base.CommitTS{0, 10, 1 << 31, base.MaxTS}).Draw(t, "max ts")
	valueMax := rapid.SampledFrom([]int{0, 1, 30, 3000}).Draw(t, "value max")
	rows := make([]Row, rapid.IntRange(1, 60).Draw(t, "rows"))
	for i := range rows {
		r := &rows[i]
		r.Key = drawKey(t, "key")
		r.Kind = base.Kind(rapid.IntRange(0, 2).Draw(t, "kind"))
		if r.Kind == base.KindValue {
			r.Value = bytes.Repeat([]byte{byte(i)}, rapid.IntRange(0, valueMax).Draw(t, "value"))
		}
		if owned {
			r.Epoch = base.Epoch(rapid.IntRange(0, 3).Draw(t, "epoch"))
			r.Leave = base.Leave(rapid.IntRange(0, 3).Draw(t, "leave"))
		} else {
			r.TS = base.CommitTS(rapid.Uint64Range(0, uint64(maxTS)).Draw(t, "ts"))
		}
	}
	sort.SliceStable(rows, func(i, j int) bool {
		if c := bytes.Compare(rows[i].Key, rows[j].Key); c != 0 {
			return c < 0
		}
		return rows[i].Newer(rows[j].Order)
	})
	m.Low = rows[0].Key
	if rapid.Bool().Draw(t, "bounded") {
		m.High = append(bytes.Clone(rows[len(rows)-1].Key), 0)
	}
	return m, rows
}
