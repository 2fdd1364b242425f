package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

var errInconsistent = errors.New("records do not agree")

// View is the registry at one moment: height, hash and all records belong
// together, whatever changes meanwhile. It is valid inside Query.
type View struct {
	State state
	r     *Registry
	tx    *engine.Tx
	c     change
}

// Query runs fn on a snapshot. It waits for no change, and none waits for it.
func (r *Registry) Query(ctx context.Context, fn func(*View) error) error {
	return r.db.View(ctx, func(tx *engine.Tx) error {
		b, err := tx.Get(r.tables[stateTable], stateKey)
		if err != nil {
			return fmt.Errorf("registry: state: %w", err)
		}
		st, err := decodeState(b)
		if err != nil {
			return err
		}
		return fn(&View{State: st, r: r, tx: tx, c: change{r: txRecords{r, tx}, st: st}})
	})
}

// Staker returns a staker; ids count from 1. engine.ErrNotFound.
func (v *View) Staker(id uint64) (staker, error) { return v.c.staker(id) }

// Balance returns the balance of an account, 0 for one that was never used.
func (v *View) Balance(account uint64) (uint64, error) { return v.c.balance(account) }

// Turn returns who may produce in the current slot.
func (v *View) Turn() uint64 { return turnOf(v.State.Slot, v.State.Stakers) }

// Block returns a row of the block index. engine.ErrNotFound.
func (v *View) Block(height uint64) (blockRow, error) {
	b, err := v.c.r.get(blockTable, key64(height))
	if err != nil {
		return blockRow{}, fmt.Errorf("registry: block %d: %w", height, err)
	}
	return decodeBlockRow(b)
}

// Size is how much the registry is, without the block index.
type Size struct{ Records, Bytes int }

// Check reads all records of the registry and tells whether they agree.
func (v *View) Check() (Size, error) {
	var size Size
	var sum digest
	var money, turns, produced uint64
	for t := stakerTable; t <= accountTable; t++ {
		for row, err := range v.tx.Scan(v.r.tables[t], engine.Range{}) {
			if err != nil {
				return size, fmt.Errorf("registry: check: %w", err)
			}
			size.Records++
			size.Bytes += len(row.Key) + len(row.Value)
			sum.add(recordSum(t, row.Key, row.Value))
			switch t {
			case stakerTable:
				s, err := decodeStaker(row.Value)
				if err != nil {
					return size, err
				}
				produced += s.Produced
				turns += s.Produced + s.Missed
			case accountTable:
				n, err := decodeNumber(row.Value)
				if err != nil {
					return size, err
				}
				money += n
			default:
			}
		}
	}
	st := &v.State
	over := st.Slot // turns that were taken: all but slot 0 and an empty current one
	if !st.Filled {
		over--
	}
	switch {
	case sum != st.Digest:
		return size, disagree(st, "digest")
	case money != st.Supply:
		return size, disagree(st, fmt.Sprintf("balances of %d, supply", money))
	case produced != st.Height:
		return size, disagree(st, fmt.Sprintf("%d produced, height", produced))
	case turns != over:
		return size, disagree(st, fmt.Sprintf("%d turns, slot", turns))
	}
	return size, v.checkNewest()
}

// checkNewest compares the state with the newest row of the block index.
func (v *View) checkNewest() error {
	st := &v.State
	for row, err := range v.tx.Scan(v.r.tables[blockTable], engine.Range{Reverse: true, Limit: 1}) {
		if err != nil {
			return fmt.Errorf("registry: check: %w", err)
		}
		b, err := decodeBlockRow(row.Value)
		if err != nil {
			return err
		}
		if b.Block.Height != st.Height || b.Hash != st.Hash || b.Supply != st.Supply || b.Block.Slot > st.Slot {
			return disagree(st, "newest block")
		}
		return nil
	}
	if st.Height != 0 {
		return disagree(st, "no block")
	}
	return nil
}

func disagree(st *state, what string) error {
	return fmt.Errorf("registry: %w: height %d, slot %d: %s", errInconsistent, st.Height, st.Slot, what)
}
