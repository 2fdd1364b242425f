package tablespace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sakerdb/saker/internal/base"
)

var sampleEntries = []Entry{
	{Low: []byte{}, High: nil},
	{Low: []byte("a"), High: []byte("b"), Seq: 1<<40 + 3},
	{Low: []byte("a"), High: nil, Seq: 9, Frames: []FrameRef{
		{Addr: Addr{Run: 1<<32 + 7, Off: 1 << 40, Len: 1<<32 - 1}, Owner: 1<<40 + 9, Leave: 1<<32 - 1, Rows: 100, Filter: []byte{1, 2, 3}},
		{Addr: Addr{Run: 1, Off: 32, Len: 80}, Newest: base.MaxTS, Rows: 1, Image: true, Filter: []byte{}},
	}},
}

func TestEntryRoundTrip(t *testing.T) {
	for i, en := range sampleEntries {
		key := entryKey(nil, 5, en.Low)
		val := appendEntry([]byte("x"), key, &en)[1:]
		got, err := decodeEntry(key, val)
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if d := cmp.Diff(en, got, cmpopts.IgnoreUnexported(Entry{})); d != "" {
			t.Errorf("%d: %s", i, d)
		}
		// Every damaged bit is noticed, in the key too.
		for at := range 8 * (len(key) + len(val)) {
			k, v := bytes.Clone(key), bytes.Clone(val)
			if at < 8*len(key) {
				k[at/8] ^= 1 << (at % 8)
			} else {
				v[at/8-len(key)] ^= 1 << (at % 8)
			}
			var ce *base.CorruptionError
			if _, err := decodeEntry(k, v); !errors.As(err, &ce) {
				t.Fatalf("%d: bit %d: %v", i, at, err)
			}
		}
		for n := range val {
			if _, err := decodeEntry(key, val[:n]); err == nil {
				t.Errorf("%d: cut to %d bytes: no error", i, n)
			}
		}
	}
}

// withCRC replaces the checksum by the right one, to get past it.
func withCRC(key, val []byte) []byte {
	if len(val) < 4 {
		return val
	}
	val = bytes.Clone(val)
	n := len(val) - 4
	binary.LittleEndian.PutUint32(val[n:], rowCRC(key, val[:n]))
	return val
}

func FuzzDecodeEntry(f *testing.F) {
	for _, en := range sampleEntries {
		key := entryKey(nil, 5, en.Low)
		f.Add(key, appendEntry(nil, key, &en))
	}
	f.Fuzz(func(t *testing.T, key, val []byte) {
		_, _ = decodeEntry(key, val)
		en, err := decodeEntry(key, withCRC(key, val))
		if err != nil {
			if _, ok := errors.AsType[*base.CorruptionError](err); !ok {
				t.Fatalf("%v is no corruption", err)
			}
			return
		}
		again, err := decodeEntry(key, appendEntry(nil, key, &en))
		if d := cmp.Diff(en, again, cmpopts.IgnoreUnexported(Entry{}), cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
	})
}
