package versionchain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/internal/base"
)

// seqRows returns n rows of 8-byte keys that count from first, values of
// valueLen bytes.
func seqRows(first uint64, n, valueLen int) []Row {
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{
			Key:   binary.BigEndian.AppendUint64(nil, first+uint64(i)),
			Value: bytes.Repeat([]byte{byte(i)}, valueLen),
		}
	}
	return rows
}

func mustParse(tb testing.TB, b []byte) Frame {
	tb.Helper()
	f, err := ParseFrame(b)
	if err != nil {
		tb.Fatalf("ParseFrame: %v", err)
	}
	return f
}

func rowsOf(f *Frame) []Row {
	rows := make([]Row, f.Len())
	for i := range rows {
		f.Row(i, &rows[i])
	}
	return rows
}

// checkFrame checks that f holds rows, by every accessor.
func checkFrame(tb testing.TB, f *Frame, rows []Row) {
	tb.Helper()
	if f.Len() != len(rows) {
		tb.Fatalf("Len = %d, want %d", f.Len(), len(rows))
	}
	for i := range rows {
		want := &rows[i]
		var got Row
		f.Row(i, &got)
		if !bytes.Equal(got.Key, want.Key) || !bytes.Equal(got.Value, want.Value) ||
			got.Order != want.Order || got.Kind != want.Kind {
			tb.Fatalf("row %d = %v, want %v", i, got, *want)
		}
		if !bytes.Equal(f.Key(i), want.Key) || !bytes.Equal(f.Value(i), want.Value) ||
			f.Order(i) != want.Order || f.Kind(i) != want.Kind {
			tb.Fatalf("row %d: an accessor differs from %v", i, *want)
		}
		if cap(got.Key) != len(got.Key) || cap(got.Value) != len(got.Value) {
			tb.Fatalf("row %d: append to a slice of it would overwrite the frame", i)
		}
		if !FilterMayContain(f.Filter(), base.Hash(want.Key)) {
			tb.Fatalf("row %d is not in the filter", i)
		}
	}
}

// checkSearch compares Search with the obvious.
func checkSearch(tb testing.TB, f *Frame, rows []Row, key []byte) {
	tb.Helper()
	want := sort.Search(len(rows), func(i int) bool { return bytes.Compare(rows[i].Key, key) >= 0 })
	wantExact := want < len(rows) && bytes.Equal(rows[want].Key, key)
	if i, exact := f.Search(key); i != want || exact != wantExact {
		tb.Fatalf("Search(%q) = %d, %v; want %d, %v", key, i, exact, want, wantExact)
	}
}

func TestFrameRoundTrip(t *testing.T) {
	order := func(ts, epoch, leave int) base.Order {
		return base.Order{TS: base.CommitTS(ts), Epoch: base.Epoch(epoch), Leave: base.Leave(leave)}
	}
	long := bytes.Repeat([]byte("p"), base.MaxKeySize-1)
	for _, tc := range []struct {
		name  string
		meta  FrameMeta
		rows  []Row
		extra int // bytes beyond header, fences, filter, heads, keys and values
	}{
		{"one row", FrameMeta{Table: 7}, []Row{{Key: []byte("k"), Value: []byte("v")}}, 0},
		{"empty value", FrameMeta{}, []Row{{Key: []byte("k")}}, 0},
		{"no rows", FrameMeta{Low: []byte("a")}, nil, 0},
		{"uniform image", FrameMeta{Image: true, Low: []byte("a"), High: []byte("c")}, []Row{
			{Key: []byte("aa"), Value: []byte("1"), Order: order(5, 0, 0)},
			{Key: []byte("ab"), Value: []byte("2"), Order: order(5, 0, 0)},
		}, 0},
		{"values of two lengths", FrameMeta{}, []Row{
			{Key: []byte("aa"), Value: []byte("1")}, {Key: []byte("ab")},
		}, 3 * 2},
		{"keys of two lengths", FrameMeta{}, []Row{
			{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("ab"), Value: []byte("1")},
		}, 3*2 + 2*2},
		{"keys of two lengths, rows of one", FrameMeta{}, []Row{
			{Key: []byte("a"), Value: []byte("12")}, {Key: []byte("ab"), Value: []byte("1")},
		}, 2 * 2},
		{"timestamps near", FrameMeta{}, []Row{
			{Key: []byte("a"), Order: order(1000, 0, 0)}, {Key: []byte("a"), Order: order(1, 0, 0)},
		}, 2 * 4},
		{"timestamps far", FrameMeta{}, []Row{
			{Key: []byte("a"), Order: order(1<<62, 0, 0)}, {Key: []byte("b"), Order: order(1, 0, 0)},
		}, 2 * 8},
		{"owned, two savepoints", FrameMeta{Owner: 9, Leave: 44}, []Row{
			{Key: []byte("a"), Order: order(0, 7, 44)}, {Key: []byte("a"), Order: order(0, 3, 12)},
		}, 2*4 + 2*4},
		{"kinds", FrameMeta{}, []Row{
			{Key: []byte("a"), Kind: base.KindTombstone},
			{Key: []byte("b"), Kind: base.KindLock},
			{Key: []byte("c"), Kind: base.KindValue},
		}, 3},
		{"all tombstones", FrameMeta{}, []Row{
			{Key: []byte("a"), Kind: base.KindTombstone}, {Key: []byte("b"), Kind: base.KindTombstone},
		}, 0},
		{"longest keys", FrameMeta{Low: long, High: append(bytes.Clone(long), 'z', 0)}, []Row{
			{Key: append(bytes.Clone(long), 'a')}, {Key: append(bytes.Clone(long), 'b')},
		}, 0},
		{"offsets of 4 bytes", FrameMeta{}, []Row{
			{Key: []byte("a"), Value: make([]byte, 70<<10)}, {Key: []byte("b"), Value: []byte("x")},
		}, 3 * 4},
		{"a large value", FrameMeta{}, []Row{{Key: []byte("a"), Value: make([]byte, 1<<20)}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			prefix := []byte("untouched")
			out := AppendFrame(bytes.Clone(prefix), &tc.meta, tc.rows)
			if !bytes.HasPrefix(out, prefix) {
				t.Fatal("dst was overwritten")
			}
			b := out[len(prefix):]
			f := mustParse(t, b)
			checkFrame(t, &f, tc.rows)
			if err := f.Verify(); err != nil {
				t.Error(err)
			}
			want := tc.meta
			for i := range tc.rows {
				want.Newest = max(want.Newest, tc.rows[i].TS)
				want.Leave = max(want.Leave, tc.rows[i].Leave)
			}
			got := f.Meta()
			if len(got.Low) == 0 {
				got.Low = nil
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("meta (-want +got):\n%s", d)
			}
			size := FrameHeaderSize + len(tc.meta.Low) + len(tc.meta.High) + len(f.Filter()) + tc.extra
			for i := range tc.rows {
				size += 4 + len(tc.rows[i].Key) + len(tc.rows[i].Value)
			}
			if len(b) != size {
				t.Errorf("frame of %d bytes, want %d", len(b), size)
			}
			if bound := frameSizeBound(&tc.meta, tc.rows); len(b) > bound {
				t.Errorf("frame of %d bytes, bound %d", len(b), bound)
			}
			for i := range tc.rows {
				checkSearch(t, &f, tc.rows, tc.rows[i].Key)
			}
		})
	}
}

// TestFrameReusesDirtyBuffer: columns, filter and the zero crc do not depend on
// what the buffer held.
func TestFrameReusesDirtyBuffer(t *testing.T) {
	rows := seqRows(1, 100, 9)
	m := &FrameMeta{Table: 3, Low: rows[0].Key}
	want := AppendFrame(nil, m, rows)
	dirty := bytes.Repeat([]byte{0xDB}, 2*len(want))
	got := AppendFrame(dirty[:0], m, rows)
	if !bytes.Equal(got, want) {
		t.Fatal("frame depends on the buffer")
	}
	if n := testing.AllocsPerRun(20, func() { AppendFrame(dirty[:0], m, rows) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFrameRowSize(t *testing.T) {
	rows := seqRows(1, 72, 100)
	b := AppendFrame(nil, &FrameMeta{Low: rows[0].Key, High: rows[71].Key}, rows)
	if per := len(b) / len(rows); per > 115 {
		t.Errorf("%d bytes a row", per)
	}
}

func TestSealFrame(t *testing.T) {
	rows := seqRows(1, 10, 20)
	frame := AppendFrame(nil, &FrameMeta{}, rows)
	var ce *base.CorruptionError
	if err := CheckFrame(frame, 5, 4096); !errors.As(err, &ce) {
		t.Fatalf("unsealed: %v", err)
	}
	SealFrame(frame, 5, 4096)
	if err := CheckFrame(frame, 5, 4096); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(20, func() {
		SealFrame(frame, 5, 4096)
		if CheckFrame(frame, 5, 4096) != nil {
			t.Fatal("check")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := CheckFrame(frame, 6, 4096); !errors.As(err, &ce) || ce.Offset != 4096 || ce.File != "run 6" {
		t.Errorf("other run: %v", err)
	}
	if err := CheckFrame(frame, 5, 0); !errors.As(err, &ce) {
		t.Errorf("other offset: %v", err)
	}
	if err := CheckFrame(append(bytes.Clone(frame), 0), 5, 4096); !errors.As(err, &ce) {
		t.Errorf("longer: %v", err)
	}
	for n := range frame {
		if err := CheckFrame(frame[:n], 5, 4096); !errors.As(err, &ce) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
	for bit := range len(frame) * 8 {
		frame[bit/8] ^= 1 << (bit % 8)
		if err := CheckFrame(frame, 5, 4096); !errors.As(err, &ce) {
			t.Fatalf("bit %d: %v", bit, err)
		}
		frame[bit/8] ^= 1 << (bit % 8)
	}
}

func TestFrameLen(t *testing.T) {
	frame := AppendFrame(nil, &FrameMeta{}, seqRows(1, 3, 3))
	if n, err := FrameLen(frame[:4]); err != nil || n != len(frame) {
		t.Errorf("FrameLen = %d, %v", n, err)
	}
	for _, b := range [][]byte{nil, {1, 0, 0}, make([]byte, 100), bytes.Repeat([]byte{0xFF}, 100)} {
		if _, err := FrameLen(b); err == nil {
			t.Errorf("FrameLen(%v) accepted", b[:min(4, len(b))])
		}
	}
}

// TestParseFrameRejects damages one header field at a time.
func TestParseFrameRejects(t *testing.T) {
	uniform := AppendFrame(nil, &FrameMeta{High: []byte{0xFF}}, seqRows(1, 10, 20))
	varied := AppendFrame(nil, &FrameMeta{}, []Row{
		{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("abc"), Order: base.Order{TS: 2, Epoch: 1, Leave: 3}},
	})
	put16 := func(pos int, v uint16) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b[pos:], v) }
	}
	put32 := func(pos int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[pos:], v) }
	}
	for _, tc := range []struct {
		name   string
		frame  []byte
		damage func([]byte)
	}{
		{"length", uniform, put32(posLength, uint32(len(uniform)+1))},
		{"length small", uniform, put32(posLength, FrameHeaderSize-1)},
		{"magic", uniform, func(b []byte) { b[posMagic]++ }},
		{"version", uniform, func(b []byte) { b[posVersion]++ }},
		{"unknown flag", uniform, put16(posFlags, flagsEnd)},
		{"both offsets", varied, put16(posFlags, flagsOffset)},
		{"both timestamps", varied, put16(posFlags, flagsTS|flagHighOpen)},
		{"open, with a high fence", uniform, put16(posFlags, flagHighOpen)},
		{"kind", uniform, func(b []byte) { b[posKind] = 3 }},
		{"zero", uniform, func(b []byte) { b[posZero] = 1 }},
		{"rows more", uniform, put32(posRows, 11)},
		{"rows many", uniform, put32(posRows, math.MaxUint32)},
		{"rows none", uniform, put32(posRows, 0)},
		{"row length", uniform, put32(posRowLen, 27)},
		{"row length overflows", uniform, put32(posRowLen, math.MaxUint32)},
		{"key length", uniform, put16(posKeyLen, 29)},
		{"prefix", uniform, put16(posPrefix, 9)},
		{"low fence", uniform, put16(posLowLen, 60000)},
		{"high fence", uniform, put16(posHighLen, 2)},
		{"filter", uniform, put16(posFilterLen, 60000)},
		{"varied filter", varied, put16(posFilterLen, 60000)},
	} {
		b := bytes.Clone(tc.frame)
		tc.damage(b)
		var ce *base.CorruptionError
		if _, err := ParseFrame(b); !errors.As(err, &ce) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for n := range varied {
		if _, err := ParseFrame(varied[:n]); err == nil {
			t.Errorf("accepted when cut to %d", n)
		}
	}
	// What follows a frame is not part of it.
	f := mustParse(t, append(bytes.Clone(varied), 1, 2, 3))
	if len(f.Bytes()) != len(varied) {
		t.Errorf("frame of %d bytes, want %d", len(f.Bytes()), len(varied))
	}
}

func TestFrameVerify(t *testing.T) {
	row := func(k string, ts base.CommitTS) Row {
		return Row{Key: []byte(k), Order: base.Order{TS: ts}}
	}
	for _, tc := range []struct {
		name string
		meta FrameMeta
		rows []Row
	}{
		{"unsorted", FrameMeta{}, []Row{row("b", 1), row("a", 1)}},
		{"older first", FrameMeta{}, []Row{row("a", 1), row("a", 2)}},
		{"two versions in an image", FrameMeta{Image: true}, []Row{row("a", 2), row("a", 1)}},
		{"below", FrameMeta{Low: []byte("b")}, []Row{row("a", 1)}},
		{"above", FrameMeta{High: []byte("a")}, []Row{row("a", 1)}},
		{"timestamp and owner", FrameMeta{Owner: 1}, []Row{row("a", 1)}},
	} {
		f := mustParse(t, AppendFrame(nil, &tc.meta, tc.rows))
		if f.Verify() == nil {
			t.Errorf("%s: accepted", tc.name)
		}
	}
	good := AppendFrame(nil, &FrameMeta{}, []Row{row("a", 2), row("a", 1), row("bb", 2)})
	f := mustParse(t, good)
	for _, pos := range []int{posNewest, int(f.heads), int(f.offs), int(f.offs) + 6, int(f.tss), int(f.data), int(f.heads) - len(f.Filter()) + 1} {
		b := bytes.Clone(good)
		b[pos] = ^b[pos]
		if pos == posNewest {
			b[pos] = 1
		}
		g, err := ParseFrame(b)
		if err == nil {
			err = g.Verify()
		}
		if err == nil {
			t.Errorf("damage at %d not found", pos)
		}
	}
}

func TestFrameSearch(t *testing.T) {
	for _, keys := range [][]string{
		{"a"},
		{"a", "a", "a"},
		{"a", "a\x00", "a\x00\x00", "a\x00\x00\x00\x00", "a\x00\x00\x00\x00\x01", "b"},
		{"abc", "abcd", "abcdefgh", "abcdefghi", "abcdefgz", "abd"},
		{"\x00", "\xff", "\xff\xff\xff\xff", "\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff"},
		{"p/aaaa0", "p/aaaa1", "p/aaaa1", "p/aaaa1", "p/aaaa2", "p/zzzz"},
	} {
		rows := make([]Row, len(keys))
		for i, k := range keys {
			rows[i] = Row{Key: []byte(k), Order: base.Order{TS: base.CommitTS(100 - i)}}
		}
		f := mustParse(t, AppendFrame(nil, &FrameMeta{}, rows))
		checkSearch(t, &f, rows, nil)
		for _, k := range keys {
			for n := range len(k) + 1 {
				checkSearch(t, &f, rows, []byte(k[:n]))
				for _, tail := range []string{"\x00", "\x01", "\xff", "\xff\xff\xff\xff\xff\xff"} {
					checkSearch(t, &f, rows, []byte(k[:n]+tail))
				}
			}
		}
	}
	f := mustParse(t, AppendFrame(nil, &FrameMeta{}, nil))
	if i, exact := f.Search([]byte("a")); i != 0 || exact {
		t.Errorf("empty frame: %d, %v", i, exact)
	}
}

// frameSizeBound returns the greatest length that AppendFrame can append.
func frameSizeBound(m *FrameMeta, rows []Row) int {
	n := FrameHeaderSize + len(m.Low) + len(m.High) + filterSize(len(rows)) + 4 + len(rows)*RowOverheadBound
	for i := range rows {
		n += len(rows[i].Key) + len(rows[i].Value)
	}
	return n
}
