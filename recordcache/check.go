package recordcache

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// Check verifies what memory can show of the invariants, leaf by leaf, and
// returns all that it finds. It may run beside everything else.
func (c *Cache) Check() error {
	var errs []error
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		if !l.dead {
			if err := l.check(c); err != nil {
				errs = append(errs, err)
			}
		}
		l.mu.RUnlock()
		return len(errs) < 100
	})
	if over := c.arena.Overdrawn(); over > 0 {
		errs = append(errs, fmt.Errorf("saker: check M1: record memory was overdrawn by %d bytes", over))
	}
	return errors.Join(errs...)
}

// check verifies one leaf. REQUIRES: l.mu is held.
func (l *Leaf) check(c *Cache) error {
	bad := func(inv, format string, args ...any) error {
		return &base.CorruptionError{
			File: "record memory",
			Why:  fmt.Sprintf("%s: table %d leaf %x: %s", inv, l.table.ID, l.low, fmt.Sprintf(format, args...)),
		}
	}
	if l.high != nil && bytes.Compare(l.low, l.high) >= 0 {
		return bad("P4", "fences %x, %x", l.low, l.high)
	}
	if l.mem != nil && len(l.mem) != l.listLen() {
		return bad("P1", "%d resident copies of %d frames", len(l.mem), l.listLen())
	}
	if (l.list != nil && l.listLen() > 0) && !l.mapped {
		return bad("L10", "lists frames but has no entry in the map")
	}
	live, unclean := 0, 0
	for i := range l.page.Len() {
		key := l.page.Key(i)
		if !l.covers(key) {
			return bad("P4", "key %x outside its fences", key)
		}
		if i > 0 && bytes.Compare(l.page.Key(i-1), key) >= 0 {
			return bad("P1", "keys %x, %x out of order", l.page.Key(i-1), key)
		}
		if err := l.checkChain(c, i, bad, &live, &unclean); err != nil {
			return err
		}
	}
	if live > l.live {
		return bad("P6", "%d live versions, %d counted", live, l.live)
	}
	if unclean > 0 && !l.dirty {
		return bad("L6", "%d committed versions that no frame holds in a leaf marked clean", unclean)
	}
	return nil
}

func (l *Leaf) checkChain(c *Cache, i int, bad func(string, string, ...any) error, live, unclean *int) error {
	key := l.page.Key(i)
	below := base.MaxTS
	var own base.TxnID
	for off := l.page.Newest(i); off != 0; {
		v := l.page.Version(off)
		if v.Dropped() {
			off = v.Prior
			continue
		}
		if v.Uses < v.Expected() {
			return bad("M4", "key %x: use count %d, expected %d", key, v.Uses, v.Expected())
		}
		if v.Undecided() {
			o := c.reg.Get(v.Txn())
			if o == nil {
				return bad("L7", "key %x: unknown transaction %v", key, v.Txn())
			}
			if st, _ := o.Status(); below != base.MaxTS && st == versionchain.Active {
				return bad("P1", "key %x: undecided version below timestamp %d", key, below)
			}
			if st, _ := o.Status(); st == versionchain.Active && !o.DeadEpoch(v.Epoch) {
				if own != 0 && own != v.Txn() {
					return bad("S3", "key %x: live versions of %v and %v", key, own, v.Txn())
				}
				own = v.Txn()
				if listed := v.Flags&versionchain.FlagListed != 0; listed == (v.Flags&versionchain.FlagClean != 0) {
					return bad("P6", "key %x: version is listed %v and clean %v", key, listed, !listed)
				}
			}
			*live++
		} else {
			if v.TS() > below {
				return bad("P1", "key %x: timestamp %d below %d", key, v.TS(), below)
			}
			below = v.TS()
			if v.Flags&versionchain.FlagClean == 0 {
				*unclean++
			}
		}
		off = v.Prior
	}
	return nil
}
