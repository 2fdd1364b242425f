package recordcache

import (
	"context"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A leaf that several transactions fill in key order is to be sealed below the key
// that comes next. Before it is locked for that, somebody splits it: the key is not
// its own any more. It sealed all the same, up to that key: an entry over the range of
// its new neighbour, with fences of its own the wrong way round, so that it stayed in
// the directory when it collapsed, and nobody ever reached the keys between again.
// Found by bench/history under the race detector, as writers that ran in a circle (P4).
func TestSealedLeafWasSplit(t *testing.T) {
	c, tb := newTestCache(t)
	replayRows(t, c, tb, 20, 1)
	left := tb.find([]byte("k00"))
	w := c.getWorker()
	left.mu.Lock()
	if err := left.splitAt(c, w, []byte("k10")); err != nil {
		t.Fatal(err)
	}
	left.mu.Unlock()
	c.putWorker(w)
	rq := Request{Action: BacklogAll, Horizon: versionchain.Horizon{100}, edge: []byte("k20")}
	rep, err := c.Relieve(context.Background(), left, &rq)
	if err != nil || rep.Rows != 10 || c.Stats.SealedLeaves.Load() != 0 {
		t.Fatalf("%+v, %v, %d leaves moved right", rep, err, c.Stats.SealedLeaves.Load())
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
	wr := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	for i := range 21 {
		key := fmt.Appendf(nil, "k%02d", i)
		if err := tb.Replay(&wr, key, []byte("v2"), base.KindValue, base.Order{TS: 2}); err != nil {
			t.Fatal(err)
		}
	}
	evictTest(t, c)
	r := versionchain.Reader{Snapshot: 100, Reg: c.reg}
	for i := range 21 {
		got, _, err := tb.Get(&r, &Scratch{}, nil, fmt.Appendf(nil, "k%02d", i))
		if err != nil || string(got) != "v2" {
			t.Errorf("row %d is %q, %v", i, got, err)
		}
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
}
