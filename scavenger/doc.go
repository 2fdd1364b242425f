// Package scavenger keeps record memory below its cap. It decides when memory is
// short and which leaf gives some back; what is done to a leaf is recordcache's.
//
//	reserved bytes
//	 cap ─┬──────────────────────────────  allocation fails: Wait
//	 90 % ┼ ─ ─ ─ ─ ╱╲─ ─ ─ ─ ─ ─ ─ ─ ─ ─  an episode begins
//	      │      ╱     ╲
//	 76 % ┼ ─ ╱ ─ ─ ─ ─ ─ ╲ ─ ─ ─ ─ ─ ─ ─  it ends, if nobody waits
//	      └──────────────────────────────► time
//	          scavenge │ flag up: sweep │ flag down
//
// An episode, by example. The cap is 64 MiB, 58 MiB are reserved; t1 is large and
// writes, t2 is small and idle, r reads as of yesterday.
//
//	scavenge  60 cold leaves: versions that neither r nor the clock sees go, and
//	          clean ones; stubs become gaps. 55 MiB: not enough.
//	raise     every transaction is told; t1 relieves a cold leaf per 32 writes.
//	sweep 0   cold leaves: t1's chains go to its temp table, what only r sees to
//	          the shared run; 3 rows of t2 in a leaf are chilled to the log.
//	          48 MiB: lower. Had nothing moved:
//	sweep 1   warm leaves too, and the redo that t2 keeps goes to the log;
//	sweep 2   t2's 3 rows make a frame after all, and t2 keeps nothing any more.
//
// Invariants
//
//   - M2: the scavenger allocates nothing from record memory; it reserves buffer
//     and queue room before each leaf, and both drain without record memory.
//   - M3: waiters are served first come, first served, each when a block of its
//     size can be had; a round that did not serve the first is followed by one
//     with less patience. ErrRecordMemory comes when several such rounds, and a
//     bounded time, have moved nothing.
//   - M6: any transaction's rows may be taken, waiting or idle ones included.
//   - The flag rises at one place and falls at one place, whatever ended the
//     episode (hysteresis between the two marks).
//   - A leaf whose chilled rows cannot be read back is passed over: the room is found
//     elsewhere, or ErrRecordMemory says what could not be read.
//   - A merge that fails or finds the leaf changed leaves everything as it was.
//
// Concurrency: one goroutine for episodes, one for merges, ended by Close.
// Scavenger.mu is held for the list of waiters and merge requests, and to try
// an allocation; never over I/O. Help runs in the caller's goroutine. Wait and
// Help REQUIRE that no lock is held.
//
// Not promised: fairness between those who were served and those who allocate
// without having waited; that a requested merge is done; that memory below the
// high-water mark is ever given back to the system.
package scavenger
