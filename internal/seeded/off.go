//go:build !saker_seeded_bugs

package seeded

// On reports whether the bug is on.
func On(Bug) bool { return false }
