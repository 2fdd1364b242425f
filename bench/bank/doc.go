// Command bank moves money between accounts and counts it at every snapshot.
//
//	go run ./bench/bank -accounts 10000 -record-memory 8MiB -duration 10m
//
//	teller ─► two accounts, less here, more there ─► commit      -goroutines
//	…           sometimes a savepoint and a transfer that is rolled back to it,
//	            or a rollback of everything
//	auditor ─► all accounts, forward or in reverse ─► the sum    2, and 1 at a time
//	            twice in a snapshot: the same rows               in a long snapshot
//	checkpoint, now and then
//
// A row is a balance and padding. What tellers do not touch is the sum.
//
// Invariants
//
//   - At every snapshot each account is there once and the sum is the first one,
//     in both directions, and the same when the snapshot is read again.
//   - At read committed a snapshot is a statement: an audit is one scan.
//   - A teller locks what it changes at read committed; elsewhere sometimes.
//   - A transaction that only reads gets neither conflict nor deadlock.
//   - Record memory never exceeds its cap.
//   - At the end, and after the store was opened again, the sum is the same.
//
// Concurrency: a goroutine per teller and auditor; they share counters only.
//
// Not promised: comparable figures; go test -bench in this directory measures
// contention without audits.
package main
