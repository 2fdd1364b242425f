package versionchain

import (
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
)

// Changed reports whether o is another transaction than the reader's and has a
// timestamp above the snapshot: what it wrote in epoch e is a change of what r has
// read (S4). A commit under way counts as soon as it has its timestamp.
func (r *Reader) Changed(o *Outcome, e base.Epoch) bool {
	if o == r.Self {
		return false
	}
	st, ts := o.Status()
	return (st == Committed || st == Committing) && ts > r.Snapshot && !o.DeadEpoch(e)
}

// Changed looks in the chain of record i for a version of another transaction with
// a timestamp above r's snapshot; locks are no change. Not known: the chain does
// not tell, the frames must be asked.
//
// Worked example, for t9 with snapshot 45:
//
//	[t9 value] → [t8, committing 52, value] → …    changed
//	[t7 active] → [50 lock] → [40 value] → …       not changed: who is active will
//	                                               get a greater timestamp than t9,
//	                                               or tells it (txn)
//	[t7 active]                                    not known
func (p *Page) Changed(i int, r *Reader) (changed, known bool, err error) {
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		off = v.Prior
		if v.Dropped() || v.Kind() == base.KindLock {
			continue
		}
		if !v.Undecided() {
			return v.TS() > r.Snapshot && (v.TS() != r.Snapshot+1 || !seeded.On(seeded.ValidatedTooOld)), true, nil
		}
		o := r.Self
		if o == nil || o.ID != v.Txn() {
			if o = r.Reg.Get(v.Txn()); o == nil {
				return false, false, unknownOwner(v.Txn())
			}
		}
		st, ts := o.Status()
		if o == r.Self || ts == 0 || st == Aborted || o.DeadEpoch(v.Epoch) {
			continue // its own, garbage, or of somebody who has no timestamp yet
		}
		return ts > r.Snapshot, true, nil
	}
	return false, false, nil
}
