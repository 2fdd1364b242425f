// Package engine is the front door of Saker: it opens a store, recovers it, and
// gives out tables and transactions. Start with Open.
//
//	Options ─► Open ─► FORMAT, LOCK ─► log, tablespace, cache ─► recovery ─► DB
//	                                                                          │
//	  Begin, View, Update ──► Tx (package txn)       CreateTable, DropTable ◄─┤
//	                                                 CreateIndex, DropIndex ◄─┤
//	  Checkpoint ─► position ─► leaves ─► edit ─► flush ─► log reused       ◄─┤
//	  Backup ─► map ─► log up to E ─► runs ─► FORMAT                        ◄─┤
//	  Metrics, Verify, Events, Sync, Close                                  ◄─┘
//
//	 checkpoint position P
//	 log ───────┬──────────────────────────┬─► end
//	   reused,  │ replayed: commits,       │
//	   or pinned│ their groups, DDL        │
//	 runs ──────┴ frames that commits name, if the leaf map lost their edits
//
// Invariants
//
//   - L3: Open yields exactly the committed transactions, whole. Frames and groups
//     of an owner without commit record, or of dead epochs, never return.
//   - L6: a checkpoint takes its position first and captures afterwards what it
//     relies on; the position is an edit behind those; the log is let go only
//     when a flush covers it.
//   - L7: the incarnation in FORMAT is durable before an id with it exists;
//     table ids do not return after a drop.
//   - L8: the first failed write or sync, of log, runs or leaf map, poisons all of
//     them. Only opening again ends that; committed reads go on meanwhile.
//   - L11: files are collected after replay, and only those that nothing lists.
//   - DropTable excludes the table's writers before its record is written; its
//     data goes when no snapshot is older.
//   - An index is known to writers from before it is built until after its drop is
//     durable; one that was not finished, or has lost its table, is dropped by Open.
//   - A backup takes the parts in the order in which they rely on each other, each
//     newer than the one before, and is openable only when all of it is durable.
//   - M1: Options.Memory is split once, at Open; Metrics reports the split.
//
// Concurrency: a DB may be used from any goroutine; a Tx, and what came from it,
// from one at a time. One checkpoint and one DDL run at a time, each under a mutex
// of its own that is held over I/O. Events may come from any goroutine, must be
// quick and must not call the DB.
//
// Backup, Verify and Checkpoint may take long; Close ends them and waits (gate).
//
// Not promised: several processes on one directory; that Close is quick (it makes
// a checkpoint); that RSS equals Memory.
package engine
