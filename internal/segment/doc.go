// Package segment holds the files of the serial log: of one fixed size, written
// with zeros when they are made so that a later fdatasync touches no metadata,
// cut into checksummed blocks, and used again under a new name.
//
//	file 000000000007.seg, Size bytes = log positions [7·Size, 8·Size)
//	┌────────┬───────────┬───────────┬───────────┬┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┐
//	│ header │ hdr│bytes │ hdr│bytes │ hdr│bytes │ zeros, or blocks │
//	│  64 B  │   block   │   block   │   block   │ of an older life │
//	└────────┴───────────┴───────────┴───────────┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┘
//	            │
//	            └ crc32c over sequence number, incarnation, offset, synced, bytes
//
//	   Take ◄── ready ◄── Supply's goroutine ◄── free ◄── Give
//	(next file,          renames or creates,      (old file, old
//	 right name)         syncs the directory       name, old bytes)
//
// Invariants
//
//  1. The checksum of a block covers where it is and in which life of the store
//     it was written, so that bytes of an older life of a file, or a copy of a
//     block somewhere else, are never taken for a block (L4).
//  2. A header whose sequence number is not that of the file's name is no
//     header: the file was recycled and not yet written to (L5).
//  3. A file is handed out by Take only when it has its full length, its final
//     name, and both are on stable storage; nothing of that is left to a commit.
//  4. Every block carries the position that was known synced when it was
//     written; Hunt finds the greatest such value behind damage (L4).
//
// Concurrency: a File may be read by any number of goroutines while one writes.
// A Supply may be called from any goroutine; it does its I/O in one of its own,
// never under its mutex.
//
// Not promised: which file is reused for which number; that a file which was
// never synced after a write survives; anything about the meaning of a block.
package segment
