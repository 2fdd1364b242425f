//go:build saker_seeded_bugs

package seeded

import "sync/atomic"

var current atomic.Uint32

// Set turns the bug on, and any other off.
func Set(b Bug) { current.Store(uint32(b)) }

// On reports whether the bug is on.
func On(b Bug) bool { return Bug(current.Load()) == b }
