// Package seriallog is the redo log: groups of rows that left memory ahead of
// commit, commit records, and changes of the set of tables. It shares syncs
// between transactions, gives logged rows back by address, and replays itself.
//
//	Reserve ─► Append* ─► active chunk ─► chunks in flight ─► segment files
//	(credits)  (l.mu,      one block       written by the      recycled when
//	           no I/O)     each            leader, l.mu free   wholly below the
//	                                                           checkpoint, unpinned
//	 position ──────────────────────────────────────────────────────────────►
//	 ┌─ segment 7 ─────────────────────────────┐┌─ segment 8 ──────────────
//	 │hdr│ block      │ block                  ││hdr│ block
//	 │   │ rec rec rec│ rec rec rec … end(8)   ││   │ rec rec …
//	     ▲ synced                     ▲ written      ▲ end
//
// A record is contiguous and within one segment, so that a row is thawed by one
// read. An end record closes each segment and names the next; a segment header
// says where the log left the previous one. Both must agree.
//
// Invariants
//
//  1. Positions order records; Append hands them out under one mutex, and what
//     is appended in timestamp order is replayed in timestamp order (L2).
//  2. synced ≤ written ≤ end. A position is below synced only if all bytes of
//     the log before it, in all segments, are on stable storage (L1, L2).
//  3. Each block carries a value of synced from before it was written. If the
//     chain of blocks breaks below the greatest such value, that is corruption;
//     else it is the end of the log (L4). An opening never continues a segment:
//     it closes the last one where the log ended and begins a new one with its
//     own incarnation.
//  4. A segment is reused only when the checkpoint position passed all of it,
//     its pin count is zero and nobody reads it (L5).
//  5. After a failed write or sync nothing is written again, no Sync succeeds
//     beyond what was synced before, and reads go on, of bytes that were never
//     written too (L8).
//  6. Bytes appended and not yet written never exceed what was reserved, and
//     that never exceeds BufferSize (M1). Grants are first come, first served
//     (M7).
//  7. A copy of the log ends at a synced position: nothing behind it is in it, so
//     that it ends as after a crash (CopyTo).
//  8. Exactly one goroutine, the leader, writes at any time: a caller of Sync
//     that finds no leader, its heir, or the background writer.
//
// Concurrency: every method may be called from any goroutine, Replay and
// StartWriting in that order before any other. Append* take l.mu for a copy and
// may be called under a leaf lock; Reserve, Sync, Read and Replay may not.
// Lock order: l.mu before the mutex of the credits and that of segment.Supply.
//
// Not promised: that a transaction appears once (the caller's protocol), that
// groups of a transaction without commit record are kept longer than their
// pins, or that damage above the last synced position written down is told
// from a crash. What Replay delivered is durable only after StartWriting. After
// a failed sync the system's cache may show bytes the disk never got.
package seriallog
