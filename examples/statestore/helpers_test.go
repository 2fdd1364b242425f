package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/examples/internal/programtest"
	"github.com/sakerdb/saker/internal/crashdisk"
)

func TestMain(m *testing.M) { programtest.Main(m, "statestore", main) }

var ctx = context.Background()

// testStore is a store with stops in it.
type testStore struct {
	*Store
	t     *testing.T
	mu    sync.Mutex // guards stops and verify
	stops []*stop
	// verify judges blocks; nil finds all valid.
	verify func(*Block) error
}

// stop stops whoever first comes to a step, until the test lets it go on.
type stop struct {
	at      func(Event) bool
	reached chan Event
	goOn    chan struct{}
}

// openStore opens a store whose blocks leave memory early, unasked.
func openStore(t *testing.T, fs vfs.FS) (*testStore, Opening) {
	t.Helper()
	o := Options{StateSize: 1 << 10, Engine: engineOptions(1 << 20)}
	o.Engine.ChillThreshold = 128 << 10
	return openWith(t, fs, o)
}

func openWith(t *testing.T, fs vfs.FS, o Options) (*testStore, Opening) {
	t.Helper()
	s := &testStore{t: t}
	o.Trace, o.Engine.FS, o.Engine.LogSegmentSize = s.trace, fs, 256<<10
	o.Verify = func(_ context.Context, b *Block) error {
		s.mu.Lock()
		v := s.verify
		s.mu.Unlock()
		if v == nil {
			return nil
		}
		return v(b)
	}
	var info Opening
	var err error
	if s.Store, info, err = Open(ctx, "db", o); err != nil {
		t.Fatal(err)
	}
	return s, info
}

func newStore(t *testing.T) *testStore {
	t.Helper()
	s, _ := openStore(t, crashdisk.New(t, "db"))
	t.Cleanup(func() { mustClose(t, s) })
	return s
}

func mustClose(t *testing.T, s *testStore) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func (s *testStore) trace(e Event) {
	s.mu.Lock()
	var hit *stop
	for i, st := range s.stops {
		if st.at(e) {
			hit = st
			s.stops = append(s.stops[:i:i], s.stops[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if hit != nil {
		hit.reached <- e
		<-hit.goOn
	}
}

// stopAt stops the import of b, or of any block for nil, once, at a step.
func (s *testStore) stopAt(step Step, b *Block) *stop {
	return s.stopWhen(func(e Event) bool { return e.Step == step && (b == nil || e.Block == b.ID()) })
}

func (s *testStore) stopWhen(at func(Event) bool) *stop {
	st := &stop{at: at, reached: make(chan Event), goOn: make(chan struct{})}
	s.mu.Lock()
	s.stops = append(s.stops, st)
	s.mu.Unlock()
	return st
}

// refuse makes verification refuse these blocks.
func (s *testStore) refuse(blocks ...*Block) {
	bad := map[ID]bool{}
	for _, b := range blocks {
		bad[b.ID()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verify = func(b *Block) error {
		if bad[b.ID()] {
			return errors.New("refused by the test")
		}
		return nil
	}
}

// done is an import in another goroutine.
type done struct {
	res Result
	err error
}

func (s *testStore) start(blocks ...*Block) <-chan done {
	c := make(chan done, 1)
	go func() {
		res, err := s.Import(ctx, blocks...)
		c <- done{res, err}
	}()
	return c
}

// startWaiting starts an import and returns when it waits for another transaction.
func (s *testStore) startWaiting(blocks ...*Block) <-chan done {
	s.t.Helper()
	waits := s.Metrics().Waits
	c := s.start(blocks...)
	untilWaits(s, waits, c)
	return c
}

// untilWaits returns when one more transaction waits than before; the one that is
// expected to must not end instead.
func untilWaits[T any](s *testStore, before uint64, c <-chan T) {
	s.t.Helper()
	for s.Metrics().Waits == before {
		select {
		case d := <-c:
			s.t.Fatalf("it did not wait: %+v", d)
		default:
			runtime.Gosched()
		}
	}
}

func (s *testStore) mustImport(blocks ...*Block) Result {
	s.t.Helper()
	res, err := s.Import(ctx, blocks...)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

func (s *testStore) read(fn func(*Reader)) {
	s.t.Helper()
	if err := s.Read(ctx, func(r *Reader) error { fn(r); return nil }); err != nil {
		s.t.Fatal(err)
	}
}

// mustCheck checks the records and the store below them.
func (s *testStore) mustCheck() (n Counts) {
	s.t.Helper()
	s.read(func(r *Reader) {
		var err error
		if n, err = r.Check(); err != nil {
			s.t.Fatal(err)
		}
	})
	if err := s.db.Verify(ctx); err != nil {
		s.t.Fatal(err)
	}
	if m := s.Metrics(); m.RecordMemoryPeak > m.RecordMemoryCap {
		s.t.Fatalf("record memory peak %d, cap %d", m.RecordMemoryPeak, m.RecordMemoryCap)
	}
	return n
}

// head returns the latest block and its state.
func (s *testStore) head() (id ID, st State) {
	s.t.Helper()
	s.read(func(r *Reader) {
		var err error
		if id, st, err = r.Head(); err != nil {
			s.t.Fatal(err)
		}
	})
	return id, st
}

// on makes a valid block so many slots after a permanent one.
func (s *testStore) on(parent ID, slots uint64, transfers ...Transfer) *Block {
	s.t.Helper()
	var st State
	s.read(func(r *Reader) {
		var err error
		if st, err = r.State(parent); err != nil {
			s.t.Fatal(err)
		}
	})
	b, _ := produce(parent, st, parent.Slot+slots, transfers...)
	return b
}

// dump returns all records, guards left out: they are locks.
func (s *testStore) dump() (rows []string) {
	s.t.Helper()
	s.read(func(r *Reader) {
		for _, tb := range []*engine.Table{s.meta, s.blocks, s.states} {
			for row, err := range r.tx.Scan(tb, engine.Range{}) {
				if err != nil {
					s.t.Fatal(err)
				}
				rows = append(rows, fmt.Sprintf("%x=%x", row.Key, row.Value))
			}
		}
	})
	return rows
}

func (s *testStore) sameAs(before []string, what string) {
	s.t.Helper()
	if diff := cmp.Diff(before, s.dump()); diff != "" {
		s.t.Fatalf("%s: records differ:\n%.2000s", what, diff)
	}
}

// intermediate returns the ids of the states that a block needs before its own.
func intermediate(b *Block) (ids []ID) {
	for slot := b.Parent.Slot + 1; slot <= b.Slot; slot++ {
		ids = append(ids, ID{Slot: slot, Root: b.Parent.Root})
	}
	return ids
}

// sees checks by point reads and a scan that a reader sees all of the block's
// states, or none.
func (s *testStore) sees(r *Reader, b *Block, want bool) {
	s.t.Helper()
	ids := append(intermediate(b), b.ID())
	for _, id := range ids {
		if st, err := r.State(id); want && err != nil || !want && !errors.Is(err, ErrNotFound) {
			s.t.Fatalf("state %v: %d bytes, %v; want it %v", id, len(st), err, want)
		}
	}
	if _, err := r.Block(b.ID()); want != (err == nil) {
		s.t.Fatalf("block %v: %v; want it %v", b.ID(), err, want)
	}
	found := map[string]bool{}
	for row, err := range r.tx.Scan(s.states, engine.Range{From: num(b.Parent.Slot + 1), To: num(b.Slot + 1)}) {
		if err != nil {
			s.t.Fatal(err)
		}
		found[string(row.Key)] = true
	}
	for _, id := range ids {
		if found[string(id.key())] != want {
			s.t.Fatalf("scan: state %v: %v; want it %v", id, !want, want)
		}
	}
}
