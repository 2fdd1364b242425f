package main

import (
	"math/bits"
	"time"
)

// latencies counts durations in classes that are 1/32 wide, without allocating.
type latencies struct {
	n       uint64
	classes [64 * 32]uint32
}

func class(ns uint64) int {
	if ns < 32 {
		return int(ns)
	}
	shift := bits.Len64(ns) - 6
	return shift*32 + int(ns>>shift)
}

// floorOf is the least duration of a class.
func floorOf(c int) uint64 {
	if c < 64 {
		return uint64(c)
	}
	shift := c/32 - 1
	return uint64(c-shift*32) << shift
}

func (l *latencies) add(d time.Duration) {
	l.n++
	l.classes[class(uint64(max(d, 0)))]++
}

func (l *latencies) merge(o *latencies) {
	l.n += o.n
	for i, n := range o.classes {
		l.classes[i] += n
	}
}

// quantile returns the least duration that the share q of all do not exceed, 0
// when there is none.
func (l *latencies) quantile(q float64) time.Duration {
	if l.n == 0 {
		return 0
	}
	rank := min(uint64(q*float64(l.n)), l.n-1)
	var seen uint64
	for c, n := range l.classes {
		if seen += uint64(n); seen > rank {
			return time.Duration(floorOf(c))
		}
	}
	return 0
}
