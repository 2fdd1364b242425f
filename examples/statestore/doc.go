// Command statestore keeps the states of a block chain that has forks. To judge a
// block it must compute the state of every slot since its parent: thousands, of
// some KB each. It stores each one at once and keeps none in memory; all are
// temporary until the block has proved valid.
//
//	go run ./examples/statestore -dir /tmp/states
//	go run ./examples/statestore -dir /tmp/states -die 3   # SIGKILL in a block
//	go run ./examples/statestore -dir /tmp/states          # nothing is left of it
//
//	Import(block) ─► one transaction, record memory 2 MiB
//	                   savepoint ─► state, state, … thousands ─► verify
//	                       ▲             │ leave memory for       │    │
//	                       │             ▼ the transaction's runs │    ▼ valid
//	                       └── RollbackTo ◄───────────────────────┘  block row
//	                             invalid                             commit: all
//	Read ─► snapshot: permanent states only                          permanent
//	Finalize(block) ─► one transaction: states before it and other forks go
//	Open ─► left-overs collected ─► schema, step by step
//
// The requirements of its seed, a pull request to a consensus client, and what
// meets them:
//
//   - Intermediate states are stored as they are computed, so that memory does not
//     grow with a block: rows of one transaction, far larger than record memory.
//     They are chilled and backlogged (TestBlockBeyondMemory).
//   - A mark tells that a state is temporary: here it is that its transaction has
//     no outcome. It needs no record of its own, and cannot be set on a state that
//     another block made permanent.
//   - The mark goes when the block was processed: the commit record, for all
//     states at one stroke. A block that fails leaves nothing, alone (Rollback) or
//     behind valid ones of its segment (RollbackTo; TestInvalidBlock).
//   - Left-overs of a crash are collected at start: Open removes the runs of
//     transactions without outcome (TestCrashInBlock, TestKilled).
//   - Race 1, a permanent state marked temporary by a second block that stores the
//     same one, and lost with that block: cannot be. The first writer of a state
//     wins. The other block waits for its outcome; if it was committed the block
//     runs again and adopts the state, and its own failure then takes nothing
//     along (TestRace1…, every order of the steps forced by channels).
//   - Race 2, a temporary state returned because mark and state were read at two
//     moments: cannot be. A reader has one snapshot, and what has no outcome is in
//     none, in memory or on disk (TestRace2…).
//   - A schema version keeps older programs out; migration goes step by step at
//     open, each step with its version in one transaction of any size, so that a
//     crash leaves the step undone or done (migrate.go, TestMigration…).
//
// States that finalization makes useless are deleted in one transaction too. Forks
// are where snapshot isolation alone would not do: a block adopts what Finalize
// deletes at the same time, and they write no record in common. So each import
// locks a guard record, one of its own, and Finalize writes all of them
// (TestFinalizeAgainstImport).
//
// Invariants, checked by Reader.Check on any snapshot:
//
//   - Each state has its block, and between a block and its latest child none is
//     missing, and each follows from the one before it.
//   - No state is there that no permanent block needed.
//   - Nothing is older than the finalized block; all blocks since descend from it.
//
// Concurrency: a Store may be used from any goroutine; at most importsMax imports
// run at a time, others wait their turn.
//
// Not promised: a fork choice worth the name (the head is the latest block),
// signatures, a network, states of finalized history.
package main
