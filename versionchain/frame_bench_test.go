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

// shape is a kind of frame to measure.
type shape struct {
	name string
	meta FrameMeta
	rows []Row
}

func shapes() []shape {
	var all []shape
	for _, varied := range []bool{false, true} {
		s := shape{name: "uniform", rows: benchRows(varied)}
		if varied {
			s.name = "varied"
		}
		s.meta = FrameMeta{Table: 1, Low: s.rows[0].Key, High: s.rows[len(s.rows)-1].Key}
		all = append(all, s)
	}
	return all
}

func perRow(b *testing.B, n int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
}

func BenchmarkAppendFrame(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, frameSizeBound(&s.meta, s.rows))
			n := 0
			for b.Loop() {
				n = len(AppendFrame(buf, &s.meta, s.rows))
			}
			b.SetBytes(int64(n))
			perRow(b, len(s.rows))
		})
	}
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
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			frame := AppendFrame(nil, &s.meta, s.rows)
			for b.Loop() {
				if _, err := ParseFrame(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFrameRow(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			f := mustParse(b, AppendFrame(nil, &s.meta, s.rows))
			var r Row
			total := 0
			for b.Loop() {
				for i := range f.Len() {
					f.Row(i, &r)
					total += len(r.Value)
				}
			}
			_ = total
			perRow(b, len(s.rows))
		})
	}
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
