package tablespace

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

func TestWalkIndex(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, smallOptions(fs, 1))
	r, _ := s.NewRun(4)
	if tail := r.WriteIndex(); tail != 0 {
		t.Errorf("empty run has an index at %d", tail)
	}
	var want []IndexEntry
	var tails []uint64
	const n = 3*indexBlockEntries/2 + 1 // blocks are also written without being asked for
	for i := range n {
		ref := addFrame(t, s, r, 80+i%9, byte(i), fmt.Sprintf("%05d", i), fmt.Sprintf("%05dx", i))
		want = append(want, IndexEntry{Addr: ref.Addr, Table: 1, Owner: 4, Seq: s.LastSeq()})
		if i%400 == 0 {
			tails = append(tails, r.WriteIndex())
		}
	}
	tail := r.WriteIndex()
	if again := r.WriteIndex(); again != tail {
		t.Errorf("index at %d, then at %d", tail, again)
	}
	check := func(s *Space, tail uint64, want []IndexEntry) {
		t.Helper()
		i := len(want)
		err := s.WalkIndex(r.ID(), tail, func(e IndexEntry) (bool, error) {
			if i--; i < 0 || e != want[i] {
				return false, fmt.Errorf("entry %d is %+v", i, e)
			}
			return true, nil
		})
		if err != nil || i != 0 {
			t.Errorf("walk from %d: %v, %d left", tail, err, i)
		}
	}
	check(s, tail, want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, smallOptions(fs, 2))
	defer mustClose(t, s)
	check(s, tail, want)
	for i, tl := range tails {
		check(s, tl, want[:i*400+1])
	}
	// fn ends the walk.
	calls := 0
	boom := errors.New("boom")
	if err := s.WalkIndex(r.ID(), tail, func(IndexEntry) (bool, error) { calls++; return false, nil }); err != nil || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := s.WalkIndex(r.ID(), tail, func(IndexEntry) (bool, error) { return true, boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := s.WalkIndex(77, tail, nil); !errors.Is(err, ErrRunNotFound) {
		t.Errorf("unknown run: %v", err)
	}
	// Any other address is corruption, not a crash.
	for _, tl := range []uint64{1, 40, tail - 1, tail + 1, tail - 4, 1 << 40, ^uint64(0)} {
		var ce *base.CorruptionError
		if err := s.WalkIndex(r.ID(), tl, func(IndexEntry) (bool, error) { return true, nil }); !errors.As(err, &ce) {
			t.Errorf("tail %d: %v", tl, err)
		}
	}
}

func FuzzParseIndexBlock(f *testing.F) {
	f.Add(appendIndexBlock(nil, 7, 0, 100, []IndexEntry{{Addr: Addr{Run: 7, Off: 32, Len: 68}, Table: 1, Owner: 2, Seq: 3}}), uint64(100))
	f.Add(appendIndexBlock(nil, 7, 90, 1000, nil), uint64(1000))
	f.Fuzz(func(t *testing.T, b []byte, off uint64) {
		tail := off + uint64(len(b))
		if len(b) >= 4 { // get past the checksum
			fixed := append([]byte(nil), b...)
			crc := indexCRC(fixed, tail)
			fixed[0], fixed[1], fixed[2], fixed[3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
			if x, why := parseIndexBlock(fixed, 7, tail); why == "" {
				var entries []IndexEntry
				for i := range x.len() {
					entries = append(entries, x.entry(i))
				}
				if again := appendIndexBlock(nil, 7, x.prev, off, entries); string(again) != string(fixed) {
					t.Errorf("encodes differently:\n%x\n%x", fixed, again)
				}
			}
		}
		_, _ = parseIndexBlock(b, 7, tail)
	})
}
