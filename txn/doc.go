// Package txn runs transactions: snapshots, writes and their waits, savepoints,
// the commit protocol, rollback, changes of the catalog.
//
//	Begin ─► snapshot ─► first write: id, Outcome, registry
//	                        │ small: redo and a list of writes
//	                        ▼ past ChillThreshold: large, neither
//	Commit    1 large: the rest goes to the temp table
//	          2 Prepare: nothing of it leaves memory any more
//	          3 index and sync of its runs
//	          4 committer.mu: timestamp, commit record, outcome row ──► queue
//	            serializable: only if what was read has not changed
//	          5 sync of the log, shared        head of the queue ─► publish:
//	          6 stamp resident versions          outcome, then clock
//	Rollback    outcome aborted ─► sweeper: leaves, map entries, runs
//
// commit.go tells the order of commits, finish.go the steps, wait.go the waits,
// serializable.go what a serializable commit looks at and why that is enough,
// index.go how entries of secondary indexes are kept in step with rows,
// index_build.go how an index is built beside writers.
//
// Invariants
//
//   - L1: Commit of a durable transaction returns nil only after its record, and
//     the runs that hold frames of it, are on stable storage.
//   - L2: order of commit records = of timestamps = of publication, NoSync
//     included. An outcome is set before the clock advances, waiters wake after.
//   - What a rollback leaves is swept until that is done, however often a read fails,
//     or until Close: recovery does the rest. Nobody sees it meanwhile.
//   - L7: an outcome stays in the registry while a resident version or an edit
//     under way may need it: until its versions are stamped, or until a checkpoint
//     has visited every leaf. Record numbers are handed out below a durable ceiling,
//     timestamps within reach of a durable one, so that none repeats after a crash.
//   - L9: the log's length, and the space of superseded rows, delay a first write
//     only.
//   - S1: choosing and registering a snapshot is one step under one mutex with
//     the horizon; it stays registered until the outcome is published. At
//     ReadCommitted each statement exchanges it for the clock, in one such step, and
//     a cursor has one of its own until it is closed.
//   - S4: a serializable writer gets a timestamp only if nobody has changed anything
//     of what it has read between its snapshot and that timestamp.
//   - S5: a waiter waits for (transaction, epoch) and holds nothing of the cache.
//     Check, edge and search for a cycle are one step; the requester is the victim.
//     Waiters of a record queue; an outcome wakes those that it fails and lets in one
//     of the others, who lets in the next unless the record is its own then.
//   - S6: savepoints are epochs. A dead interval is recorded, before anything is
//     undone, if anything of the transaction left memory since the savepoint.
//   - M5: a large transaction has no list, no redo and no locks of its own; what
//     remains is per run, per log segment, per table, per savepoint. A read set has
//     limits and becomes coarser at them.
//   - I1: from its ready timestamp on an index has at every snapshot exactly the
//     entries of the rows.
//   - I2: a statement changes a row and its entries, or nothing.
//   - I3: only who has a row's lock changes its entries, but for the builder, who adds
//     some and gives way. Entries are written on their newest version; keys of
//     unique indexes are put as rows are inserted (S3).
//   - I4: who takes an entry away leaves a tombstone, whether it was there or not.
//   - M1: a small transaction's buffers are charged; without room it turns large.
//   - A Tx is used once. The state behind it serves later transactions, from when no
//     register names it and no queue holds it: see spare.go.
//
// Concurrency: a Tx belongs to one goroutine at a time, Tx.mu makes Close safe. A
// statement that waits, for memory, another transaction or the log, lets go of it
// (M6); Commit and Rollback hold it, and wait for no memory. committer.mu is held
// for an append and the publication only. The scavenger calls Track under a leaf lock and
// Stretches without one; they take Manager.mu, Tx.trackMu, Tx.spMu for a moment.
//
// Not promised: that a serializable commit which failed had to; that a commit that
// failed with ErrPoisoned did not happen (reopening tells); that the space of a
// rollback is free when Rollback returns; that a writer who finds a record free lets
// those go first who are being woken for it.
package txn
