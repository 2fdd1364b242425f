package main

import (
	"context"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// Pruned tells what Finalize deleted.
type Pruned struct{ Blocks, States int }

// Finalize makes a block final: forks that do not descend from it go, with their
// states, and so do all states before it. Blocks of its own past stay. It is one
// transaction. Readers with an older snapshot go on reading what they saw.
// ErrNotFound if the block is not here; ErrFinalized if it is not a descendant of
// the one that is final.
func (s *Store) Finalize(ctx context.Context, id ID) (Pruned, error) {
	var p Pruned
	err := s.db.Update(ctx, func(tx *engine.Tx) error {
		p = Pruned{}
		for g := range byte(importsMax) { // first: an import that commits now waits for us
			if err := tx.Put(s.guards, []byte{g}, id.key()); err != nil {
				return err
			}
		}
		f := &finalizer{s: s, tx: tx, id: id}
		if err := f.ancestors(); err != nil {
			return err
		}
		var err error
		if p.Blocks, err = f.prune(s.blocks, f.from, f.dropsBlock); err != nil {
			return err
		}
		if p.States, err = f.prune(s.states, 0, f.dropsState); err != nil {
			return err
		}
		return tx.Put(s.meta, finalizedKey, id.key())
	})
	if err != nil {
		return Pruned{}, fmt.Errorf("statestore: finalize %v: %w", id, err)
	}
	return p, nil
}

// finalizer is one attempt. Memory grows with the blocks since the last one that
// was final, not with states.
type finalizer struct {
	s    *Store
	tx   *engine.Tx
	id   ID
	from uint64        // slot of the block that was final
	past map[root]bool // blocks between that one and the new one, both included
	live map[root]bool // the new one and its descendants, as far as seen
}

// ancestors walks from the new final block back to the old one.
func (f *finalizer) ancestors() error {
	old, err := finalized(f.tx, f.s)
	if err != nil {
		return err
	}
	f.from = old.Slot
	f.past, f.live = map[root]bool{}, map[root]bool{f.id.Root: true}
	for at := f.id; ; {
		raw, err := f.tx.Get(f.s.blocks, at.key())
		if err != nil {
			return err
		}
		f.past[at.Root] = true
		if at == old {
			return nil
		}
		if at.Slot <= old.Slot {
			return ErrFinalized
		}
		b, err := decodeBlock(raw)
		if err != nil {
			return err
		}
		at = b.Parent
	}
}

// dropsBlock decides about a block; they come in the order of their slots.
func (f *finalizer) dropsBlock(id ID, value []byte) (bool, error) {
	if id.Slot <= f.id.Slot {
		return !f.past[id.Root], nil
	}
	b, err := decodeBlock(value)
	if err != nil {
		return false, err
	}
	if !f.live[b.Parent.Root] {
		return true, nil
	}
	f.live[id.Root] = true
	return false, nil
}

func (f *finalizer) dropsState(id ID, _ []byte) (bool, error) {
	return id.Slot < f.id.Slot || !f.live[id.Root], nil
}

// prune deletes what drop says, from a slot on. It deletes between scans: a scan
// looks again after each write of its transaction.
func (f *finalizer) prune(t *engine.Table, from uint64, drop func(ID, []byte) (bool, error)) (n int, err error) {
	at := num(from)
	doomed := make([]ID, 0, pruneStride)
	for at != nil {
		doomed = doomed[:0]
		last := at
		at = nil
		for row, err := range f.tx.Scan(t, engine.Range{From: last}) {
			if err != nil {
				return n, err
			}
			id, err := decodeID(row.Key)
			if err != nil {
				return n, err
			}
			doom, err := drop(id, row.Value)
			if err != nil {
				return n, err
			}
			if doom {
				doomed = append(doomed, id)
			}
			if len(doomed) == cap(doomed) {
				at = append(id.key(), 0) // strictly after it
				break
			}
		}
		for _, id := range doomed {
			if err := f.tx.Delete(t, id.key()); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}
