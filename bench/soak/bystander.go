package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// bystander is a small transaction beside the big ones. Before the insert it
// updates a row here and there of a committed table, a single one in each leaf,
// and then it does nothing until the insert is over. So its rows are what low
// memory must take from a transaction that never asks for memory, too few in a
// leaf to be worth a frame: they are chilled, and thawed when it comes back.
//
//	stage       rows                       every 61st     every 122nd
//	loaded      committed at the start     1              1
//	idle        while the insert runs      2              2
//	resumed     after it                   2              3
type bystander struct {
	p    *plan
	v    *verdict
	rows int64
	tx   txn
	key  []byte
	val  []byte
	got  []byte
}

const (
	bystanderEvery   = 61
	bystanderRowsMin = 512
	bystanderRowsMax = 200_000
	bystanderBase    = 1 << 41 // sets its contents apart from those of the rows

	stageLoaded  = 1
	stageIdle    = 2
	stageResumed = 3
)

func newBystander(p *plan, v *verdict) *bystander {
	return &bystander{
		p: p, v: v,
		rows: min(max(p.rows/16, bystanderRowsMin), bystanderRowsMax),
		key:  make([]byte, 8), val: make([]byte, p.size),
	}
}

// version is the version of row j at a stage.
func (y *bystander) version(j int64, stage uint32) uint32 {
	switch {
	case j%bystanderEvery != 0:
		return stageLoaded
	case j%(2*bystanderEvery) != 0:
		return min(stage, stageIdle)
	default:
		return stage
	}
}

// write puts the rows that change at a stage.
func (y *bystander) write(ctx context.Context, tx txn, stage uint32) error {
	for j := range y.rows {
		if y.version(j, stage) != stage {
			continue
		}
		binary.BigEndian.PutUint64(y.key, uint64(j))
		v := y.p.fillValue(y.val, bystanderBase+j, stage)
		if err := tx.put(tableBystander, y.key, v); err != nil {
			return fmt.Errorf("bystander: put row %d: %w", j, err)
		}
		if j%chunk == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// load commits the table.
func (y *bystander) load(ctx context.Context, s store) error {
	tx, err := s.begin(ctx, false)
	if err != nil {
		return fmt.Errorf("bystander: begin: %w", err)
	}
	if err := y.write(ctx, tx, stageLoaded); err != nil {
		return errors.Join(err, tx.rollback())
	}
	if err := tx.commit(); err != nil {
		return fmt.Errorf("bystander: commit: %w", err)
	}
	return nil
}

// start begins the idle transaction.
func (y *bystander) start(ctx context.Context, s store) (err error) {
	if y.tx, err = s.begin(ctx, false); err != nil {
		return fmt.Errorf("bystander: begin: %w", err)
	}
	return y.write(ctx, y.tx, stageIdle)
}

// resume reads back what the idle transaction wrote, and goes on with it.
func (y *bystander) resume(ctx context.Context) error {
	for j := int64(0); j < y.rows; j += bystanderEvery {
		if err := y.get(y.tx, j, stageIdle, "bystander"); err != nil {
			return err
		}
	}
	return y.write(ctx, y.tx, stageResumed)
}

// finish commits it.
func (y *bystander) finish() error {
	tx := y.tx
	y.tx = nil
	if err := tx.commit(); err != nil {
		return fmt.Errorf("bystander: commit: %w", err)
	}
	return nil
}

// get checks one row by its key.
func (y *bystander) get(tx txn, j int64, stage uint32, who string) error {
	binary.BigEndian.PutUint64(y.key, uint64(j))
	got, err := tx.get(y.got[:0], tableBystander, y.key)
	switch {
	case errors.Is(err, errNotFound):
		y.v.mismatch("%s: bystander row %d is missing", who, j)
		return nil
	case err != nil:
		return fmt.Errorf("%s: get bystander row %d: %w", who, j, err)
	}
	y.got = got
	if want := y.version(j, stage); !y.p.checkValue(got, bystanderBase+j, want) {
		y.v.mismatch("%s: bystander row %d is not of version %d", who, j, want)
	}
	return nil
}

// check reads the whole table and compares it with a stage.
func (y *bystander) check(tx txn, stage uint32, who string) error {
	var next int64
	err := tx.scan(tableBystander, nil, nil, false, func(key, value []byte) bool {
		if len(key) != 8 || binary.BigEndian.Uint64(key) != uint64(next) {
			y.v.mismatch("%s: bystander table has key %x where row %d should be", who, key, next)
			return false
		}
		if want := y.version(next, stage); !y.p.checkValue(value, bystanderBase+next, want) {
			y.v.mismatch("%s: bystander row %d is not of version %d", who, next, want)
		}
		next++
		return true
	})
	if err != nil {
		return fmt.Errorf("%s: scan of the bystander table: %w", who, err)
	}
	if next != y.rows {
		y.v.mismatch("%s: bystander table: %d rows, want %d", who, next, y.rows)
	}
	return nil
}
