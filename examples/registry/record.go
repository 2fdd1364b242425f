package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Every number is 64 bits wide and big-endian, on disk and in hashes; a name is
// its length and its bytes.
//
//	state    genesis 8 │ slot length 8 │ founders 8 │ slot 8 │ filled 8 │ height 8 │ hash 32 │ supply 8 │ stakers 8 │ digest 32
//	staker   owner 8 │ delegate 8 │ share 8 │ produced 8 │ missed 8 │ turns 512 │ name
//	account  balance 8             name → staker id 8
//	block    hash 32 │ supply 8 │ reward 8 │ block: height 8 │ prev 32 │ slot 8 │ staker 8 │ n 8 │ n operations
//
// Keys: staker id, account number, height: 8 bytes; a name: its bytes.

const (
	hashSize    = sha256.Size
	windowTurns = 4096 // of a staker, the recent ones
	nameSizeMax = 64
	operations  = 1 << 12 // in a block, at most
	shareWhole  = 1000    // a delegate's share is in thousandths
)

var errRecord = errors.New("record does not decode")

type hash [hashSize]byte

// String is the beginning of the hash, for people.
func (h hash) String() string { return hex.EncodeToString(h[:6]) }

// state is the record that every change writes: it orders the changes.
type state struct {
	Genesis  int64  // beginning of slot 0, nanoseconds since 1970
	SlotTime int64  // length of a slot, nanoseconds
	Founders uint64 // stakers at genesis
	Slot     uint64
	Filled   bool // the slot has its block
	Height   uint64
	Hash     hash
	Supply   uint64 // money, in millionths
	Stakers  uint64
	Digest   digest
}

// staker is one that takes turns in producing blocks.
type staker struct {
	Owner, Delegate uint64 // accounts
	Share           uint64 // of a reward, the delegate's, in thousandths
	Produced        uint64
	Missed          uint64
	Turns           [windowTurns / 8]byte // a bit per recent turn, set if missed
	Name            string
}

// turn records what became of the staker's turn.
func (s *staker) turn(missed bool) {
	i := (s.Produced + s.Missed) % windowTurns
	s.Turns[i/8] &^= 1 << (i % 8)
	if missed {
		s.Turns[i/8] |= 1 << (i % 8)
		s.Missed++
	} else {
		s.Produced++
	}
}

type opKind uint64

const (
	opTransfer  opKind = 1 + iota // Amount from From to To
	opRegister                    // a staker Name; owner From, delegate To, share Amount
	opSetShare                    // of Staker: delegate To, share Amount
	opKindLimit                   // no operation
)

// op is one operation of a block.
type op struct {
	Kind             opKind
	Staker, From, To uint64
	Amount           uint64
	Name             string
}

// block is what the network brings.
type block struct {
	Height uint64
	Prev   hash
	Slot   uint64
	Staker uint64
	Ops    []op
}

// blockRow is a block in the index, with what was derived from it.
type blockRow struct {
	Hash   hash
	Supply uint64 // after the block
	Reward uint64
	Block  block
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func put64(dst []byte, ns ...uint64) []byte {
	for _, n := range ns {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return dst
}

func putName(dst []byte, s string) []byte { return append(put64(dst, uint64(len(s))), s...) }

func (s *state) encode() []byte {
	filled := uint64(0)
	if s.Filled {
		filled = 1
	}
	b := put64(nil, uint64(s.Genesis), uint64(s.SlotTime), s.Founders, s.Slot, filled, s.Height)
	b = append(b, s.Hash[:]...)
	b = put64(b, s.Supply, s.Stakers)
	return put64(b, s.Digest[:]...)
}

func decodeState(b []byte) (s state, err error) {
	d := decoder{b: b}
	s.Genesis, s.SlotTime, s.Founders = int64(d.num()), int64(d.num()), d.num()
	s.Slot, s.Filled, s.Height = d.num(), d.num() != 0, d.num()
	d.bytes(s.Hash[:])
	s.Supply, s.Stakers = d.num(), d.num()
	for i := range s.Digest {
		s.Digest[i] = d.num()
	}
	if s.SlotTime <= 0 {
		d.fail = true
	}
	return s, d.end("state")
}

func (s *staker) encode() []byte {
	b := put64(nil, s.Owner, s.Delegate, s.Share, s.Produced, s.Missed)
	return putName(append(b, s.Turns[:]...), s.Name)
}

func decodeStaker(b []byte) (s staker, err error) {
	d := decoder{b: b}
	s.Owner, s.Delegate, s.Share, s.Produced, s.Missed = d.num(), d.num(), d.num(), d.num(), d.num()
	d.bytes(s.Turns[:])
	s.Name = d.name()
	return s, d.end("staker")
}

func decodeNumber(b []byte) (uint64, error) {
	d := decoder{b: b}
	n := d.num()
	return n, d.end("number")
}

func (b *block) encode(dst []byte) []byte {
	dst = append(put64(dst, b.Height), b.Prev[:]...)
	dst = put64(dst, b.Slot, b.Staker, uint64(len(b.Ops)))
	for i := range b.Ops {
		o := &b.Ops[i]
		dst = put64(dst, uint64(o.Kind), o.Staker, o.From, o.To, o.Amount)
		dst = putName(dst, o.Name)
	}
	return dst
}

// hash identifies the block: it covers the whole header and content.
func (b *block) hash() hash { return sha256.Sum256(b.encode(nil)) }

func (r *blockRow) encode() []byte {
	return r.Block.encode(put64(append([]byte(nil), r.Hash[:]...), r.Supply, r.Reward))
}

func decodeBlockRow(b []byte) (r blockRow, err error) {
	d := decoder{b: b}
	d.bytes(r.Hash[:])
	r.Supply, r.Reward = d.num(), d.num()
	r.Block.Height = d.num()
	d.bytes(r.Block.Prev[:])
	r.Block.Slot, r.Block.Staker = d.num(), d.num()
	n := d.num()
	if n > operations {
		d.fail = true
	}
	for i := uint64(0); i < n && !d.fail; i++ {
		o := op{Kind: opKind(d.num()), Staker: d.num(), From: d.num(), To: d.num(), Amount: d.num()}
		o.Name = d.name()
		r.Block.Ops = append(r.Block.Ops, o)
	}
	return r, d.end("block")
}

// decoder takes a record apart; what is missing reads as zero and fails at end.
type decoder struct {
	b    []byte
	fail bool
}

func (d *decoder) take(n uint64) []byte {
	if d.fail || n > uint64(len(d.b)) {
		d.fail = true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) num() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (d *decoder) bytes(dst []byte) { copy(dst, d.take(uint64(len(dst)))) }

func (d *decoder) name() string {
	n := d.num()
	if n > nameSizeMax {
		d.fail = true
	}
	return string(d.take(n))
}

func (d *decoder) end(what string) error {
	if d.fail || len(d.b) != 0 {
		return fmt.Errorf("registry: %w: %s", errRecord, what)
	}
	return nil
}

// digest is a sum over a set of records that is the same in any order, so that a
// change of one record costs the same however many there are. It detects a mix of
// two states; it is no defence against somebody who wants to deceive it.
type digest [hashSize / 8]uint64

func recordSum(t table, key, value []byte) (sum digest) {
	b := put64(nil, uint64(t), uint64(len(key)))
	b = append(append(b, key...), value...)
	h := sha256.Sum256(b)
	for i := range sum {
		sum[i] = binary.BigEndian.Uint64(h[8*i:])
	}
	return sum
}

func (d *digest) add(o digest) {
	for i := range d {
		d[i] += o[i]
	}
}

func (d *digest) remove(o digest) {
	for i := range d {
		d[i] -= o[i]
	}
}
