package versionchain

import "math/bits"

// A filter is a Bloom filter over the keys of a frame, small enough to be kept
// in the frame's list entry, so that most conflict checks and point reads of
// absent keys cost no read (S3).
//
//	probes  1        number of bits per key (k); 0 is a filter that knows nothing
//	bits    7..2047  about 10 per key
//
// k is at most 4, where 1.2 % of absent keys pass; with 6 it would be 0.8 %, for
// 3 ns more per row of a bulk load. It is stored, since frames above some 1600
// rows have fewer bits per key, where fewer probes are better. One hash serves
// all of them (double hashing).
const (
	filterBitsPerKey = 10
	filterMinSize    = 8
	filterMaxSize    = 2 << 10
	filterMaxProbes  = 4
)

// FilterMayContain reports whether a key with this base.Hash may be in the
// filter. No bytes at all may contain anything.
func FilterMayContain(filter []byte, hash uint64) bool {
	if len(filter) < 2 {
		return true
	}
	nbits := uint64(len(filter)-1) * 8
	step := filterStep(hash)
	for k := filter[0]; k > 0; k-- {
		p, _ := bits.Mul64(hash, nbits)
		if filter[1+p>>3]&(1<<(p&7)) == 0 {
			return false
		}
		hash += step
	}
	return true
}

// filterAdd sets the bits of hash.
//
// REQUIRES: probes is filter[0], which the stores need not read again.
func filterAdd(filter []byte, probes byte, hash uint64) {
	field := filter[1:]
	nbits := uint64(len(field)) * 8
	step := filterStep(hash)
	if probes == filterMaxProbes { // nearly always
		p0, _ := bits.Mul64(hash, nbits)
		p1, _ := bits.Mul64(hash+step, nbits)
		p2, _ := bits.Mul64(hash+2*step, nbits)
		p3, _ := bits.Mul64(hash+3*step, nbits)
		field[p0>>3] |= byte(1 << (uint32(p0) & 7))
		field[p1>>3] |= byte(1 << (uint32(p1) & 7))
		field[p2>>3] |= byte(1 << (uint32(p2) & 7))
		field[p3>>3] |= byte(1 << (uint32(p3) & 7))
		return
	}
	for k := int(probes); k > 0; k-- {
		p, _ := bits.Mul64(hash, nbits)
		field[p>>3] |= byte(1 << (uint32(p) & 7))
		hash += step
	}
}

// filterStep derives the distance between probes from the low half of the
// hash; probes are taken from its high bits.
func filterStep(hash uint64) uint64 { return bits.RotateLeft64(hash, 32) | 1 }

// FilterSize returns the length of the filter of a frame of so many rows.
func FilterSize(rows int) int { return filterSize(rows) }

func filterSize(keys int) int {
	return min(max(1+(keys*filterBitsPerKey+7)/8, filterMinSize), filterMaxSize)
}

// filterProbes returns the best k for n bytes: bits per key times ln 2.
func filterProbes(n, keys int) byte {
	k := (n - 1) * 8 * 693 / (1000 * max(keys, 1))
	return byte(min(max(k, 1), filterMaxProbes))
}
