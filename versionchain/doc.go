// Package versionchain knows what a version is: how versions lie in a page of
// record memory and in a frame on disk, which of them a reader sees, which of
// them nobody needs, and what became of their transactions.
//
//	slot ─► [t9 value d] ─► [40 tombstone] ─► [30 value b]         page
//	          │ undecided: ask the Outcome of t9    newest first
//	          ▼
//	        Registry: TxnID ─► Outcome: active ─► committing ─► committed 60
//	                                       └────► aborted       dead epochs
//	frame:  rows by key, newest first within a key, immutable
//	        owner t9 (timestamps are its outcome's) or committed (own timestamps)
//
//	page.go     Page, Ver: one block of record memory with keys and chains
//	chain.go    Registry; Visible and CheckWrite: walks with a reader's eyes
//	prune.go    Horizon; Settle: stamp, drop garbage, drop what nobody sees
//	compact.go  Drop, CopyTo, Retire; Mark and Confirm around sealing
//	outcome.go  Outcome, Hold and Prepare
//	frame*.go   the frame format, drawn in frame.go; filter.go its filter
//
// Invariants
//
//   - P1: of two versions the newer is the one with the greater Order (timestamp,
//     savepoint epoch, leave number), an own live version before all. A chain is
//     in that order, a frame within each key too.
//   - Memory is newer than frames: what a chain holds of a record is newer than
//     what its leaf's frames hold, copies (FlagClean) apart. So a walk that finds
//     an answer ends, and only one that finds nothing goes on in the frames. A
//     stand-in keeps this true for a large value, which is in a frame from the start.
//   - P2, P3: Retire drops clean versions at the old end only; Mark drops a chain
//     whole. Neither is final before Confirm, after the frames are listed.
//   - P5: Settle keeps what a timestamp of the horizon sees, and a tombstone while
//     frames lie below it. A horizon may be older than its use: what is newer than
//     it is kept.
//   - P6: an undecided version is listed (FlagListed) or a copy of a frame's row
//     (FlagClean), one of the two.
//   - M4: Drop refuses a version with more uses than Expected.
//   - L7: a version of a TxnID that the registry does not know is corruption.
//   - Decoders accept any bytes without panic and without reading outside;
//     CheckFrame proves bytes and place.
//   - Nobody seals or logs rows of a transaction for which Prepare has returned:
//     its commit record names everything that left memory.
//
// Concurrency: pages belong to a leaf; readers hold its lock shared, writers
// exclusively. Registry and Outcome may be used by anybody at any time; setters
// of an Outcome belong to its transaction, or the committer. A hold lasts no
// longer than a leaf lock. Frames are values over immutable bytes.
//
// Not promised: that a page grows (the caller makes room); that the registry
// knows a decided transaction for longer than versions need; that ParseFrame
// finds wrong content, for that is the checksum's work.
package versionchain
