package versionchain

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

const (
	benchKeys  = 200 // records of a leaf
	benchValue = 100 // bytes of a value
	benchBlock = 32<<10 - 8
)

// leafKey returns key i of a leaf, in dst.
func leafKey(dst []byte, i uint64) []byte {
	return binary.BigEndian.AppendUint64(dst[:0], 1_000_000+i*72)
}

// scrambled returns 0 to benchKeys-1, each once, in no order.
func scrambled() []uint64 {
	order := make([]uint64, benchKeys)
	for i := range order {
		order[i] = uint64(i) * 77 % benchKeys // 77 and 200 have no common factor
	}
	return order
}

func inOrder() []uint64 {
	order := make([]uint64, benchKeys)
	for i := range order {
		order[i] = uint64(i)
	}
	return order
}

// fullLeaf returns a page of benchKeys committed records.
func fullLeaf(b *testing.B) Page {
	b.Helper()
	p := MakePage(make([]byte, benchBlock))
	var key []byte
	value := make([]byte, benchValue)
	for i := range uint64(benchKeys) {
		key = leafKey(key, i)
		if !p.Insert(int(i), key, value, 0, &Ver{Stamp: 7}) {
			b.Fatalf("full after %d records", i)
		}
	}
	return p
}

// BenchmarkLeafInsert fills an empty leaf: find the place, add the record.
func BenchmarkLeafInsert(b *testing.B) {
	for _, c := range []struct {
		name  string
		order []uint64
	}{{"sequential", inOrder()}, {"random", scrambled()}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			p := MakePage(make([]byte, benchBlock))
			key, value := make([]byte, 0, 8), make([]byte, benchValue)
			for b.Loop() {
				p.Clear()
				for _, n := range c.order {
					key = leafKey(key, n)
					i, _ := p.Find(key, 0)
					v := Ver{Stamp: UndecidedStamp(9), Epoch: 1, Flags: FlagListed}
					if !p.Insert(i, key, value, 0, &v) {
						b.Fatal("full")
					}
				}
			}
			perRow(b, benchKeys)
		})
	}
}

// BenchmarkLeafGet finds a key in a leaf and the version that a reader sees.
func BenchmarkLeafGet(b *testing.B) {
	for _, c := range []struct {
		name  string
		order []uint64
	}{{"sequential", inOrder()}, {"random", scrambled()}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			p := fullLeaf(b)
			r := &Reader{Snapshot: 10, Reg: &Registry{}}
			key := make([]byte, 0, 8)
			total := 0
			for b.Loop() {
				for _, n := range c.order {
					key = leafKey(key, n)
					i, exact := p.Find(key, 0)
					if !exact {
						b.Fatal("not found")
					}
					f, err := p.Visible(i, r)
					if err != nil {
						b.Fatal(err)
					}
					total += len(p.Value(f.Off, &f.Ver))
				}
			}
			if want := b.N * benchKeys * benchValue; total != want {
				b.Fatalf("read %d bytes, want %d", total, want)
			}
			perRow(b, benchKeys)
		})
	}
}

// BenchmarkChainWalk reads the oldest of n versions: those above it are
// committed after the snapshot, or belong to transactions that others run.
func BenchmarkChainWalk(b *testing.B) {
	for _, active := range []bool{false, true} {
		for _, n := range []int{1, 4, 16, 64} {
			name := fmt.Sprintf("committed/%d", n)
			if active {
				name = fmt.Sprintf("active/%d", n)
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				r := &Reader{Snapshot: 10, Reg: &Registry{}}
				p := chainOf(b, n, active, r.Reg)
				for b.Loop() {
					f, err := p.Visible(0, r)
					if err != nil || f.TS != 7 {
						b.Fatal(f.TS, err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/version")
			})
		}
	}
}

// BenchmarkCheckWrite is what a writer asks of a record before it adds to it.
func BenchmarkCheckWrite(b *testing.B) {
	b.ReportAllocs()
	r := &Reader{Snapshot: 10, Self: NewOutcome(9), Reg: &Registry{}}
	p := chainOf(b, 1, false, r.Reg)
	for b.Loop() {
		if verdict, _, _, err := p.CheckWrite(0, r); verdict != Go || err != nil {
			b.Fatal(verdict, err)
		}
	}
}

// chainOf returns a page with one record of n versions, the oldest of them
// committed at 7 and the others either later than 10 or of active transactions.
func chainOf(b *testing.B, n int, active bool, reg *Registry) Page {
	b.Helper()
	p := MakePage(make([]byte, benchBlock))
	value := make([]byte, benchValue)
	if !p.Insert(0, []byte("k"), value, 0, &Ver{Stamp: 7}) {
		b.Fatal("full")
	}
	for i := range n - 1 {
		v := Ver{Stamp: uint64(20 + i)}
		if active {
			id := base.TxnID(100 + i)
			reg.Add(NewOutcome(id))
			v.Stamp = UndecidedStamp(id)
		}
		if !p.Push(0, value, &v) {
			b.Fatal("full")
		}
	}
	return p
}
