package seriallog

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sakerdb/saker/internal/base"
)

func testRows() []Row {
	return []Row{
		{Table: 1, Key: []byte("k"), Value: []byte("v")},
		{Table: 1, Key: []byte("k"), Value: []byte{}}, // hazard 12: zero-length value
		{Table: math.MaxUint32, Kind: base.KindTombstone, Epoch: math.MaxUint32, Leave: math.MaxUint32, Key: bytes.Repeat([]byte{0}, base.MaxKeySize)},
		{Kind: base.KindLock, Key: []byte{0xff}},
		{Table: 300, Epoch: 128, Leave: 16384, Key: []byte("key"), Value: bytes.Repeat([]byte("x"), 8<<10)},
	}
}

func TestRowRoundTrip(t *testing.T) {
	var all []byte
	for _, want := range testRows() {
		one := AppendRow(nil, &want)
		if len(one) != RowSize(&want) {
			t.Errorf("row of %d bytes, RowSize says %d", len(one), RowSize(&want))
		}
		all = append(all, one...)
	}
	rest := all
	for i, want := range testRows() {
		got, n, err := DecodeRow(rest)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("row %d (-want +got):\n%s", i, diff)
		}
		if cap(got.Key) != len(got.Key) {
			t.Error("appending to a decoded key would write into the source")
		}
		rest = rest[n:]
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes left", len(rest))
	}
}

func TestDecodeRowDetectsEveryFlippedBitAndCut(t *testing.T) {
	row := Row{Table: 3, Epoch: 200, Leave: 9, Key: []byte("some key"), Value: []byte("some value")}
	good := AppendRow(nil, &row)
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, _, err := DecodeRow(bad); !isCorruption(err) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
	}
	for n := range good {
		if _, _, err := DecodeRow(good[:n]); !isCorruption(err) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func isCorruption(err error) bool {
	var c *base.CorruptionError
	return errors.As(err, &c)
}

func FuzzDecodeRow(f *testing.F) {
	for _, r := range testRows() {
		f.Add(AppendRow(nil, &r))
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, src []byte) {
		r, n, err := DecodeRow(src)
		if err != nil {
			if !isCorruption(err) {
				t.Fatalf("not a corruption: %v", err)
			}
			return
		}
		if n <= 0 || n > len(src) {
			t.Fatalf("length %d of %d", n, len(src))
		}
		again, _, err := DecodeRow(AppendRow(nil, &r))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkAppendRow(b *testing.B) {
	r := Row{Table: 1, Epoch: 3, Leave: 1000, Key: []byte("12345678"), Value: make([]byte, 100)}
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendRow(buf[:0], &r)
	}
}

func BenchmarkDecodeRow(b *testing.B) {
	buf := AppendRow(nil, &Row{Table: 1, Epoch: 3, Leave: 1000, Key: []byte("12345678"), Value: make([]byte, 100)})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeRow(buf); err != nil {
			b.Fatal(err)
		}
	}
}
