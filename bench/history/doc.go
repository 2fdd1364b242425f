// Command history runs random concurrent transactions, records what they read
// and wrote, and looks for anomalies that the isolation level forbids.
//
//	go run ./bench/history -level snapshot -txns 100000
//
//	worker ─► begin, read, scan, append …, commit ─► record ─┐
//	worker ─► …                                              ├─► history.Check ─► table
//	worker ─► …                              checkpoints ────┘     per round
//
// A row is a list: elements and padding. An append reads the row and writes it
// back with one element more, by Put, by Update or Insert, or by Delete and Insert.
// A list that is long enough gives its place to the next key, so that rows keep
// appearing in ranges that others scan. Some transactions roll back to savepoints,
// some hold their snapshot while others run, some write so much that they,
// and everybody else's rows, leave memory.
//
// Invariants
//
//   - A transaction counts as committed if and only if Commit returned nil.
//   - Begin and End are moments of one clock outside of the calls.
//   - Each round has keys of its own and ends with a scan of all of them, so that
//     the order of every list is known.
//   - A transaction that only reads gets neither a conflict nor a deadlock.
//   - At read committed every append locks its row first: without that an update
//     may be lost, which is allowed and would hide others. So none may be lost.
//   - -seed makes the same choices again; which goroutine comes first is the
//     machine's choice.
//
// Concurrency: -goroutines workers, each with a record of its own, and one that
// makes checkpoints.
//
// Not promised: comparable figures.
package main
