// Package backlog keeps the temp tables: what a live transaction has in runs.
// In Falcon a backlogged record was a guest in a temporary table and had to be
// brought back; here a frame is written once, and its owner's outcome decides
// whether it was temporary or final data.
//
//	transaction ──► TempTable ──► run, run, …   frames of this owner only
//	     │ commit:   Seal     index block, sync; the commit record names the runs
//	     │ rollback: Tails    the owner is aborted; txn sweeps the map by the index
//	     ▼
//	committed versions ──► Store.Permanent: one run at a time, shared by all
//
// Invariants
//
//   - Owner without outcome = temporary, from the first byte on (Lighthouse).
//   - L1: Seal returns only when every frame of the owner is on stable storage.
//   - P2: a temp table's frames never make a leaf clean.
//   - Nothing here grows with the rows of a transaction: a run is a file id and
//     a counter (M5).
//
// Concurrency: a TempTable may be used by several goroutines at a time, since
// whoever needs memory may backlog for any transaction (M6); Seal and Tails
// belong to the transaction and exclude nobody: they come when no version of
// it is resident or its outcome is aborted.
//
// Not promised: that a rollback frees disk space before readers have let go.
package backlog
