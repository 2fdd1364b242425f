package txn

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// What a statement on an indexed table takes is bounded, and what is kept behind it is
// little, however many entries the row had and however many indexes there are. Places
// of entries were kept, eight times as much as their keys, and keys for each index.
func TestUpkeepKeepsLittle(t *testing.T) {
	emits := func(n, size int) func(_, _ []byte, emit func([]byte)) {
		return func(_, _ []byte, emit func([]byte)) {
			for i := range n {
				emit(binary.BigEndian.AppendUint64(nil, uint64(i))[8-size:])
			}
		}
	}
	index := func(fn func(key, value []byte, emit func([]byte))) *recordcache.Index {
		ix := recordcache.NewIndex("i", true, &recordcache.Table{}, &recordcache.Table{})
		ix.Attach(fn)
		return ix
	}
	few, many := index(emits(3, 8)), index(emits(60000, 8))
	for _, c := range []struct {
		name string
		set  []*recordcache.Index
		most int
		kept bool
	}{
		{"few", []*recordcache.Index{few, few}, spareScratch, true},
		{"many", []*recordcache.Index{few, many}, 2 * 4 << 20, false},
		{"short", []*recordcache.Index{index(emits(15000, 0))}, 2 << 20, false},
		{"shortest", []*recordcache.Index{index(emits(maxEntries/2, 0))}, 2 * 7 << 20, false},
		{"indexes", slices.Repeat([]*recordcache.Index{few}, 400), 1 << 20, false},
	} {
		u := newUpkeep()
		if err := u.plan(c.set, []byte("k"), nil, true, false, true); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		n := u.size()
		u.forget()
		t.Logf("%s: %d KiB, of which %d bytes are kept", c.name, n>>10, u.size())
		if n > c.most || u.size() > spareScratch || c.kept != (u.size() > 0) {
			t.Errorf("%s: %d bytes, of which %d are kept", c.name, n, u.size())
		}
	}
	u := newUpkeep()
	err := u.plan([]*recordcache.Index{index(emits(maxEntries, 8))}, []byte("k"), nil, false, false, false)
	if !errors.Is(err, base.ErrKeyTooLarge) {
		t.Errorf("too many entries: %v", err)
	}
	if n := u.size(); n > 8<<20 {
		t.Errorf("%d bytes were taken before it was too much", n)
	}
}
