// Package arena is record memory: blocks of 1 to 32 KiB out of one fixed
// budget, outside the Go heap, so that the collector neither scans nor counts
// them. When the budget is used up it says no; it never grows.
//
//	                                               cap
//	├───────────────────┬───────────────────────┬────┤
//	│ blocks (in slabs) │ charged (on Go's heap) │    │
//	└───────────────────┴───────────────────────┴────┘
//
//	slab, 64 KiB: 64 units of 1 KiB, one bit each (half of it shown)
//	├┬┬┬┬┬┬┬┬┼┬┬┬┬┬┬┬┬┼┬┬┬┬┬┬┬┬┼┬┬┬┬┬┬┬┬┤
//	 ■■■■■■■■■ □ ■■■ □□□□□□□□□□□□□□□□□□□     longest free run: 19
//
// A block is a run of free units of one slab, taken from a slab whose longest
// free run is the shortest that suffices (best fit); a 9 KiB block takes 9 KiB.
// Freeing sets bits, and neighbours are one run again because their bits are
// adjacent: there is nothing to coalesce. Slabs of one longest run are a stack,
// so memory that was freed last, and is warm, is used first. A buddy system was
// the first idea: there the place of a 9 KiB block, once its tail is in use,
// serves only blocks of 8 KiB and of 1, here it serves 9 KiB again. Slabs are
// twice the greatest block, so that pages of a little more than half of it, which
// is what splits leave, come three to a slab; slabs of 32 KiB held one.
//
// Invariants
//
//   - M1: Reserved() = blocks + charged ≤ Cap() at every moment, and so is
//     Peak().
//   - M2: Shrink and Trade give memory back in place and cannot fail for want of
//     any, so that nobody needs memory to free memory. Therefore nothing is set
//     aside for those who do.
//   - A block lies in one slab, starts on a unit, and overlaps no other.
//   - A unit is free, or belongs to exactly one block.
//
// Concurrency: everything may be called by any goroutine. One mutex, held for
// some 30 ns, a leaf of the lock order; nothing waits inside.
//
// Not promised: that blocks are zeroed; that a fit is found in a fragmented
// arena though Reserved()+n ≤ Cap(); that physical memory shrinks on Free (it
// does on Trim).
//
// Under the build tags race and saker_invariants blocks are Go memory, for the race
// detector does not see any other, freed blocks are filled with 0xDB, and what
// was written to them since is found when they are used again.
package arena
