package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"sync/atomic"
)

// A row has an id: the number of its writer above 40 bits of its own. The key
// follows from the id, by an order, and the value from the id as well, so that
// a scan can tell whether it found what was written and nothing else.
const idBits = 40

// order is a bijection between ids and keys.
type order bool

const (
	inOrder  order = false // keys rise with ids
	atRandom order = true  // keys are spread over all numbers
)

const (
	spread   = 0x9e3779b97f4a7c15 // odd
	unspread = 0xf1de83e19937733d // spread · unspread = 1 modulo 2⁶⁴
)

func (o order) key(id uint64) uint64 {
	if o == inOrder {
		return id
	}
	id *= spread
	id ^= id >> 32
	return id * spread
}

func (o order) id(key uint64) uint64 {
	if o == inOrder {
		return key
	}
	key *= unspread
	key ^= key >> 32
	return key * unspread
}

// fill writes the value of id over v; no compressor gains anything on it.
func fill(v []byte, id uint64) {
	var w [8]byte
	for x := id; len(v) > 0; v = v[min(8, len(v)):] {
		x += spread
		hi, lo := bits.Mul64(x, x^0xe7037ed1a0b428db)
		binary.LittleEndian.PutUint64(w[:], hi^lo)
		copy(v, w[:])
	}
}

// bump adds n to the number in the first eight bytes of v, or in what it has of them:
// what n updates make of a value.
func bump(v []byte, n uint64) {
	var w [8]byte
	copy(w[:], v)
	binary.LittleEndian.PutUint64(w[:], binary.LittleEndian.Uint64(w[:])+n)
	copy(v[:min(8, len(v))], w[:])
}

// row is room for one row of a writer.
type row struct{ key, value []byte }

func newRow(valueSize int) row { return row{make([]byte, 8), make([]byte, valueSize)} }

func (r row) set(o order, id uint64) {
	binary.BigEndian.PutUint64(r.key, o.key(id))
	fill(r.value, id)
}

// ledger knows which rows were acknowledged: of writer w the first counts[w]; and how
// often each row of writer 0 was updated, if any was.
type ledger struct {
	order     order
	valueSize int
	counts    []uint64
	updates   []atomic.Uint32
}

func (l *ledger) total() (n uint64) {
	for _, c := range l.counts {
		n += c
	}
	return n
}

// rows yields the rows of writer w. The slices are used again.
func (l *ledger) rows(w int, n uint64) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		r := newRow(l.valueSize)
		for i := range n {
			r.set(l.order, uint64(w)<<idBits|i)
			if !yield(r.key, r.value) {
				return
			}
		}
	}
}

// verify fails unless s holds exactly the rows of the ledger: keys that ascend,
// each of them acknowledged, and as many as were acknowledged.
func (l *ledger) verify(s store) error {
	want := newRow(l.valueSize)
	var found, last uint64
	err := s.scan(func(k, v []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("key %x was never written", k)
		}
		key := binary.BigEndian.Uint64(k)
		if found > 0 && key <= last {
			return fmt.Errorf("key %016x found after %016x", key, last)
		}
		id := l.order.id(key)
		w, i := id>>idBits, id&(1<<idBits-1)
		if w >= uint64(len(l.counts)) || i >= l.counts[w] {
			return fmt.Errorf("key %016x was never acknowledged", key)
		}
		want.set(l.order, id)
		if w == 0 && l.updates != nil {
			bump(want.value, uint64(l.updates[i].Load()))
		}
		if !bytes.Equal(v, want.value) {
			return fmt.Errorf("key %016x has a value of another row", key)
		}
		last = key
		found++
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if n := l.total(); found != n {
		return fmt.Errorf("verify: %d rows of %d acknowledged ones", found, n)
	}
	return nil
}
