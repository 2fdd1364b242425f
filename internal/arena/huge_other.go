//go:build unix && !linux && !race && !saker_invariants

package arena

func adviseHuge([]byte) bool { return false }

func populate([]byte) {}
