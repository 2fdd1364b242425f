package main

import (
	"encoding/binary"
	"math/bits"
)

// fate is what becomes of the savepoint at the end of a batch.
type fate uint8

const (
	fateReleased  fate = iota // its rows stay, the savepoint is released
	fateKept                  // its rows stay, the savepoint stays live for good
	fateAbsent                // rolled back, its rows never return
	fateRewritten             // rolled back, its rows are inserted again with other values
	fateNested                // as fateRewritten, with a savepoint inside and updates of old rows below it
)

// fates are dealt to batches in turn: one row in 64 ends absent, and two in 64
// are written twice.
var fates = [8]fate{
	fateReleased, fateKept, fateAbsent, fateReleased,
	fateRewritten, fateKept, fateNested, fateReleased,
}

// Versions of a row. What is written below a savepoint that is going to be
// rolled back is bogus; a reader that ever finds it has found a bug.
const (
	versionFirst     = 1
	versionRewritten = 2
	versionBogus     = 100 // the row as inserted, then rolled back
	versionBogusFar  = 101 // an old row as updated, then rolled back
)

// Offsets within a batch, modulo updateEvery, of the rows updated again: near
// ones when their batch ends, far ones when batch 2b (even) or 2b+1 (odd) ends,
// by which time batch b has long left memory.
const (
	updateEvery = 32
	nearOffset  = 7
	evenOffset  = 21
	oddOffset   = 13
)

// plan is the oracle: it says which rows exist, under which key, with which
// content, as a formula of the row's number. Row r belongs to writer r mod
// writers, whose i-th row it is: r = i·writers + writer. A writer's rows come in
// batches; batch b is over when its savepoint has met its fate and the updates
// that it triggers are done.
type plan struct {
	rows    int64
	writers int64
	size    int // of a first version's value, bytes
	random  bool
	plain   bool
	seed    uint64

	batch int64 // rows of a batch, a power of two
	shift uint  // log2 of batch
	tail  int64 // offset in a batch from which rows are below the savepoint
}

const (
	batchMin = 64
	batchMax = 64 << 10
)

func newPlan(c *config) *plan {
	p := &plan{
		rows: c.rows, writers: int64(c.writers), size: c.valueSize,
		random: c.order == orderRandom, plain: c.plain, seed: c.seed,
	}
	want := min(max(c.rows/p.writers/64, batchMin), batchMax)
	p.shift = uint(bits.Len64(uint64(want)) - 1)
	p.batch = 1 << p.shift
	p.tail = p.batch / 8 * 7
	return p
}

// rowsOf is the number of rows that a writer has.
func (p *plan) rowsOf(writer int64) int64 {
	return (p.rows - writer + p.writers - 1) / p.writers
}

// batchesOf is the number of batches that a writer has, the last maybe short.
func (p *plan) batchesOf(writer int64) int64 {
	return (p.rowsOf(writer) + p.batch - 1) >> p.shift
}

func (p *plan) row(writer, i int64) int64 { return i*p.writers + writer }

// owner is the inverse of row.
func (p *plan) owner(r int64) (writer, i int64) {
	if p.writers == 1 { // spares the scan a division
		return 0, r
	}
	return r % p.writers, r / p.writers
}

// key is the key of a row as a number; keys are 8 bytes, big-endian.
func (p *plan) key(r int64) uint64 {
	if p.random {
		return mix(uint64(r) ^ p.seed<<40)
	}
	return uint64(r)
}

// rowAt is the inverse of key: the row that has the key, if any.
func (p *plan) rowAt(key uint64) (r int64, ok bool) {
	if p.random {
		key = unmix(key) ^ p.seed<<40
	}
	return int64(key), key < uint64(p.rows)
}

func (p *plan) putKey(dst []byte, r int64) { binary.BigEndian.PutUint64(dst, p.key(r)) }

// fateOf is the fate of a batch's savepoint.
func (p *plan) fateOf(b int64) fate { return fates[b%int64(len(fates))] }

// version is the version that a writer's i-th row has once the first done
// batches of that writer are over; 0 is none.
func (p *plan) version(i, done int64) uint32 {
	b := i >> p.shift
	if b >= done {
		return 0
	}
	if p.plain {
		return versionFirst
	}
	v := uint32(versionFirst)
	off := i & (p.batch - 1)
	if off >= p.tail {
		switch p.fateOf(b) {
		case fateAbsent:
			return 0
		case fateRewritten, fateNested:
			v = versionRewritten
		case fateReleased, fateKept:
		}
	}
	switch off % updateEvery {
	case nearOffset:
		return v + 1
	case evenOffset:
		if 2*b < done {
			return v + 1
		}
	case oddOffset:
		if 2*b+1 < done {
			return v + 1
		}
	}
	return v
}

// count is the number of rows of a writer that exist once done batches are over.
func (p *plan) count(writer, done int64) int64 {
	n := p.rowsOf(writer)
	total := min(n, done<<p.shift)
	if p.plain {
		return total
	}
	for b := range done {
		if p.fateOf(b) == fateAbsent {
			lo, hi := b<<p.shift+p.tail, min(n, (b+1)<<p.shift)
			total -= max(0, hi-lo)
		}
	}
	return total
}

// countAll is the number of rows that exist after all writers are done.
func (p *plan) countAll() int64 {
	var total int64
	for w := range p.writers {
		total += p.count(w, p.batchesOf(w))
	}
	return total
}

// valueLen is the length of a version's value: later ones are a little shorter,
// so that no update fits in the place of the old value by chance.
func (p *plan) valueLen(version uint32) int { return max(0, p.size-int(version)+1) }

// valueSeed is the seed of the content of a row's version. An odd factor keeps
// seeds distinct; word does the scattering.
func (p *plan) valueSeed(r int64, version uint32) uint64 {
	return (uint64(r)<<8 ^ uint64(version) ^ p.seed<<48) * 0x9e3779b97f4a7c15
}

// fillValue writes the row's value into buf, which has room for size bytes.
func (p *plan) fillValue(buf []byte, r int64, version uint32) []byte {
	v := buf[:p.valueLen(version)]
	fill(v, p.valueSeed(r, version))
	return v
}

// checkValue reports whether v is the value of the row's version.
func (p *plan) checkValue(v []byte, r int64, version uint32) bool {
	return len(v) == p.valueLen(version) && matches(v, p.valueSeed(r, version))
}

// identify finds the version whose value v is, to say what was found instead of
// what should be; 0 if it is none of this row.
func (p *plan) identify(v []byte, r int64) uint32 {
	for version := uint32(1); version <= versionBogusFar+1; version++ {
		if p.checkValue(v, r, version) {
			return version
		}
	}
	return 0
}
