package arena

import (
	"math/rand/v2"
	"testing"
)

func TestRuns(t *testing.T) {
	slow := func(m uint64) (best int32) {
		n := int32(0)
		for i := range 64 {
			if m&(1<<i) == 0 {
				n = 0
				continue
			}
			n++
			best = max(best, n)
		}
		return best
	}
	check := func(m uint64) {
		want := slow(m)
		if got := longestRun(m); got != want {
			t.Fatalf("longestRun(%#x) = %d, want %d", m, got, want)
		}
		for n := 1; n <= int(want); n++ {
			at := firstRun(m, n)
			if mask := unitMask(at, n); m&mask != mask || at > 0 && m&(1<<(at-1)) != 0 {
				t.Fatalf("firstRun(%#x, %d) = %d", m, n, at)
			}
		}
	}
	for lo := range 65 {
		for hi := lo; hi <= 64; hi++ {
			m := unitMask(lo, hi-lo)
			check(m)
			check(^m)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		check(rng.Uint64() | rng.Uint64())
		check(rng.Uint64() & rng.Uint64())
		check(rng.Uint64() | rng.Uint64() | rng.Uint64())
	}
}
