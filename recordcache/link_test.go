package recordcache

import (
	"bytes"
	"testing"
)

// A leaf made of a gap that became smaller meanwhile, a neighbour having appeared
// in it, is charged for the fences that it gets, not for those of the gap as it was
// read from the map (M1).
func TestChargeOfShortenedGap(t *testing.T) {
	c, tb := newTestCache(t)
	long := bytes.Repeat([]byte("z"), 8000)
	for _, gap := range []struct{ key, low, high []byte }{
		{key: []byte("m"), low: []byte("m")},
		{key: []byte("a"), low: []byte{}, high: long}, // ends at m by now
	} {
		l := &Leaf{table: tb, low: gap.low, high: gap.high}
		if err := l.take(c, 0); err != nil {
			t.Fatal(err)
		}
		if ok, err := tb.link(l, gap.key, false, tb.moved.Load(), tb.sealed.Load()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if l.charged != l.cost() {
			t.Errorf("leaf from %q costs %d bytes, %d are charged", l.low, l.cost(), l.charged)
		}
	}
	c.Walk(func(l *Leaf) bool { c.Collapse(l); return true })
	if n := c.arena.Charged(); n != 0 {
		t.Errorf("%d bytes are charged for nothing", n)
	}
}
