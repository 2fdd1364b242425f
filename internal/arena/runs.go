package arena

import "math/bits"

// wholeSlab is the free mask of a slab without a block.
const wholeSlab = 1<<slabUnits - 1

// unitMask returns n bits from bit at on.
func unitMask(at, n int) uint64 { return (1<<n - 1) << at }

// firstRun returns the lowest position at which n free units begin. It is the
// beginning of its run, so what is left of that run stays in one piece.
//
// REQUIRES: there is one.
func firstRun(free uint64, n int) int {
	// After each step bit i says that `have` units from i on are free.
	for have := 1; have < n; {
		step := min(have, n-have)
		free &= free >> step
		have += step
	}
	return bits.TrailingZeros64(free)
}

// longestRun returns the length of the longest run of set bits.
func longestRun(free uint64) int32 {
	if free == 0 {
		return 0
	}
	// p[k] has bit i set if 1<<k units from i on are free. The greatest k with
	// any is the first bit of the length, the rest follows by trying to append
	// the smaller powers.
	p1 := free & (free >> 1)
	if p1 == 0 {
		return 1
	}
	p2 := p1 & (p1 >> 2)
	p3 := p2 & (p2 >> 4)
	p4 := p3 & (p3 >> 8)
	p5 := p4 & (p4 >> 16)
	run, n := p1, int32(2)
	switch {
	case free == wholeSlab:
		return slabUnits
	case p5 != 0:
		run, n = p5, 32
		if t := run & (p4 >> n); t != 0 {
			run, n = t, n+16
		}
		fallthrough
	case p4 != 0:
		if n == 2 {
			run, n = p4, 16
		}
		if t := run & (p3 >> n); t != 0 {
			run, n = t, n+8
		}
		fallthrough
	case p3 != 0:
		if n == 2 {
			run, n = p3, 8
		}
		if t := run & (p2 >> n); t != 0 {
			run, n = t, n+4
		}
		fallthrough
	case p2 != 0:
		if n == 2 {
			run, n = p2, 4
		}
		if t := run & (p1 >> n); t != 0 {
			run, n = t, n+2
		}
	}
	if run&(free>>n) != 0 {
		n++
	}
	return n
}
