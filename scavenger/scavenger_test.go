package scavenger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a scavenger over a cache, empty at first; the test itself takes the
// memory.
type bench struct {
	*testing.T
	a     *arena.Arena
	cache *recordcache.Cache
	reg   versionchain.Registry
	s     *Scavenger
	flag  atomic.Bool
	rose  atomic.Int64
	fell  atomic.Int64 // bytes reserved when the flag fell
	fail  atomic.Pointer[error]
	hog   [][]byte
	log   *seriallog.Log
	// unread, if not nil, is what reads of the log fail with.
	unread atomic.Pointer[error]
}

// newBench returns a bench whose scavenger is at work.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := restingBench(t)
	b.start()
	return b
}

func (b *bench) start() {
	b.s.Start(func(low bool) {
		b.flag.Store(low)
		if low {
			b.rose.Add(1)
		} else {
			b.fell.Store(b.a.Reserved())
		}
	}, func(base.TxnID, base.LSN, uint64) {}, func(base.TxnID) []base.Epoch { return nil }, func(bool) bool { return false })
}

func restingBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if p := b.unread.Load(); p != nil && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".seg") {
			return *p
		}
		return nil
	}))
	space, err := tablespace.Open(tablespace.Options{FS: fs, Dir: "space", Incarnation: 1})
	must(err)
	log, err := seriallog.Open(seriallog.Options{FS: fs, Dir: "log", Incarnation: 1, SegmentSize: 64 << 10, BufferSize: 256 << 10})
	must(err)
	must(log.StartWriting())
	b.log = log
	b.a, err = arena.New(1 << 20)
	must(err)
	horizon := func() versionchain.Horizon { return versionchain.Horizon{1} }
	b.cache, err = recordcache.New(recordcache.Options{
		Arena: b.a, Space: space, Log: log, Backlog: backlog.NewStore(space), Reg: &b.reg, Incarnation: 1, Horizon: horizon,
	})
	must(err)
	b.s = New(Config{Arena: b.a, Cache: b.cache, Horizon: horizon, Holders: b.cache.Holders, Failure: func() error {
		if p := b.fail.Load(); p != nil {
			return *p
		}
		return nil
	}})
	t.Cleanup(func() {
		b.s.Close()
		b.free(len(b.hog))
		b.cache.ReleaseMemory()
		b.cache.Close()
		must(space.Close())
		must(log.Close())
		must(b.a.Close())
	})
	return b
}

// take takes blocks until less than left bytes remain.
func (b *bench) take(left int64) {
	b.Helper()
	for b.a.Cap()-b.a.Reserved() > left {
		p := b.a.Alloc(8 << 10)
		if p == nil {
			return
		}
		b.hog = append(b.hog, p)
	}
}

func (b *bench) free(n int) {
	for range n {
		last := len(b.hog) - 1
		b.a.Free(b.hog[last])
		b.hog = b.hog[:last]
	}
}

func (b *bench) eventually(what string, ok func() bool) {
	b.Helper()
	for until := time.Now().Add(5 * time.Second); !ok(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(until) {
			b.Fatalf("%s: not within five seconds", what)
		}
	}
}

// turn returns after a whole round of the scavenger: it takes the second kick
// when it is done with the first, and only then is there room for the third.
func (b *bench) turn() {
	for range 3 {
		b.s.kick <- struct{}{}
	}
}

// The flag rises when memory is nearly full and falls again, whether or not
// anything could be freed (hazard 7).
func TestFlagRisesAndFalls(t *testing.T) {
	b := newBench(t)
	b.take(b.a.Cap() / 5) // below the high-water mark
	b.turn()
	if b.rose.Load() != 0 || b.s.LowMemory() {
		t.Fatal("the flag rose at four fifths")
	}
	b.take(0)
	b.eventually("rise", func() bool { return b.rose.Load() > 0 })
	if b.s.Episodes() == 0 {
		t.Error("no episode is counted")
	}
	b.free(len(b.hog))
	b.eventually("fall", func() bool { return !b.flag.Load() && !b.s.LowMemory() })
	n := b.rose.Load()
	b.turn()
	if b.rose.Load() != n || b.flag.Load() {
		t.Error("the flag rises with memory free")
	}
}

// Hysteresis: an episode that begins above the high-water mark goes on until use
// is below the low-water mark, and not much further: what is warm stays.
func TestHysteresis(t *testing.T) {
	b := restingBench(t)
	if b.s.low >= b.s.high || b.s.high >= b.a.Cap() {
		t.Fatalf("marks %d and %d of %d", b.s.low, b.s.high, b.a.Cap())
	}
	tb := b.cache.AddTable(1, "t")
	out := versionchain.NewOutcome(1)
	b.reg.Add(out)
	w := &recordcache.Writer{Reader: versionchain.Reader{Snapshot: 1, Self: out, Reg: &b.reg}}
	for i := 0; b.a.Reserved() <= b.s.high; i++ {
		_, err := tb.Write(w, recordcache.ModePut, fmt.Appendf(nil, "k%05d", i*7919%100003), make([]byte, 100))
		if recordcache.IsNoMemory(err) { // a whole page is not to be had any more
			rest := b.s.high + 1 - b.a.Reserved()
			if !b.a.Charge(rest) {
				t.Fatal("no room above the high-water mark")
			}
			defer b.a.Uncharge(rest)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	b.eventually("rise and fall", func() bool { return b.rose.Load() > 0 && b.fell.Load() > 0 })
	if fell := b.fell.Load(); fell > b.s.low || fell < b.s.low-b.a.Cap()/5 {
		t.Errorf("the flag fell at %d bytes, the marks are %d and %d", fell, b.s.low, b.s.high)
	}
	if n := b.rose.Load(); n != 1 {
		t.Errorf("the flag rose %d times", n)
	}
}

// Grants are first come, first served, each when what it needs can be had (M7).
func TestWaitInOrder(t *testing.T) {
	b := newBench(t)
	b.take(0)
	order := make(chan int, 3)
	for i, need := range []int{24 << 10, 1 << 10, 8 << 10} {
		go func() {
			if err := b.s.Wait(context.Background(), need); err != nil {
				t.Error(err)
			}
			order <- i
		}()
		b.eventually("wait", func() bool { return b.s.Waiters() == i+1 })
	}
	b.free(1) // enough for the second, but it is not its turn
	rounds := b.s.still.Load() + 2
	b.eventually("rounds", func() bool { return b.s.still.Load() >= rounds })
	select {
	case i := <-order:
		t.Fatalf("waiter %d went first", i)
	default:
	}
	b.free(len(b.hog))
	for range 3 {
		<-order
	}
}

// A wait ends with its context, with the store's failure and when it closes; who
// waits behind goes on.
func TestWaitEndsEarly(t *testing.T) {
	b := newBench(t)
	b.take(0)
	ctx, cancel := context.WithCancel(context.Background())
	first, second, third := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { first <- b.s.Wait(ctx, 32<<10) }()
	b.eventually("wait", func() bool { return b.s.Waiters() == 1 })
	go func() { second <- b.s.Wait(context.Background(), 1<<10) }()
	b.eventually("wait", func() bool { return b.s.Waiters() == 2 })
	b.free(1)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	b.take(0)
	go func() { third <- b.s.Wait(context.Background(), 32<<10) }()
	b.eventually("wait", func() bool { return b.s.Waiters() == 1 })
	boom := errors.New("boom")
	b.fail.Store(&boom)
	if err := <-third; !errors.Is(err, boom) {
		t.Errorf("after a failure: %v", err)
	}
	b.fail.Store(nil)
	go func() { third <- b.s.Wait(context.Background(), 32<<10) }()
	b.eventually("wait", func() bool { return b.s.Waiters() == 1 })
	b.s.Interrupt()
	if err := <-third; !errors.Is(err, base.ErrClosed) {
		t.Errorf("after an interrupt: %v", err)
	}
	b.eventually("leave", func() bool { return b.s.Waiters() == 0 })
}

// While cold leaves with at least the average of resident bytes are to be had, a
// sweep leaves the others to grow: a frame costs the same whatever is in it.
func TestSweepTakesLargeLeavesFirst(t *testing.T) {
	b := restingBench(t)
	o := versionchain.NewOutcome(1<<base.TxnSeqBits | 1)
	o.Large.Store(true)
	b.reg.Add(o)
	w := &recordcache.Writer{Large: true, Epoch: 1, Stretch: 1}
	w.Self, w.Reg, w.Snapshot = o, &b.reg, 1
	rows := []int{100, 3, 100, 3, 3} // by table, each of one leaf
	for id, n := range rows {
		tb := b.cache.AddTable(base.TableID(id+1), fmt.Sprint(id))
		for i := range n {
			if _, err := tb.Write(w, recordcache.ModePut, fmt.Appendf(nil, "%03d", i), make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.take(100 << 10) // above the low-water mark, whatever the sweep takes
	h := b.s.newHand()
	resident := func() (leaves, bytes int) {
		b.cache.Walk(func(l *recordcache.Leaf) bool {
			if _, n := l.Cold(); n > 0 {
				leaves++
				bytes += n
			}
			return true
		})
		return leaves, bytes
	}
	h.met, h.bytes = resident() // as if it had been around once
	for patience, want := range []int{3, 0} {
		if _, err := h.sweep(context.Background(), patience); err != nil {
			t.Fatal(err)
		}
		if n, _ := resident(); n != want {
			t.Fatalf("patience %d: %d leaves have resident bytes, want %d", patience, n, want)
		}
	}
}
