// Command crash kills a store and looks whether everything that was promised is
// there, again and again on the same store.
//
//	go run ./bench/crash -rounds 200
//
//	parent                                      child processes: this program again
//
//	round ─► start ──────────────────────────►  work: 4 writers and a reader
//	  │        ◄── journal: intent, ack ──────    │  intent ► Commit ► ack
//	  ├─► SIGKILL after a random time, or ────►   ✗  … before its nth write, sync, rename
//	  ├─► copy what it left
//	  ├─► start, SIGKILL, 0 to 4 times ───────►  recover ✗  recover ✗
//	  ├─► start ──────────────────────────────►  inspect: Verify, all rows both ways
//	  │        ◄── rows ───────────────────────   closes, or ✗
//	  ├─► oracle: journal and rows agree?
//	  └─► sometimes: once more, and the copy: the same rows?
//
// The workload: transfers between accounts, groups of rows that always agree,
// savepoints rolled back within savepoints, deletions, large values, record
// numbers, transactions larger than record memory that commit, roll back or are
// killed, NoSync commits, syncs, checkpoints, tables created and dropped under
// the same few names. Options are small: everything chills, is backlogged,
// merged, and the log is recycled several times in a round.
//
// Invariants
//
//   - A call is in the journal before it is made, and its success after it
//     returned. A journal is written with one write per line; a kill of the
//     process, unlike one of the machine, takes nothing written away.
//   - A durable commit, a table created or dropped, is there once acknowledged.
//     One with an intent only may be there, but whole.
//   - A commit that returned before another was called is there if that one is:
//     what NoSync loses is the end of the order of commits, within lossWindow,
//     and nothing before a Sync or a Checkpoint that returned.
//   - The rows are exactly those of the commits that survived. Each row names the
//     statement that wrote it, so a row of a savepoint or transaction rolled
//     back, or of a dropped table, is recognized.
//   - Recovery is idempotent: killed, repeated, or made on a copy of the
//     directory, it ends in the same rows.
//   - -seed makes the same choices again: workload, options, kinds and times of
//     kills. Which goroutine comes first is the machine's choice.
//   - A directory with a mismatch is kept; any other temporary one is removed.
//
// Concurrency: one child at a time works on a store. Within it each writer is a
// goroutine with tables of its own; they meet in accounts, groups and the log.
//
// Not promised: that a power cut is survived (the crash clones of package engine
// test that); comparable figures.
package main
