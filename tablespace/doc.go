// Package tablespace keeps what has left memory: frames in run files, and the
// leaf map in Pebble that says which frames a leaf has. It also keeps the few
// rows that recovery starts from: outcomes, tables, the checkpoint position.
//
//	    leaf lock held                                lookups, scans, recovery
//	          │ BeginEdit … End                               │ Lookup, Walk
//	          ▼                                               ▼
//	┌──────── Space.q ────────┐   snapshot of      ┌─────── view ───────┐
//	│ queue of edits, numbered│  ─ the overlay ──► │ overlay over Pebble │
//	│ overlay: (table, low) → │                    └─────────▲──────────┘
//	└──┬───────────────┬──────┘                              │ iterator
//	   │ AddFrame      │ applier: one goroutine, in order    │
//	   ▼               ▼   (syncs runs and log first) ──► Pebble, no WAL
//	Run: chunks ──► flusher: checksums, writes ──► runs/<id>.run
//	   ▲                                                ▲
//	   └──────────────── ReadFrame ─────────────────────┘
//
// Invariants
//
//   - L10: edits are numbered between BeginEdit and End, and frames added in the
//     same order; one goroutine applies them in that order, each as a whole. An
//     edit with NeedSync is applied after the runs added to in it and the log
//     are durable. So a crash leaves a prefix of the edits, and what committed
//     frames it lists are there. Run rows count list entries; they are written in
//     the batch of the edit that changes them. A run is unlinked when it is
//     sealed, unused, and a flush covers the edit that removed its last entry.
//   - L11: Loaded.LastSeq is the last surviving edit; the index of a run tells
//     the edit of each frame, so that recovery finds what to re-add. It does not
//     move until EndRecovery, or a crash during recovery would count re-added
//     frames as survived. Until then no file goes; then CollectFiles collects.
//   - L7: EditSeq and RunID carry the incarnation: numbers lost in a crash do not
//     come back, although indexes of runs may still hold them.
//   - L8: the first failed write or sync poisons the space (fence, mapFS). Edits
//     are no longer applied, but still seen; reads go on.
//   - P4: a reference to a run (Acquire, or the entry that a lookup returned)
//     keeps its frames readable, in the buffer or in the file, dropped or not.
//   - P7: Entry.Seq is the edit that wrote the entry; it never repeats.
//   - A Copy (backup) names every run that its map lists and that anybody may read:
//     nothing is unlinked from before the map is copied until the runs are.
//   - M5: a run holds at most 512 index entries in memory, whatever its size.
//   - M7: room in queue and buffer is reserved before any lock, first come first
//     served. Between BeginEdit and End nothing waits but for short mutexes.
//
// How a lookup sees one moment. It makes an iterator over Pebble, then takes the
// overlay, then checks that no entry left the overlay since before the iterator
// was made (queue.pops; entries leave when they are in Pebble, and the counter
// rises before the first one leaves). If so the overlay holds every edit that the
// iterator may miss, and the two together are the map as of the moment the
// overlay was taken. The overlay is a copy-on-write tree and its clone costs
// nothing, so that no lock is held while Pebble reads. Iterators are kept as
// long as that condition holds.
//
// Concurrency: everything may be called from any goroutine, except that a Walk
// belongs to one and that Close comes last. Locks, in order: Space.q.mu, Run.mu,
// then Space.bufMu, regMu, idleMu, credits, chunkPool, none of them held for I/O
// (Run.mu: to open a file, not while it is written to). Run.ioMu is held for I/O
// and taken before Run.mu.
//
// Not promised: that two Puts in one or several edits do not overlap (Check
// looks for it); that the rows of a frame are those of its leaf; that a lost run
// of an owner that never committed is cleaned up, for only the caller knows the
// outcome; few open files: one per run with readers or writers, kept open.
package tablespace
