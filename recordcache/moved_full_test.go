package recordcache

import (
	"context"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A large transaction is about to split a leaf behind the frames that it lists, and
// waits for room for the edit. When it comes to it the frames are gone, the leaf
// was sealed and begins with the key, of which it is full. The statement failed with
// what is meant for makeRoom, which has to look again.
func TestFullLeafBeginsWithTheKey(t *testing.T) {
	c, tb := newTestCache(t)
	wr := Writer{Reader: versionchain.Reader{Reg: c.reg}}
	for i, size := range []int{100, 8000} {
		if err := tb.Replay(&wr, []byte{'a' + byte(i)}, make([]byte, size), base.KindValue, base.Order{TS: 1}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			checkpointTest(t, c)
		}
	}
	const edits = 4096
	if err := c.space.ReserveEdits(context.Background(), edits); err != nil {
		t.Fatal(err)
	}
	l, key, done := tb.find([]byte("a")), []byte("c"), make(chan error)
	go func() { done <- c.makeRoom(&Writer{Reader: wr.Reader, Large: true}, l, key, maxPage-8000) }()
	time.Sleep(50 * time.Millisecond) // it waits for room, or finds the leaf as it is to be

	w := c.getWorker()
	l.mu.Lock()
	l.dropFrames(c, w, func(*frame) bool { return true })
	l.page.Clear()
	tb.mu.Lock()
	tb.sealed.Add(1)
	l.setFences(key, l.high)
	tb.mu.Unlock()
	l.page.Insert(0, key, make([]byte, 100), int(l.prefix), &versionchain.Ver{Stamp: 2})
	l.settleCharge(c)
	l.mu.Unlock()
	c.putWorker(w)

	c.space.UnreserveEdits(edits - 1)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
