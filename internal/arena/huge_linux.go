//go:build linux && !race && !saker_invariants

package arena

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages and reports whether the kernel knows them.
func adviseHuge(b []byte) bool { return unix.Madvise(b, unix.MADV_HUGEPAGE) == nil }

// populate touches b. A kernel that cannot leaves it to the first use.
func populate(b []byte) { _ = unix.Madvise(b, unix.MADV_POPULATE_WRITE) }
