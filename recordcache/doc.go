// Package recordcache finds the leaf of a key and does to it all that can be
// done to a leaf: read, scan, write, split, seal, chill, backlog, merge, collapse.
// A leaf is a key range with one lock: chains in record memory over a list of
// frames on disk.
//
//	directory (copy-on-write, searched)       leaf map (tablespace)
//	 …  ├─ leaf ─┤   gap   ├─ leaf ─┤ …        entries and holes: answer for gaps
//	        │ low ≤ key < high
//	        ▼
//	  page: slot → chain            resident, newer than
//	  list: frame, frame, frame     the frames, in no order; own epoch (P7)
//	  mem:  copies of frames often read
//
//	 install ► present ► write, restore ► full ► split │ seal and move right
//	    ▲                                   │ Relieve: prune, backlog, checkpoint
//	    └──────────── Collapse ◄── stub ◄───┘ Chill: data to the log
//
// Invariants
//
//   - A key belongs to the present leaf whose fences cover it, asked under its
//     lock, or to a gap, for which the leaf map answers. The directory may be
//     stale: items carry the fence of when they were made, leaves that were sealed
//     have moved right, and a search that fails begins again if it has changed.
//   - P3: chains leave memory whole, in the critical section that lists their
//     frame, by owner, with every use count accounted for and owners held.
//   - P4: a read takes the chain's answer, the list and references on its runs
//     under one hold of the lock. A scan takes one such view at a time, clips
//     frames to its fences and goes on strictly after it.
//   - P7: each list has the number of the edit that made it; a cold row is used
//     only under an equal number, and none is stored under an undecided owner.
//   - P8: a merge reads outside the lock and replaces exactly the frames that it
//     read. Of a live owner it keeps one version per stretch.
//   - S3: a frame decides a conflict unread only if it is published and not newer
//     than the snapshot, or cannot hold the key. Otherwise it is read, and the
//     proof holds for the list of this number only.
//   - P9: a list may only be replaced by what the page holds while partial is unset:
//     the page then has all that anybody sees of the leaf. What leaves the page sets
//     it, and so does a list that comes from elsewhere.
//   - L10: fences, list and map entry change together; list entries of a run are
//     counted up and down in the same edit.
//   - M1: pages and copies are blocks of the arena, descriptors and lists are
//     charged, twice, for the collector's headroom, before a list grows.
//   - M2: relieving a leaf needs no record memory: it compacts in place, and the
//     page pays for the frames, or the leaf goes back to the gap with its list.
//   - M3: nobody starves; charge.go has the argument.
//   - M8: without record memory reads go through the leaf map.
//
// Concurrency: everything may be called from any goroutine; a Writer, Scratch or
// Iter belongs to one at a time. At most one leaf lock is held at a time; before
// it nothing else of this package, Cache.shortMu apart, under it in order:
// Table.mu, the edit queue, the ring, the arena. Room in buffers and queues is
// reserved before it (M7).
//
// Not promised: that a write finds memory (IsNoMemory: wait and call again); that
// a stub stays; that merges happen (they are asked for and tried); that the list
// of a leaf is short.
package recordcache
