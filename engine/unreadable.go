package engine

import (
	"context"
	"errors"
	"maps"

	"github.com/sakerdb/saker/internal/base"
)

// unreadable is what a pass of the collector met of leaves that it could not rewrite,
// since a frame of theirs cannot be read, and of checkpoints that failed. Such leaves
// keep their runs; those of others go. Whoever asked for the pass is told.
type unreadable struct {
	err   error // the first
	row   int   // leaves one after the other, of a batch
	met   bool  // since the last batch
	ended int   // batches one after the other that ended for a row, no leaf rewritten
	runs  map[base.RunID]bool
}

// maxUnreadable is after how many such leaves, one after the other, a batch ends: a bad
// run has many. After so many such batches the pass ends, too: a disk that reads nothing
// is not asked for everything.
const maxUnreadable = 8

// note takes what became of one leaf, or of a checkpoint, and returns why the pass must
// end, or nil.
func (u *unreadable) note(ctx context.Context, db *DB, err error) error {
	if err == nil || ctx.Err() != nil || db.failed() != nil || errors.Is(err, ErrRecordMemory) || errors.Is(err, ErrClosed) {
		return err
	}
	if u.err == nil {
		u.err = err
	}
	return nil
}

// bear is note for a leaf of a batch; the batch may have to end, too: see endsPass.
func (u *unreadable) bear(ctx context.Context, db *DB, err error) error {
	if err == nil {
		u.row, u.ended = 0, 0
		return nil
	}
	if err := u.note(ctx, db, err); err != nil {
		return err
	}
	u.met = true
	if u.row++; u.row > maxUnreadable {
		return err
	}
	return nil
}

// endsPass returns err, which ended a batch, if the pass must end for it, or nil.
func (u *unreadable) endsPass(err error) error {
	if err == nil || u.row <= maxUnreadable {
		return err
	}
	if u.ended++; u.ended > maxUnreadable {
		return err
	}
	return nil
}

// spare takes the victims of a batch that met such leaves out of the rest of the pass,
// and reports whether it did.
func (u *unreadable) spare(victims map[base.RunID]bool) bool {
	u.row = 0
	if !u.met {
		return false
	}
	u.met = false
	if u.runs == nil {
		u.runs = map[base.RunID]bool{}
	}
	maps.Copy(u.runs, victims)
	return true
}
