package versionchain

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// benchRows are 72 rows of 8-byte keys and 100-byte values, some 8 KiB.
func benchRows(varied bool) []Row {
	rows := seqRows(1_000_000, 72, 100)
	if varied {
		for i := range rows {
			rows[i].Value = rows[i].Value[:100-i%7]
			rows[i].TS = base.CommitTS(1_000_000 + i*37%64)
			if i%9 == 0 {
				rows[i].Kind, rows[i].Value = base.KindTombstone, nil
			}
		}
	}
	return rows
}

func eachShape(b *testing.B, fn func(b *testing.B, m *FrameMeta, rows []Row)) {
	for _, varied := range []bool{false, true} {
		name := "uniform"
		if varied {
			name = "varied"
		}
		b.Run(name, func(b *testing.B) {
			rows := benchRows(varied)
			m := &FrameMeta{Table: 1, Low: rows[0].Key, High: rows[len(rows)-1].Key}
			b.ReportAllocs()
			fn(b, m, rows)
		})
	}
}

func perRow(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
}

func BenchmarkAppendFrame(b *testing.B) {
	eachShape(b, func(b *testing.B, m *FrameMeta, rows []Row) {
		buf := make([]byte, 0, FrameSizeBound(m, rows))
		n := 0
		for b.Loop() {
			n = len(AppendFrame(buf, m, rows))
		}
		b.SetBytes(int64(n))
		perRow(b, len(rows))
	})
}

func BenchmarkSealFrame(b *testing.B) {
	rows := benchRows(false)
	frame := AppendFrame(nil, &FrameMeta{}, rows)
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	off := uint64(0)
	for b.Loop() {
		SealFrame(frame, 1, off)
		off++
	}
}

func BenchmarkParseFrame(b *testing.B) {
	eachShape(b, func(b *testing.B, m *FrameMeta, rows []Row) {
		frame := AppendFrame(nil, m, rows)
		for b.Loop() {
			if _, err := ParseFrame(frame); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFrameRow(b *testing.B) {
	eachShape(b, func(b *testing.B, m *FrameMeta, rows []Row) {
		f := mustParse(b, AppendFrame(nil, m, rows))
		var r Row
		total := 0
		for b.Loop() {
			for i := range f.Len() {
				f.Row(i, &r)
				total += len(r.Value)
			}
		}
		_ = total
		perRow(b, len(rows))
	})
}

func BenchmarkFrameSearch(b *testing.B) {
	for _, n := range []int{72, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rows := seqRows(1_000_000, n, 100)
			f := mustParse(b, AppendFrame(nil, &FrameMeta{}, rows))
			key := make([]byte, 8)
			b.ReportAllocs()
			x := uint64(1)
			for b.Loop() {
				x = x*6364136223846793005 + 1442695040888963407
				binary.BigEndian.PutUint64(key, 1_000_000+(x>>33)%uint64(n))
				if _, exact := f.Search(key); !exact {
					b.Fatal("not found")
				}
			}
		})
	}
}
