package recordcache

import (
	"context"
	"errors"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// The store failed between the check of it and the frame of a large value. The
// stand-in was in the chain already, in place of what the transaction had written
// before: reading its own value it went on to the frames, which have none of it.
func TestLargeValueThatCannotBeSealed(t *testing.T) {
	for name, own := range map[string]bool{"own version": true, "absent": false} {
		t.Run(name, func(t *testing.T) {
			c, tb := newTestCache(t)
			o := versionchain.NewOutcome(1<<base.TxnSeqBits | 1)
			c.reg.Add(o)
			w := &Writer{Reader: versionchain.Reader{Snapshot: 100, Self: o, Reg: c.reg}}
			other := "other" // in the leaf, so that it is there
			if own {
				other = "k"
			}
			leaf, err := tb.Write(w, ModePut, []byte(other), []byte("mine"))
			if err != nil {
				t.Fatal(err)
			}
			value := make([]byte, base.LargeValueSize+1)
			wk := c.getWorker()
			defer c.putWorker(wk)
			if err := c.reserve(context.Background(), wk, len(value)+frameSlack, 1); err != nil {
				t.Fatal(err)
			}
			defer c.unreserve(wk)
			charged := c.arena.Reserved()
			boom := errors.New("boom")
			c.space.Fail(boom)
			leaf.mu.Lock()
			if _, full, err := tb.putLarge(w, wk, leaf, ModePut, []byte("k"), value, false); full || !errors.Is(err, boom) {
				t.Fatalf("full %v, %v", full, err)
			}
			got, found, err := tb.Get(&w.Reader, &Scratch{}, nil, []byte("k"))
			if err != nil || found != own || (own && string(got) != "mine") {
				t.Fatalf("got %q, %v, %v", got, found, err)
			}
			if i, exact := leaf.page.Find([]byte("k"), int(leaf.prefix)); exact != own {
				t.Fatalf("record %d is in the page: %v", i, exact)
			}
			if n := c.arena.Reserved(); n != charged {
				t.Fatalf("%d bytes are charged, %d were", n, charged)
			}
		})
	}
}
