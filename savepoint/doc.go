// Package savepoint numbers the stretches of a transaction and knows which of
// them are dead. A savepoint is no list of records, as Falcon's was, but a
// number that versions carry.
//
//	epochs   0 ── 1 ── 2 ── 3 ── 4 ── 5 ── 6 →  now
//	              │         │         │
//	         Savepoint a    │    RollbackTo(a) kills [1, 4], a stays usable
//	                   Savepoint b
//
// Invariants
//
//   - S6: one counter advances at Savepoint, RollbackTo and Release; nothing is
//     renumbered. RollbackTo(sp) kills [start of sp, now].
//   - Two epochs belong to the same stretch when no live savepoint begins
//     between them: only then may a later write replace an earlier one.
//   - L3: Intervals are disjoint, sorted and never shrink, so whoever holds an
//     older copy errs only towards "live", and only about his own future.
//
// Concurrency: a Stack belongs to the goroutine that runs the transaction. An
// Intervals value is immutable and may be shared.
//
// Not promised: that a dead interval is recorded for a rollback that left no
// trace outside record memory; the caller undoes those in place instead.
package savepoint
