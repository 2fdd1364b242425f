//go:build !saker_invariants

package recordcache

// assert does nothing without the tag saker_invariants.
func (l *Leaf) assert(*Cache) {}
