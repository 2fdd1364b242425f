package recordcache

import (
	"context"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A million rows loaded in key order, in 192 MiB, came to leaves that all filled 16
// units of record memory, with holes of 16 units between them: a quarter of memory was
// free, and not one of the leaves could grow by a unit. Each first write into one waited
// for the scavenger to make a hole of 17, at a tenth of the rate of other runs. A leaf
// whose halves fit where its whole does not is split.
func TestLeafIsSplitForFragments(t *testing.T) {
	c, tb := newTestCache(t)
	w := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	put := func(i int) error {
		return tb.Replay(&w, fmt.Appendf(nil, "k%02d", i), make([]byte, 200), base.KindValue, base.Order{TS: 1})
	}
	const rows = 64
	for i := range rows {
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	tidy := Request{Action: Tidy, Horizon: versionchain.Horizon{100}}
	if _, err := c.Relieve(context.Background(), tb.find([]byte("k00")), &tidy); err != nil {
		t.Fatal(err)
	}
	var rest [][]byte
	for b := c.arena.Alloc(1); b != nil; b = c.arena.Alloc(1) {
		rest = append(rest, b)
	}
	for i, b := range rest {
		if i%10 != 0 {
			c.arena.Free(b) // holes of nine units
		}
	}
	size := len(tb.find([]byte("k00")).page.Block())
	if size <= 9*arena.UnitSize || !c.roomy() || c.arena.Alloc(size) != nil {
		t.Fatalf("a page of %d bytes, %d bytes reserved", size, c.arena.Reserved())
	}
	for i := rows; i < rows+10; i++ { // more than the page has room for
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	if c.Leaves() < 2 {
		t.Error("no leaf was split")
	}
	for i := 0; i < len(rest); i += 10 {
		c.arena.Free(rest[i])
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
	r := versionchain.Reader{Snapshot: 100, Reg: c.reg}
	for i := range rows + 10 {
		if _, found, err := tb.Get(&r, &Scratch{}, nil, fmt.Appendf(nil, "k%02d", i)); err != nil || !found {
			t.Errorf("row %d: %v, %v", i, found, err)
		}
	}
}
