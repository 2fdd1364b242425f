package tablespace

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

func benchSpace(b *testing.B) *Space {
	b.Helper()
	s := mustOpen(b, Options{FS: vfs.Default, Dir: b.TempDir(), Incarnation: 1, BufferSize: 16 << 20})
	endRecovery(b, s)
	b.Cleanup(func() { _ = s.Close() })
	return s
}

func benchKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i*72) }

// fillMap lists n contiguous leaves of one frame each.
func fillMap(b *testing.B, s *Space, n int) {
	b.Helper()
	ctx := context.Background()
	filter := make([]byte, 90)
	for i := range n {
		if err := s.ReserveEdits(ctx, 1); err != nil {
			b.Fatal(err)
		}
		e := s.BeginEdit()
		e.Put(1, Entry{Low: benchKey(uint64(i)), High: benchKey(uint64(i + 1)), Frames: []FrameRef{{
			Addr: Addr{Run: 1<<32 + 1, Off: uint64(i) * 8192, Len: 8192}, Rows: 72, Image: true, Filter: filter,
		}}})
		e.Refs(1<<32+1, 1)
		e.End()
	}
	if _, err := s.Flush(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBulk is what a leaf of a bulk load costs: one frame, one edit.
func BenchmarkBulk(b *testing.B) {
	s := benchSpace(b)
	ctx := context.Background()
	r, _ := s.NewRun(1<<40 + 1)
	frame := testFrame(8<<10, 'x')
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	b.ResetTimer()
	for i := range b.N {
		if err := s.ReserveBuffer(ctx, len(frame)); err != nil {
			b.Fatal(err)
		}
		if err := s.ReserveEdits(ctx, 1); err != nil {
			b.Fatal(err)
		}
		e := s.BeginEdit()
		ref := FrameRef{Addr: e.AddFrame(r, frame, 1, r.Owner()), Owner: r.Owner(), Rows: 72, Filter: frame[100:190]}
		e.Put(1, Entry{Low: benchKey(uint64(i)), High: benchKey(uint64(i + 1)), Frames: []FrameRef{ref}})
		e.Refs(r.ID(), 1)
		e.End()
	}
	if err := s.WaitApplied(s.LastSeq()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("leaves=%d", n), func(b *testing.B) {
			s := benchSpace(b)
			fillMap(b, s, n)
			rng := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				en, ok, _, _, err := s.Lookup(1, benchKey(rng.Uint64N(uint64(n))))
				if !ok || err != nil {
					b.Fatal(ok, err)
				}
				s.ReleaseEntry(&en)
			}
		})
	}
}

// BenchmarkLookupWhileEditing has an edit between any two lookups.
func BenchmarkLookupWhileEditing(b *testing.B) {
	const n = 100_000
	s := benchSpace(b)
	fillMap(b, s, n)
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		i := rng.Uint64N(n)
		edit(b, s, func(e *EditTx) { e.Put(1, Entry{Low: benchKey(i), High: benchKey(i + 1)}) })
		en, ok, _, _, err := s.Lookup(1, benchKey(rng.Uint64N(n)))
		if !ok || err != nil {
			b.Fatal(ok, err)
		}
		s.ReleaseEntry(&en)
	}
}

func BenchmarkLookupPending(b *testing.B) {
	s := mustOpen(b, Options{FS: vfs.NewMem(), Dir: "d", Incarnation: 1})
	if _, err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	// Read-only, nothing leaves the overlay.
	s = mustOpen(b, Options{FS: s.o.FS, Dir: "d", Incarnation: 2, ReadOnly: true})
	defer mustClose(b, s)
	const n = 1000
	for i := range uint64(n) {
		edit(b, s, func(e *EditTx) { e.Put(1, Entry{Low: benchKey(i), High: benchKey(i + 1)}) })
	}
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		en, ok, _, _, err := s.Lookup(1, benchKey(rng.Uint64N(n)))
		if !ok || err != nil {
			b.Fatal(ok, err)
		}
		s.ReleaseEntry(&en)
	}
}

// BenchmarkWalk is a scan's share of the map, per leaf.
func BenchmarkWalk(b *testing.B) {
	const n = 100_000
	for _, dir := range []string{"forward", "reverse"} {
		b.Run(dir, func(b *testing.B) {
			s := benchSpace(b)
			fillMap(b, s, n)
			w := s.NewWalk(1)
			defer w.Close()
			var key []byte
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				var en Entry
				var ok bool
				var err error
				if dir == "forward" {
					if i%n == 0 {
						key = benchKey(0)
					}
					en, ok, _, _, err = w.Lookup(key)
					key = en.High
				} else {
					if i%n == 0 {
						key = benchKey(n)
					}
					en, ok, _, _, err = w.LookupBefore(key)
					key = en.Low
				}
				if !ok || err != nil {
					b.Fatal(ok, err)
				}
				s.ReleaseEntry(&en)
			}
		})
	}
}

func BenchmarkReadFrame(b *testing.B) {
	for _, where := range []string{"buffer", "file"} {
		b.Run(where, func(b *testing.B) {
			s := benchSpace(b)
			r, _ := s.NewRun(0)
			ref := addFrame(b, s, r, 8<<10, 'x', "a", "b")
			if where == "file" {
				if err := r.Sync(); err != nil {
					b.Fatal(err)
				}
			}
			var buf []byte
			b.ReportAllocs()
			b.SetBytes(8 << 10)
			b.ResetTimer()
			for range b.N {
				var err error
				if buf, err = s.ReadFrame(ref.Addr, buf[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAcquire(b *testing.B) {
	s := benchSpace(b)
	var runs []base.RunID
	for range 64 {
		r, _ := s.NewRun(0)
		runs = append(runs, r.ID())
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			id := runs[i%len(runs)]
			if s.Acquire(id) {
				s.Release(id)
			}
		}
	})
}

func BenchmarkDecodeEntry(b *testing.B) {
	key := entryKey(nil, 1, benchKey(1))
	en := Entry{Low: benchKey(1), High: benchKey(2), Seq: 1<<40 + 7, Frames: []FrameRef{{Addr: Addr{Run: 1<<32 + 1, Off: 1 << 30, Len: 8192}, Filter: make([]byte, 90)}}}
	val := appendEntry(nil, key, &en)
	b.ReportAllocs()
	for range b.N {
		if _, err := decodeEntry(key, val); err != nil {
			b.Fatal(err)
		}
	}
}
