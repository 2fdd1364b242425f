package scavenger

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

var errUnread = errors.New("the disk does not read")

// unreadable fills two leaves with rows of a live transaction, and a third one, that
// comes first, with chilled rows of another, which cannot be read back.
func unreadable(t *testing.T) (b *bench, first *recordcache.Leaf) {
	t.Helper()
	b = restingBench(t)
	var segs []uint64
	for id, rows := range []int{1, 100, 100} {
		o := versionchain.NewOutcome(1<<base.TxnSeqBits | base.TxnID(id+1))
		b.reg.Add(o)
		w := &recordcache.Writer{Reader: versionchain.Reader{Snapshot: 1, Self: o, Reg: &b.reg}}
		tb := b.cache.AddTable(base.TableID(id+1), fmt.Sprint(id))
		for i := range rows {
			if _, err := tb.Write(w, recordcache.ModePut, fmt.Appendf(nil, "%03d", i), make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		if id > 0 {
			continue
		}
		b.cache.Walk(func(l *recordcache.Leaf) bool { first = l; return true })
		track := func(_ base.TxnID, _ base.LSN, seg uint64) { segs = append(segs, seg) }
		if _, err := b.cache.Chill(context.Background(), first, track); err != nil || len(segs) != 1 {
			t.Fatal(segs, err)
		}
		o.Large.Store(true) // few rows are chilled again, and not read for that
	}
	if err := b.log.Sync(b.log.End()); err != nil { // it is in the file only
		t.Fatal(err)
	}
	b.unread.Store(&errUnread)
	return b, first
}

// A leaf whose chilled rows cannot be read back ended each sweep that came to it. So
// patience never grew, what takes patience never moved, and whoever waited for memory
// was neither served nor told that nothing moves (M3). It is passed over.
func TestSweepPassesUnreadableLeaf(t *testing.T) {
	b, first := unreadable(t)
	b.take(0)
	moved, err := b.s.newHand().sweep(context.Background(), 2)
	if !moved || err != nil {
		t.Errorf("moved %v, %v", moved, err)
	}
	b.cache.Walk(func(l *recordcache.Leaf) bool {
		if _, n := l.Cold(); n > 0 != (l == first) {
			t.Errorf("%d bytes are resident in a leaf", n)
		}
		return true
	})
	if n := b.log.Stats().PinnedSegments; n != 1 {
		t.Errorf("%d segments are pinned, one is by the transaction", n)
	}
}

// When nothing else is left to move the waiter is told, and why.
func TestWaitBehindUnreadableLeaf(t *testing.T) {
	b, _ := unreadable(t)
	b.take(0)
	if _, err := b.s.newHand().sweep(context.Background(), 2); err != nil {
		t.Error(err)
	}
	b.take(0)
	b.start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.s.Wait(ctx, 32<<10) }()
	b.eventually("a round that moves nothing", func() bool { return b.s.still.Load() > 0 })
	if err := b.s.nothing(); !errors.Is(err, base.ErrRecordMemory) || !errors.Is(err, errUnread) {
		t.Errorf("it would be told %v", err)
	}
	b.unread.Store(nil)
	b.free(len(b.hog))
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
}

// Whoever helps is not told of rows of others that cannot be read.
func TestHelpPassesUnreadableLeaf(t *testing.T) {
	b, _ := unreadable(t)
	b.take(0)
	b.s.flag.Store(true)
	for range 4 {
		if err := b.s.Help(context.Background(), 1); err != nil {
			t.Error(err)
		}
	}
}
