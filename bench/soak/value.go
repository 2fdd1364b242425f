package main

import (
	"encoding/binary"
	"math/bits"
)

// Values are a stream of 64-bit words, each made from the seed and its own
// position alone: the words do not wait for one another, so a core makes several
// gigabytes a second, and one wrong, missing or moved byte shows.
//
//	word k = hi ^ lo of s·(s ^ mixer), s = seed + (k+1)·stride    (as in wyrand)
const (
	stride = 0xa0761d6478bd642f
	mixer  = 0xe7037ed1a0b428db
)

func word(s uint64) uint64 {
	hi, lo := bits.Mul64(s, s^mixer)
	return hi ^ lo
}

// fill writes the value of that seed over the whole of v.
func fill(v []byte, seed uint64) {
	for ; len(v) >= 32; v = v[32:] { // four at a time, for speed
		s1 := seed + stride
		s2 := s1 + stride
		s3 := s2 + stride
		seed = s3 + stride
		binary.LittleEndian.PutUint64(v[0:8], word(s1))
		binary.LittleEndian.PutUint64(v[8:16], word(s2))
		binary.LittleEndian.PutUint64(v[16:24], word(s3))
		binary.LittleEndian.PutUint64(v[24:32], word(seed))
	}
	for ; len(v) >= 8; v = v[8:] {
		seed += stride
		binary.LittleEndian.PutUint64(v, word(seed))
	}
	if len(v) == 0 {
		return
	}
	last := word(seed + stride)
	for i := range v {
		v[i] = byte(last)
		last >>= 8
	}
}

// matches reports whether v is the value of that seed, without making a copy.
func matches(v []byte, seed uint64) bool {
	var diff uint64
	for ; len(v) >= 32; v = v[32:] {
		s1 := seed + stride
		s2 := s1 + stride
		s3 := s2 + stride
		seed = s3 + stride
		diff |= binary.LittleEndian.Uint64(v[0:8]) ^ word(s1)
		diff |= binary.LittleEndian.Uint64(v[8:16]) ^ word(s2)
		diff |= binary.LittleEndian.Uint64(v[16:24]) ^ word(s3)
		diff |= binary.LittleEndian.Uint64(v[24:32]) ^ word(seed)
	}
	for ; len(v) >= 8; v = v[8:] {
		seed += stride
		diff |= binary.LittleEndian.Uint64(v) ^ word(seed)
	}
	if len(v) > 0 {
		last := word(seed + stride)
		for _, b := range v {
			diff |= uint64(b ^ byte(last))
			last >>= 8
		}
	}
	return diff == 0
}

// mix is a bijection of 64-bit numbers that scatters them evenly (the finalizer
// of splitmix64). Being a bijection, it turns row numbers into random keys
// without a repeat and without a table; unmix is its inverse.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= mixA
	x ^= x >> 27
	x *= mixB
	return x ^ x>>31
}

const (
	mixA, unmixA = 0xbf58476d1ce4e5b9, 0x96de1b173f119089 // inverses modulo 2^64
	mixB, unmixB = 0x94d049bb133111eb, 0x319642b2d24d8ec3
)

func unmix(x uint64) uint64 {
	x ^= x>>31 ^ x>>62
	x *= unmixB
	x ^= x>>27 ^ x>>54
	x *= unmixA
	return x ^ x>>30 ^ x>>60
}
