package recordcache

import (
	"fmt"

	"github.com/sakerdb/saker/versionchain"
)

// Nobody starves (M2, M3). The argument, which the code below and its callers
// keep true:
//
//  1. A waiter holds nothing that others need: no lock, no pin (M7), and what a
//     transaction keeps in charged buffers is taken from it (txn.Unburden).
//  2. Everything else that is reserved belongs to present leaves, and each can be
//     evacuated without any memory. What its frames cost in its list is charged
//     first; or paid with what the page gives back (Arena.Trade); or, when the
//     page goes whole, the leaf goes to the leaf map with its list. Only rows of
//     a commit under way stay, and commits wait for no memory.
//  3. So in the end the arena is free but for outcomes of decided owners. A writer
//     then takes all that it needs to begin, descriptor, list and page, in one
//     step (bring), and writes under the lock that it has held since: no waiter
//     sits on a part while others sit on the rest.
//  4. That need is bounded: a list longer than maxListCost is made shorter in the
//     leaf map first (shorten.go), which needs no record memory. Only the list of
//     large values of one record, as many as savepoints are live, cannot be: who
//     needs more for it than there is gets ErrRecordMemory at once.
//
// Whoever waits is served in order, and a round of the scavenger that did not
// serve the first in line is followed by a harder one.

// listCost is what the frames of a list cost, in bytes of record memory.
func listCost(frames []frame) int64 {
	n := int64(0)
	for i := range frames {
		f := &frames[i]
		n += frameBytes + int64(len(f.Filter)+len(f.First)+len(f.Last))
	}
	return n * heapFactor
}

// leafCost is what a leaf costs without its list.
func leafCost(low, high []byte) int64 {
	return int64(leafBytes+len(low)+len(high)) * heapFactor
}

// priceOf is what a frame of these rows of one owner will cost in a list.
func priceOf(rows []versionchain.Row) int64 {
	n := int64(frameBytes + versionchain.FilterSize(len(rows)))
	if first, last := rows[0].Key, rows[len(rows)-1].Key; isLarge(rows) || len(first)+len(last) <= maxBounds {
		n += int64(len(first) + len(last))
	}
	return n * heapFactor
}

// price is what the frames of everything collected will cost.
func (w *worker) price() (n int64) {
	for i := range w.owners {
		if len(w.owners[i].rows) > 0 {
			n += priceOf(w.owners[i].rows)
		}
	}
	return n
}

// maxListCost is the most that the list of a leaf may cost when it becomes
// present: an eighth of record memory.
func (c *Cache) maxListCost() int64 { return c.arena.Cap() / 8 }

// pays reports whether the page, once what is marked has left it, gives back
// what the frames cost, or goes whole. REQUIRES: l.mu is held.
func (l *Leaf) pays(price int64) bool {
	size := l.page.CopySize(0, l.page.Len())
	return size == 0 || int64(len(l.page.Block())-wholeUnits(size)) >= price
}

func wholeUnits(n int) int { return (n + 1023) / 1024 * 1024 }

// settleCharge charges or gives back the difference between what the leaf costs
// and what is charged for it; it reports false when there is no room, in which
// case a leaf without rows must collapse. REQUIRES: l.mu is held exclusively.
func (l *Leaf) settleCharge(c *Cache) bool {
	switch delta := l.cost() - l.charged; {
	case delta < 0:
		c.arena.Uncharge(-delta)
		l.charged += delta
	case delta > 0:
		if !c.arena.Charge(delta) {
			return false
		}
		l.charged += delta
	}
	return true
}

// Holders says what leaves and outcomes hold of record memory, for ErrRecordMemory.
// While leaves change it is of no one moment.
func (c *Cache) Holders() string {
	var leaves, pinned int
	var lists, pages, outcomes int64
	c.ring.walk(func(l *Leaf) bool {
		l.mu.RLock()
		leaves++
		lists += l.charged
		pages += int64(cap(l.page.Block()))
		if l.pinned() {
			pinned++
		}
		l.mu.RUnlock()
		return true
	})
	c.mu.RLock()
	owners := len(c.owners)
	outcomes = c.outcomes
	c.mu.RUnlock()
	return fmt.Sprintf("%d leaves, %d of them with pinned versions, hold %d bytes in pages and %d for themselves and their lists; "+
		"outcomes of %d transactions %d bytes", leaves, pinned, pages, lists, owners, outcomes)
}

// pinned reports whether some version of the leaf has a user (M4). REQUIRES: l.mu is
// held.
func (l *Leaf) pinned() bool {
	for i := range l.page.Len() {
		for off := l.page.Newest(i); off != 0; {
			v := l.page.Version(off)
			if v.Pinned() {
				return true
			}
			off = v.Prior
		}
	}
	return false
}
