// Package base holds the types and limits that every other package of Saker
// shares: identifiers, the clock, log positions, row kinds, errors.
//
//	TableID ── which table            TxnID ── who wrote it, until decided
//	CommitTS ─ when it was committed  Epoch ── in which savepoint stretch
//	Leave ──── order of departure     LSN ──── where in the serial log
//
// Invariants
//
//   - L7: values of TableID, TxnID, CommitTS, RunID and EditSeq never repeat
//     within a store, over any number of reopens. TxnID and RunID carry the
//     incarnation of the store in their upper bits for that reason.
//   - P1: of two versions of one record the newer is the one with the greater
//     Order; position in a list decides nothing.
//
// Concurrency: values only; nothing here has state.
//
// Not promised: that numbers are dense.
package base
