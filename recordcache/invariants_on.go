//go:build saker_invariants

package recordcache

// assert checks the leaf at the end of a critical section; a leaf that
// fails ends the program. REQUIRES: l.mu is held.
func (l *Leaf) assert(c *Cache) {
	if !l.dead {
		l.check(c, func(err error) { panic(err) })
	}
}
