package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// Result tells what an import did.
type Result struct {
	Permanent int // blocks of the segment that are permanent now
	Stored    int // states stored
	Adopted   int // states that were there, permanent
	Attempts  int // more than 1 if other imports came first
}

// Import judges a segment of blocks, each on the one before it or on any block
// that is here, and makes the valid ones permanent, with all their states, at one
// moment. The first invalid one ends the segment and leaves nothing, however much
// was stored for it; the error tells about it while those before it stand.
// Blocks that are here already are passed over. ErrInvalid, ErrUnknownParent,
// ErrFinalized; after any other error nothing of the segment is stored.
func (s *Store) Import(ctx context.Context, segment ...*Block) (Result, error) {
	var guard byte
	select {
	case guard = <-s.guard:
		defer func() { s.guard <- guard }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	attempts := 0
	im := &importer{}
	var refusal error
	err := s.db.Update(ctx, func(tx *engine.Tx) error {
		attempts++
		im, refusal = &importer{s: s, tx: tx}, nil
		var err error
		if refusal, err = im.segment(ctx, segment); err != nil {
			return err
		}
		if im.res.Permanent == 0 && refusal != nil {
			return refusal // rolls back
		}
		return im.lockGuard(guard)
	})
	switch {
	case err == nil:
		err = refusal // what came before it is committed
	case refusal == nil || !errors.Is(err, refusal):
		im = &importer{}
	}
	im.res.Attempts = attempts
	if err != nil {
		err = fmt.Errorf("statestore: import: %w", err)
	}
	return im.res, err
}

// importer is one attempt at a segment. It keeps two states in memory.
type importer struct {
	s    *Store
	tx   *engine.Tx
	res  Result
	cur  State
	next State
}

// segment imports blocks up to the first that is refused. A savepoint around each
// takes back what a refused block stored, and nothing else.
func (im *importer) segment(ctx context.Context, blocks []*Block) (refusal, err error) {
	for _, b := range blocks {
		id := b.ID()
		sp, err := im.tx.Savepoint()
		if err != nil {
			return nil, err
		}
		before := im.res
		switch err := im.block(ctx, b, id); {
		case err == nil:
		case refused(err):
			im.res = before
			return fmt.Errorf("block %v: %w", id, err), im.tx.RollbackTo(sp)
		default:
			return nil, fmt.Errorf("block %v: %w", id, err)
		}
		if err := im.tx.Release(sp); err != nil {
			return nil, err
		}
		im.res.Permanent++
	}
	return nil, nil
}

// block stores all states of a block and then judges it.
func (im *importer) block(ctx context.Context, b *Block, id ID) error {
	s := im.s
	known, err := has(im.tx, s.blocks, id)
	if known || err != nil {
		return err
	}
	if err := im.place(b); err != nil {
		return err
	}
	if err := im.states(b, id); err != nil {
		return err
	}
	if err := im.cur.apply(b, id); err != nil {
		return err
	}
	if err := im.tx.Insert(s.states, id.key(), im.cur); err != nil {
		return err
	}
	im.res.Stored++
	s.o.Trace(Event{Step: StepVerifying, Block: id, State: id})
	if im.cur.root() != b.StateRoot {
		return fmt.Errorf("%w: state root", ErrInvalid)
	}
	if s.o.Verify != nil {
		if err := s.o.Verify(ctx, b); ctx.Err() != nil {
			return ctx.Err() // no judgement
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return im.tx.Insert(s.blocks, id.key(), b.encode())
}

// place checks where the block wants to be.
func (im *importer) place(b *Block) error {
	if b.Slot <= b.Parent.Slot || b.Slot-b.Parent.Slot > slotsMax || len(b.Transfers) > transfersMax {
		return fmt.Errorf("%w: slot or size", ErrInvalid)
	}
	fin, err := finalized(im.tx, im.s)
	if err != nil {
		return err
	}
	if b.Parent.Slot < fin.Slot {
		return ErrFinalized
	}
	here, err := has(im.tx, im.s.blocks, b.Parent)
	if err == nil && !here {
		err = ErrUnknownParent
	}
	return err
}

// states goes from the parent's state to the block's slot: a permanent state is
// adopted, one that is missing is computed and stored. If another import stores
// the same one, Insert waits for its outcome: if it failed the state becomes ours,
// if not this attempt ends with a conflict and the next one adopts.
func (im *importer) states(b *Block, id ID) (err error) {
	s, at := im.s, b.Parent
	im.cur, err = im.tx.AppendGet(im.cur[:0], s.states, at.key())
	if err != nil {
		return fmt.Errorf("state of parent: %w", err)
	}
	for at.Slot++; at.Slot <= b.Slot; at.Slot++ {
		key := at.key()
		im.next, err = im.tx.AppendGet(im.next[:0], s.states, key)
		switch {
		case err == nil:
			im.cur, im.next = im.next, im.cur
			im.res.Adopted++
			s.o.Trace(Event{Step: StepAdopted, Block: id, State: at})
		case errors.Is(err, ErrNotFound):
			s.o.Trace(Event{Step: StepMissing, Block: id, State: at})
			im.cur.advance()
			if err := im.tx.Insert(s.states, key, im.cur); err != nil {
				return err
			}
			im.res.Stored++
			s.o.Trace(Event{Step: StepStored, Block: id, State: at})
		default:
			return err
		}
	}
	return nil
}

// lockGuard is the last statement of an import. Finalize writes all guards, so one
// of two that overlap runs again: what an import relies on is not deleted under it.
func (im *importer) lockGuard(guard byte) error {
	_, err := im.tx.GetForUpdate(im.s.guards, []byte{guard})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	im.s.o.Trace(Event{Step: StepFinishing})
	return nil
}

func has(tx *engine.Tx, t *engine.Table, id ID) (bool, error) {
	_, err := tx.Get(t, id.key())
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func finalized(tx *engine.Tx, s *Store) (ID, error) {
	b, err := tx.Get(s.meta, finalizedKey)
	if err != nil {
		return ID{}, fmt.Errorf("finalized: %w", err)
	}
	return decodeID(b)
}
