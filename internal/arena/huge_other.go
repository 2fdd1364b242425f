//go:build unix && !linux && !race && !invariants

package arena

func adviseHuge([]byte) bool { return false }

func populate([]byte) {}
