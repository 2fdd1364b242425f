package versionchain

import (
	"sort"

	"github.com/sakerdb/saker/internal/base"
)

// Horizon is the set of timestamps as of which somebody may read: the active
// snapshots and the clock, ascending. Whoever begins later reads at the clock
// or after it (S1).
type Horizon []base.CommitTS

// Oldest returns the least timestamp that is still read.
func (h Horizon) Oldest() base.CommitTS { return h[0] }

// Needs reports whether some reader may see a version of timestamp ts whose next
// newer version has timestamp newer (MaxTS when there is none). A horizon is a
// little older than its use: between two commits that it does not know yet,
// somebody may have begun.
func (h Horizon) Needs(ts, newer base.CommitTS) bool {
	if newer == base.MaxTS {
		return true
	}
	i := sort.Search(len(h), func(i int) bool { return h[i] >= ts })
	return i == len(h) || h[i] < newer
}

// Settled counts what Settle left in a chain.
type Settled struct {
	Live    int // versions of transactions without outcome, or not published
	Unclean int // committed versions that no frame holds
	Kept    int // versions in all
	Dropped int // versions dropped
	Pinned  int // versions that somebody holds
	Chilled int // kept versions whose data is in the log
}

// Settle brings the chain of record i up to date, under the leaf's exclusive
// lock: it stamps versions of published commits, drops garbage (aborted, rolled
// back, replaced at the same timestamp) and prunes what no reader in h can see,
// between two snapshots too. covered says that frames are listed below the
// chain, so that its tombstones must stay (P5).
//
// Worked example, readers at 25 and 60 (the clock):
//
//	[t9 d] → [50 c] → [40 b] → [20 a] → [10 z]
//	 live     60       –        25       –        b and z go
func (p *Page) Settle(i int, h Horizon, reg *Registry, covered bool, s *Settled) error {
	newer := base.MaxTS // of the committed version above, locks apart
	var lastKept, lastTomb uint16
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		next := v.Prior
		drop := v.Dropped()
		if v.Undecided() && !drop {
			o := reg.Get(v.Txn())
			if o == nil {
				return unknownOwner(v.Txn())
			}
			st, ts := o.Status()
			switch {
			case st == Aborted || o.DeadEpoch(v.Epoch):
				drop = true
			case st == Committed:
				v.Stamp = uint64(ts)
				if v.Flags&FlagListed != 0 {
					v.Flags &^= FlagListed
					v.Uses--
				}
				p.putVersion(int(off), &v)
			default:
				s.Live++
			}
		}
		if !v.Undecided() && !drop {
			switch {
			case v.Kind() == base.KindLock:
				drop = v.TS() <= h.Oldest()
			default:
				drop = v.TS() == newer || !h.Needs(v.TS(), newer)
				newer = v.TS()
			}
		}
		if drop && p.Drop(off) {
			s.Dropped++
		} else {
			lastKept = off
			s.Kept++
			if v.Pinned() {
				s.Pinned++
			}
			if v.Flags&FlagChilled != 0 {
				s.Chilled++
			}
			if !v.Undecided() && v.Flags&FlagClean == 0 {
				s.Unclean++
			}
			lastTomb = 0
			if !v.Undecided() && v.Kind() == base.KindTombstone {
				lastTomb = off
			}
		}
		off = next
	}
	// An oldest tombstone hides nothing when no frame lies below it.
	if lastTomb != 0 && lastTomb == lastKept && !covered {
		v := p.Version(lastTomb)
		if v.TS() <= h.Oldest() && p.Drop(lastTomb) {
			s.Kept--
			s.Dropped++
			if v.Flags&FlagClean == 0 {
				s.Unclean--
			}
			if v.Flags&FlagChilled != 0 {
				s.Chilled--
			}
		}
	}
	return nil
}
