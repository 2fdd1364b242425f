package recordcache

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// Check verifies what memory can show of the invariants, leaf by leaf, compares
// each leaf with its entry in the leaf map, and reports all that it finds. It may
// run beside everything else. The error is that of ctx.
func (c *Cache) Check(ctx context.Context, report func(error)) error {
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		if !l.dead {
			l.check(c, report)
		}
		l.mu.RUnlock()
		c.checkWhole(l, report)
		c.checkMapped(l, report)
		return ctx.Err() == nil
	})
	if err := c.arena.Check(); err != nil {
		report(err)
	}
	return ctx.Err()
}

// Sums returns what the leaves and owners have charged to record memory, and the
// bytes of their blocks. While leaves change it is of no one moment.
func (c *Cache) Sums() (charged, blocks int64) {
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		charged += l.charged
		blocks += int64(cap(l.page.Block()))
		for _, b := range l.mem {
			blocks += int64(cap(b))
		}
		l.mu.RUnlock()
		return true
	})
	c.mu.RLock()
	for _, d := range c.owners {
		if d.charged {
			charged += d.cost
		}
	}
	c.mu.RUnlock()
	return charged, blocks
}

// bad makes a finding about the leaf. REQUIRES: l.mu is held, or l.low otherwise
// known not to change.
func (l *Leaf) bad(inv, format string, args ...any) error {
	return &base.CorruptionError{
		File: "record memory",
		Why:  fmt.Sprintf("%s: table %d leaf %x: %s", inv, l.table.ID, l.low, fmt.Sprintf(format, args...)),
	}
}

// check verifies one leaf. REQUIRES: l.mu is held.
func (l *Leaf) check(c *Cache, report func(error)) {
	bad := func(inv, format string, args ...any) { report(l.bad(inv, format, args...)) }
	if l.high != nil && bytes.Compare(l.low, l.high) >= 0 {
		bad("P4", "fences %x, %x", l.low, l.high)
	}
	if l.mem != nil && len(l.mem) != l.listLen() {
		bad("P1", "%d resident copies of %d frames", len(l.mem), l.listLen())
	}
	if l.listLen() > 0 && !l.mapped {
		bad("L10", "lists frames but has no entry in the map")
	}
	if l.partial && l.list == nil {
		bad("P9", "marked partial without a list")
	}
	if cost := l.cost(); l.charged != cost {
		bad("M1", "its descriptor costs %d bytes, %d are charged", cost, l.charged)
	}
	l.checkList(bad)
	live, unclean := 0, 0
	for i := range l.page.Len() {
		key := l.page.Key(i)
		if !l.covers(key) {
			bad("P4", "key %x outside its fences", key)
		}
		if i > 0 && bytes.Compare(l.page.Key(i-1), key) >= 0 {
			bad("P1", "keys %x, %x out of order", l.page.Key(i-1), key)
		}
		if err := l.checkChain(c, i, l.bad, &live, &unclean); err != nil {
			report(err)
		}
	}
	if live > l.live {
		bad("P6", "%d live versions, %d counted", live, l.live)
	}
	if unclean > 0 && !l.dirty {
		bad("L6", "%d committed versions that no frame holds in a leaf marked clean", unclean)
	}
}

// checkList verifies the frame list. REQUIRES: l.mu is held.
func (l *Leaf) checkList(bad func(inv, format string, args ...any)) {
	for i := range l.listLen() {
		f := &l.list.frames[i]
		if l.list.index(f.Addr) != i {
			bad("L10", "frame at %d of run %x is listed twice", f.Off, uint64(f.Run))
		}
		if (f.Owner != 0) != (f.out != nil) || f.out != nil && f.out.ID != f.Owner {
			bad("L7", "frame %d of owner %v has another outcome", i, f.Owner)
		}
		if f.Owner == 0 && f.Newest == 0 {
			bad("P2", "committed frame at %d of run %x without a timestamp", f.Off, uint64(f.Run))
		}
	}
}

// mappedLeaf is what the leaf map must say of a leaf.
type mappedLeaf struct {
	list      *frameList
	low, high []byte
	mapped    bool
}

func (l *Leaf) asMapped() (m mappedLeaf, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return mappedLeaf{list: l.list, low: l.low, high: l.high, mapped: l.mapped}, !l.dead
}

// checkMapped compares a leaf with the leaf map (L10). The two change together
// under the leaf's lock: if the leaf is the same before and after the look at the
// map, then they must agree. REQUIRES: no lock is held.
func (c *Cache) checkMapped(l *Leaf, report func(error)) {
	m, ok := l.asMapped()
	for range 8 { // a leaf that changes all the time is checked another time
		if !ok {
			return
		}
		en, found, _, holeHigh, err := c.space.Lookup(l.table.ID, m.low)
		if err != nil {
			report(err)
			return
		}
		var why string
		switch {
		case found && m.mapped:
			why = m.differs(&en)
		case found:
			why = "is not in the map, which has an entry there"
		case m.mapped:
			why = "is in the map, which has no entry there"
		case holeHigh != nil && (m.high == nil || bytes.Compare(holeHigh, m.high) < 0):
			why = "is not in the map, which has an entry within its fences"
		}
		if found {
			c.space.ReleaseEntry(&en)
		}
		if why == "" {
			return
		}
		now, alive := l.asMapped()
		if alive && now.list == m.list && now.mapped == m.mapped && bytes.Equal(now.low, m.low) && bytes.Equal(now.high, m.high) {
			report(&base.CorruptionError{
				File: "record memory",
				Why:  fmt.Sprintf("L10: table %d leaf %x: %s", l.table.ID, m.low, why),
			})
			return
		}
		m, ok = now, alive
	}
}

// differs says how the entry differs from the leaf, empty if it does not.
func (m *mappedLeaf) differs(en *tablespaceEntry) string {
	if !bytes.Equal(en.Low, m.low) || !bytes.Equal(en.High, m.high) || (en.High == nil) != (m.high == nil) {
		return fmt.Sprintf("fences %x, %x are %x, %x in the map", m.low, m.high, en.Low, en.High)
	}
	n := 0
	if m.list != nil {
		if m.list.seq != en.Seq {
			return fmt.Sprintf("is of edit %d, in the map of %d (P7)", m.list.seq, en.Seq)
		}
		n = len(m.list.frames) + len(m.list.gone)
	}
	if n != len(en.Frames) {
		return fmt.Sprintf("lists %d frames, %d in the map", n, len(en.Frames))
	}
	for i := range en.Frames {
		f := &en.Frames[i]
		if m.list.index(f.Addr) < 0 && !slices.Contains(m.list.gone, f.Run) {
			return fmt.Sprintf("does not list the frame at %d of run %x", f.Off, uint64(f.Run))
		}
	}
	return ""
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
