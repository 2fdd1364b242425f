package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// On disk, all numbers 64 bits and big-endian:
//
//	id     slot 8 │ root 32                 the key of a block, and of a state:
//	                                        its slot and the latest block before
//	state  slot 8 │ block root 32 │ balances, 8 each
//	block  parent id 40 │ slot 8 │ state root 32 │ n 8 │ n transfers: from 8 │ to 8 │ amount 8

const (
	rootSize     = sha256.Size
	idSize       = 8 + rootSize
	stateSizeMin = idSize + 8
	transfersMax = 1 << 12
	// slotsMax bounds the slots between a block and its parent.
	slotsMax = 1 << 20
)

// root is a hash.
type root [rootSize]byte

// String is the beginning of the hash, for people.
func (r root) String() string { return hex.EncodeToString(r[:4]) }

// ID names a block, by slot and hash; or a state, by its slot and the hash of the
// latest block before it.
type ID struct {
	Slot uint64
	Root root
}

// String is for people.
func (id ID) String() string { return fmt.Sprintf("%d/%v", id.Slot, id.Root) }

func (id ID) key() []byte { return append(num(id.Slot), id.Root[:]...) }

func num(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodeID(b []byte) (id ID, err error) {
	if len(b) != idSize {
		return id, fmt.Errorf("statestore: %w: id of %d bytes", errRecord, len(b))
	}
	id.Slot = binary.BigEndian.Uint64(b)
	copy(id.Root[:], b[8:])
	return id, nil
}

var errRecord = errors.New("record does not decode")

// Transfer moves an amount between two accounts of the state.
type Transfer struct{ From, To, Amount uint64 }

// Block is a block as it comes in.
type Block struct {
	Parent    ID
	Slot      uint64
	StateRoot root // what its producer says the state is after it
	Transfers []Transfer
}

// ID returns the block's name, which covers all of it.
func (b *Block) ID() ID { return ID{Slot: b.Slot, Root: sha256.Sum256(b.encode())} }

func (b *Block) encode() []byte {
	out := append(b.Parent.key(), num(b.Slot)...)
	out = append(append(out, b.StateRoot[:]...), num(uint64(len(b.Transfers)))...)
	for _, t := range b.Transfers {
		for _, n := range [...]uint64{t.From, t.To, t.Amount} {
			out = binary.BigEndian.AppendUint64(out, n)
		}
	}
	return out
}

func decodeBlock(b []byte) (*Block, error) {
	const header = idSize + 8 + rootSize + 8
	if len(b) < header || (len(b)-header)%24 != 0 ||
		binary.BigEndian.Uint64(b[header-8:]) != uint64(len(b)-header)/24 {
		return nil, fmt.Errorf("statestore: %w: block of %d bytes", errRecord, len(b))
	}
	out := &Block{Slot: binary.BigEndian.Uint64(b[idSize:])}
	out.Parent, _ = decodeID(b[:idSize]) // the length is right
	copy(out.StateRoot[:], b[idSize+8:])
	for b = b[header:]; len(b) > 0; b = b[24:] {
		out.Transfers = append(out.Transfers, Transfer{
			From: binary.BigEndian.Uint64(b), To: binary.BigEndian.Uint64(b[8:]), Amount: binary.BigEndian.Uint64(b[16:]),
		})
	}
	return out, nil
}

// State is the state of the chain in a slot.
type State []byte

// newState returns the state of slot 0, size bytes long.
func newState(size int) State {
	s := make(State, max(size, stateSizeMin)/8*8)
	for i := range s.accounts() {
		s.set(i, 1_000_000)
	}
	return s
}

// Slot returns the slot it is the state of.
func (s State) Slot() uint64 { return binary.BigEndian.Uint64(s) }

// ID names the state.
func (s State) ID() (id ID) {
	id.Slot = s.Slot()
	copy(id.Root[:], s[8:])
	return id
}

func (s State) accounts() int { return (len(s) - idSize) / 8 }

func (s State) balance(i int) uint64 { return binary.BigEndian.Uint64(s[idSize+8*i:]) }

func (s State) set(i int, n uint64) { binary.BigEndian.PutUint64(s[idSize+8*i:], n) }

// root is the hash of slot and balances. The block root is not in it: the block's
// hash covers this one.
func (s State) root() root {
	h := sha256.New()
	h.Write(s[:8])
	h.Write(s[idSize:])
	return root(h.Sum(nil))
}

// advance makes it the state of the next slot: everybody earns something.
func (s State) advance() {
	slot := s.Slot() + 1
	binary.BigEndian.PutUint64(s, slot)
	for i := range s.accounts() {
		s.set(i, s.balance(i)+(slot*2654435761+uint64(i))%7)
	}
}

// apply makes the block's transfers and makes it the latest block. The block is
// in the state's slot. ErrInvalid.
func (s State) apply(b *Block, id ID) error {
	n := uint64(s.accounts())
	for i, t := range b.Transfers {
		if t.From >= n || t.To >= n || s.balance(int(t.From)) < t.Amount {
			return fmt.Errorf("%w: transfer %d", ErrInvalid, i)
		}
		s.set(int(t.From), s.balance(int(t.From))-t.Amount)
		s.set(int(t.To), s.balance(int(t.To))+t.Amount)
	}
	copy(s[8:], id.Root[:])
	return nil
}

// produce makes a valid block on a parent, given the state after that, and returns
// the state after it.
func produce(parent ID, after State, slot uint64, transfers ...Transfer) (*Block, State) {
	b := &Block{Parent: parent, Slot: slot, Transfers: transfers}
	st := append(State(nil), after...)
	for st.Slot() < slot {
		st.advance()
	}
	if err := st.apply(b, ID{}); err != nil {
		return b, st // an invalid block, as asked for
	}
	b.StateRoot = st.root()
	id := b.ID()
	copy(st[8:], id.Root[:])
	return b, st
}
