package engine

import (
	"context"
	"errors"
	"maps"

	"github.com/sakerdb/saker/internal/base"
)

// unreadable is what a pass of the collector met of leaves that it could not rewrite,
// since a frame of theirs cannot be read. They keep their runs; those of others go.
// Whoever asked for the pass is told.
type unreadable struct {
	err  error // the first
	row  int   // leaves one after the other
	met  bool  // since the last batch
	runs map[base.RunID]bool
}

// maxUnreadable is after how many such leaves, one after the other, a pass ends: a disk
// that reads nothing is not asked for everything.
const maxUnreadable = 8

// bear takes what became of one leaf, and returns why the pass must end, or nil.
func (u *unreadable) bear(ctx context.Context, db *DB, err error) error {
	if err == nil {
		u.row = 0
		return nil
	}
	if ctx.Err() != nil || db.failed() != nil || errors.Is(err, ErrRecordMemory) || errors.Is(err, ErrClosed) {
		return err
	}
	if u.err == nil {
		u.err = err
	}
	u.met = true
	if u.row++; u.row > maxUnreadable {
		return err
	}
	return nil
}

// spare takes the victims of a batch that met such leaves out of the rest of the pass,
// and reports whether it did.
func (u *unreadable) spare(victims map[base.RunID]bool) bool {
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
