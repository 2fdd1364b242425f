package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// Reader reads at one moment. It is valid inside Read.
type Reader struct {
	s  *Store
	tx *engine.Tx
}

// Read runs fn on a snapshot. It waits for nobody and nobody for it, and sees of a
// block under way nothing, on disk or not.
func (s *Store) Read(ctx context.Context, fn func(*Reader) error) error {
	return s.db.View(ctx, func(tx *engine.Tx) error { return fn(&Reader{s: s, tx: tx}) })
}

// Block returns a block. ErrNotFound.
func (r *Reader) Block(id ID) (*Block, error) {
	b, err := r.tx.Get(r.s.blocks, id.key())
	if err != nil {
		return nil, fmt.Errorf("statestore: block %v: %w", id, err)
	}
	return decodeBlock(b)
}

// State returns a state, by its slot and the latest block before. ErrNotFound.
func (r *Reader) State(id ID) (State, error) {
	b, err := r.tx.Get(r.s.states, id.key())
	if err != nil {
		return nil, fmt.Errorf("statestore: state %v: %w", id, err)
	}
	if st := State(b); len(b) >= stateSizeMin && st.ID() == id {
		return st, nil
	}
	return nil, fmt.Errorf("statestore: state %v: %w", id, errRecord)
}

// Finalized returns the block that is final.
func (r *Reader) Finalized() (ID, error) { return finalized(r.tx, r.s) }

// Head returns the latest block and the state after it.
func (r *Reader) Head() (ID, State, error) {
	for row, err := range r.tx.Scan(r.s.blocks, engine.Range{Reverse: true, Limit: 1}) {
		if err != nil {
			return ID{}, nil, fmt.Errorf("statestore: head: %w", err)
		}
		id, err := decodeID(row.Key)
		if err != nil {
			return ID{}, nil, err
		}
		st, err := r.State(id)
		return id, st, err
	}
	return ID{}, nil, fmt.Errorf("statestore: head: %w", ErrNotFound)
}

// Counts is what a store holds.
type Counts struct{ Blocks, States int }

// checker is one Check. For each block it keeps a few words; of states, one for
// each block whose children are still to come.
type checker struct {
	r      *Reader
	fin    ID
	n      Counts
	blocks map[root]*checked
}

type checked struct {
	slot   uint64
	need   uint64 // slot of the latest child, or its own
	want   root   // of the state after it
	next   uint64 // slot of the state that must come next
	latest State
}

// Check reads everything and tells whether it agrees; see the package comment.
func (r *Reader) Check() (Counts, error) {
	fin, err := r.Finalized()
	if err != nil {
		return Counts{}, err
	}
	c := &checker{r: r, fin: fin, blocks: map[root]*checked{}}
	if err := c.each(r.s.blocks, c.block); err != nil {
		return c.n, err
	}
	if c.blocks[fin.Root] == nil {
		return c.n, c.fault(fin, "finalized block is missing")
	}
	if err := c.each(r.s.states, c.state); err != nil {
		return c.n, err
	}
	for at, b := range c.blocks {
		if b.slot >= fin.Slot && b.next != b.need+1 {
			return c.n, c.fault(ID{Slot: b.next, Root: at}, "state is missing")
		}
	}
	return c.n, nil
}

func (c *checker) each(t *engine.Table, fn func(ID, []byte) error) error {
	for row, err := range c.r.tx.Scan(t, engine.Range{}) {
		if err != nil {
			return fmt.Errorf("statestore: check: %w", err)
		}
		id, err := decodeID(row.Key)
		if err != nil {
			return err
		}
		if err := fn(id, row.Value); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) block(id ID, value []byte) error {
	c.n.Blocks++
	b, err := decodeBlock(value)
	if err != nil {
		return err
	}
	if b.ID() != id {
		return c.fault(id, "block has another name")
	}
	c.blocks[id.Root] = &checked{slot: id.Slot, need: id.Slot, want: b.StateRoot, next: id.Slot}
	if id.Slot == 0 {
		return nil // genesis
	}
	parent := c.blocks[b.Parent.Root]
	switch {
	case parent == nil || parent.slot != b.Parent.Slot:
		return c.fault(id, "parent is missing")
	case id.Slot == c.fin.Slot && id != c.fin, id.Slot > c.fin.Slot && parent.slot < c.fin.Slot:
		return c.fault(id, "fork from before the finalized block")
	}
	parent.need = max(parent.need, id.Slot)
	return nil
}

func (c *checker) state(id ID, value []byte) error {
	c.n.States++
	b, st := c.blocks[id.Root], State(value)
	switch {
	case b == nil:
		return c.fault(id, "state without block")
	case id.Slot < c.fin.Slot || b.slot < c.fin.Slot:
		return c.fault(id, "state from before the finalized block")
	case id.Slot > b.need:
		return c.fault(id, "state that no block needed")
	case id.Slot != b.next:
		return c.fault(ID{Slot: b.next, Root: id.Root}, "state is missing")
	case len(value) < stateSizeMin || st.ID() != id:
		return c.fault(id, "state has another name")
	case id.Slot == b.slot && st.root() != b.want:
		return c.fault(id, "state is not what its block says")
	}
	if id.Slot > b.slot {
		b.latest.advance()
		if !bytes.Equal(b.latest, value) {
			return c.fault(id, "state does not follow from the one before")
		}
	}
	b.next++
	if b.next > b.need {
		b.latest = nil
	} else if b.latest == nil {
		b.latest = append(State(nil), value...)
	}
	return nil
}

func (c *checker) fault(id ID, what string) error {
	return fmt.Errorf("statestore: %w: %v: %s", ErrInconsistent, id, what)
}
