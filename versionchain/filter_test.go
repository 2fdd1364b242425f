package versionchain

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

func hashesOf(from, n int) []uint64 {
	hs := make([]uint64, n)
	for i := range hs {
		hs[i] = base.Hash(binary.BigEndian.AppendUint64(nil, uint64(from+i)))
	}
	return hs
}

func TestFilter(t *testing.T) {
	for _, tc := range []struct {
		keys    int
		size    int
		maxRate float64 // of false positives
	}{
		{0, 8, 0},
		{1, 8, 0.001},
		{5, 8, 0.03},
		{72, 91, 0.02},
		{128, 161, 0.015},
		{1600, 2001, 0.015},
		{3000, 2048, 0.10},
		{9400, 2048, 0.50},
	} {
		in := hashesOf(0, tc.keys)
		filter := buildFilter([]byte("x"), in)[1:]
		if len(filter) != tc.size {
			t.Errorf("%d keys: %d bytes, want %d", tc.keys, len(filter), tc.size)
		}
		for _, h := range in {
			if !FilterMayContain(filter, h) {
				t.Fatalf("%d keys: one is missing", tc.keys)
			}
		}
		const probes = 100_000
		hits := 0
		for _, h := range hashesOf(1<<40, probes) {
			if FilterMayContain(filter, h) {
				hits++
			}
		}
		rate := float64(hits) / probes
		t.Logf("%d keys: %d bytes, k=%d, %.2f %% false positives", tc.keys, len(filter), filter[0], 100*rate)
		if rate > tc.maxRate {
			t.Errorf("%d keys: %.2f %% false positives", tc.keys, 100*rate)
		}
	}
}

// TestFilterUnknown: what knows nothing excludes nothing, and damaged bytes do
// not panic.
func TestFilterUnknown(t *testing.T) {
	for _, f := range [][]byte{nil, {}, {6}, {0, 0, 0}} {
		if !FilterMayContain(f, 42) {
			t.Errorf("filter %v excludes a key", f)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		f := make([]byte, rng.IntN(20))
		for i := range f {
			f[i] = byte(rng.Uint32())
		}
		FilterMayContain(f, rng.Uint64())
	}
}

func BenchmarkFilter(b *testing.B) {
	in := hashesOf(0, 72)
	filter := buildFilter(nil, in)
	absent := hashesOf(1<<40, 1024)
	b.Run("build/72", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 128)
		for b.Loop() {
			buildFilter(buf, in)
		}
	})
	for name, hs := range map[string][]uint64{"present": in[:64], "absent": absent} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n, i := 0, 0
			for b.Loop() {
				if FilterMayContain(filter, hs[i&(len(hs)-1)]) {
					n++
				}
				i++
			}
			_ = n
		})
	}
}

// buildFilter appends to dst a filter that contains hashes, of base.Hash.
func buildFilter(dst []byte, hashes []uint64) []byte {
	n := filterSize(len(hashes))
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	filter := dst[at:]
	probes := filterProbes(n, len(hashes))
	filter[0] = probes
	for _, h := range hashes {
		filterAdd(filter, probes, h)
	}
	return dst
}
