package recordcache

import "sync"

// ring is the circular list of all present leaves, in which walkers keep their
// place by a marker of their own. A leaf that splits off is entered right
// behind its origin, so that no walker that has yet to see the origin's rows
// misses them.
type ring struct {
	mu   sync.Mutex // guards prev, next, inRing of all leaves, and n
	root Leaf       // a marker that is always there
	hand Leaf       // the scavenger's clock hand
	n    int
}

func (r *ring) init() {
	r.root.prev, r.root.next = &r.root, &r.root
	r.insertAfter(&r.root, &r.hand)
}

func (r *ring) insertAfter(at, l *Leaf) {
	l.prev, l.next = at, at.next
	at.next.prev = l
	at.next = l
}

func unlink(l *Leaf) {
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
}

// add enters l at the end, just before the root marker.
func (r *ring) add(l *Leaf) {
	r.mu.Lock()
	r.insertAfter(r.root.prev, l)
	l.inRing = true
	r.n++
	r.mu.Unlock()
}

// addAfter enters l right behind at.
func (r *ring) addAfter(at, l *Leaf) {
	r.mu.Lock()
	if !at.inRing {
		at = r.root.prev
	}
	// A marker behind at belongs to a walker that may be about to look at it:
	// it must stay before l. End markers must stay behind l.
	last := at
	for m := at.next; !m.inRing && m != &r.root; {
		next := m.next
		if !m.endMark {
			unlink(m)
			r.insertAfter(last, m)
			last = m
		}
		m = next
	}
	r.insertAfter(last, l)
	l.inRing = true
	r.n++
	r.mu.Unlock()
}

func (r *ring) remove(l *Leaf) {
	r.mu.Lock()
	if l.inRing {
		unlink(l)
		l.inRing = false
		r.n--
	}
	r.mu.Unlock()
}

func (r *ring) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// tick moves the clock hand over up to len(dst) leaves and returns them.
func (r *ring) tick(dst []*Leaf) []*Leaf {
	r.mu.Lock()
	defer r.mu.Unlock()
	dst = dst[:0]
	for range r.n {
		if len(dst) == cap(dst) {
			break
		}
		at := r.hand.next
		for !at.inRing {
			at = at.next
		}
		unlink(&r.hand)
		r.insertAfter(at, &r.hand)
		dst = append(dst, at)
	}
	return dst
}

// walk calls fn, with no lock held, for every leaf that was in the ring when
// walk began and is still there, until fn returns false.
func (r *ring) walk(fn func(*Leaf) bool) {
	var from Leaf
	end := Leaf{endMark: true}
	r.mu.Lock()
	r.insertAfter(&r.root, &from)
	r.insertAfter(r.root.prev, &end)
	r.mu.Unlock()
	for {
		r.mu.Lock()
		at := from.next
		isLeaf := at.inRing
		if at != &end {
			unlink(&from)
			r.insertAfter(at, &from)
		}
		r.mu.Unlock()
		if at == &end || (isLeaf && !fn(at)) {
			break
		}
	}
	r.mu.Lock()
	unlink(&from)
	unlink(&end)
	r.mu.Unlock()
}
