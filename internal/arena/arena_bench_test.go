package arena

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkAllocFree is one block of a size that comes and goes.
func BenchmarkAllocFree(b *testing.B) {
	for _, kb := range []int{1, 9, 32} {
		b.Run(fmt.Sprintf("%dKiB", kb), func(b *testing.B) {
			a := mustNew(b, 64<<20)
			b.ReportAllocs()
			for b.Loop() {
				a.Free(a.Alloc(kb << 10))
			}
		})
	}
}

// BenchmarkChurn replaces random blocks of 1 to 16 KiB in an arena that is
// 95 % full, and reports how many allocations fail for fragmentation.
func BenchmarkChurn(b *testing.B) {
	a := mustNew(b, 64<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	var sizes [1024]int
	for i := range sizes {
		sizes[i] = (1 + rng.IntN(16)) << 10
	}
	var live [][]byte
	for n := 0; a.Reserved() < a.Cap()*95/100; n++ {
		live = append(live, a.Alloc(sizes[n&1023]))
	}
	b.ReportAllocs()
	failed, n := 0, 0
	x := uint32(1)
	for b.Loop() {
		x = x*1664525 + 1013904223
		i := int(uint64(x) * uint64(len(live)) >> 32)
		if live[i] != nil {
			a.Free(live[i])
		}
		n++
		if live[i] = a.Alloc(sizes[n&1023]); live[i] == nil {
			failed++
		}
	}
	b.ReportMetric(float64(failed)/float64(b.N), "failed/op")
}

func BenchmarkCharge(b *testing.B) {
	a := mustNew(b, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		a.Charge(100)
		a.Uncharge(100)
	}
}

func BenchmarkReserved(b *testing.B) {
	a := mustNew(b, 1<<20)
	n := int64(0)
	for b.Loop() {
		n += a.Reserved()
	}
	_ = n
}
