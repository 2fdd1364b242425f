// Command soak is the INSERT and SELECT harness: it inserts any number of rows
// in one transaction per writer under a small record-memory cap, and then reads
// every row back and checks it, from inside the transaction, from a later
// snapshot, and after a reopen. It is the project's main job.
//
//	go run ./bench/soak -rows 32000000 -record-memory 250MiB
//
//	open → prepare → insert ───────────────→ select_own → commit → select → select_reverse
//	                   │  ▲      ▲                                      → select_old → close
//	                   │  │      └ watcher: an old and a new snapshot      → reopen → reselect
//	                   │  │        see none of the rows
//	                   │  └ a bystander holds a few rows of its own, idle
//	                   ▼
//	     batch 0 │ batch 1 │ batch 2 │ …        every batch but in -plain:
//	     ────────┴────┬────┴─────────┴──        rows │ savepoint, more rows, its
//	                  │                         fate │ updates of near and far rows
//	                  └ 7/8 plain rows, 1/8 below a savepoint
//
// With -rollback: insert → select_own → rollback → sweep → select (nothing) →
// close → reopen → reselect (nothing).
//
// Invariants
//
//   - The oracle is a formula (plan.version): which rows exist, and which
//     version of each, follows from the row's number and how far its writer is.
//     The harness keeps nothing per row, so the memory it reports is the
//     engine's.
//   - A row counts as found only if its key is one that the plan names, in
//     strict order, visible to the reader, with the content of the right
//     version. As keys are unique and in order, the right number of such rows
//     is the right set of rows.
//   - Generation and checking of rows are inside the clock, like the calls.
//   - The temporary directory is removed whatever happens: success, mismatch,
//     failure, interrupt.
//
// Concurrency: one goroutine per writer in each phase, a watcher, and a
// reporter that only reads atomics and Metrics.
//
// Not promised: comparable figures between machines. Ratios within one run mean
// something; the rest is this machine's disk.
package main
