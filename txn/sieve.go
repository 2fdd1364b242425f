package txn

// sieve is a Bloom filter of single keys: it has every key that was put in, and few
// others. Its length is a power of two, so that it can be folded.
type sieve []uint64

const (
	// sieveProbes is how many bits a key sets. Of other keys a millionth passes while
	// there are a hundred bits for each key, a hundredth at ten.
	sieveProbes = 4
	// sieveShare is the bytes of sieve for each span that a read set may have: for
	// as many keys, 128 bits each.
	sieveShare = 16
)

// newSieve returns a sieve of at most size bytes, and at least eight.
func newSieve(size int) sieve {
	n := 1
	for 16*n <= size {
		n *= 2
	}
	return make(sieve, n)
}

func (s sieve) add(hash uint64) {
	at, step := uint32(hash), uint32(hash>>32)|1
	for range sieveProbes {
		s[at/64%uint32(len(s))] |= 1 << (at % 64)
		at += step
	}
}

func (s sieve) has(hash uint64) bool {
	at, step := uint32(hash), uint32(hash>>32)|1
	for range sieveProbes {
		if s[at/64%uint32(len(s))]&(1<<(at%64)) == 0 {
			return false
		}
		at += step
	}
	return true
}

// fold returns a sieve of at most size bytes that has all that s has.
func (s sieve) fold(size int) sieve {
	to := newSieve(size)
	for i, word := range s {
		to[i%len(to)] |= word
	}
	return to
}
