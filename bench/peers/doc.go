// Command peers measures Saker side by side with Pebble, goleveldb, bbolt and
// SQLite: in one run, on one disk, in rounds that interleave the stores, since
// only ratios within one run mean anything on a machine that is shared.
//
//	for each workload:  open every store
//	  for each round:
//	    for each number of goroutines:
//	      for each store, the first one moving on by one a round:   one cell
//	  close, open again, verify, report medians over the rounds
//
// Every store is asked for the same durability: a commit returns when it is on
// stable storage; those of the workload update need not be, and a transaction of it
// reads one row and writes it. Every row has a value that follows from its key, and nothing
// counts unless the store, opened again, holds exactly the acknowledged rows.
//
// Settings of the peers, better than their defaults where that is known:
//
//	pebble     Sync; no compression; memtables of 16 MiB; cache of -memory; update:
//	           NoSync, under a lock for the row, since it has none
//	goleveldb  Sync; no compression; write buffer of 16 MiB; cache of -memory; update:
//	           as Pebble
//	bbolt      one goroutine: Update; more: Batch, sized so that one half of the
//	           goroutines gathers while the other half commits; update: NoSync
//	sqlite     WAL, synchronous=FULL; driver called without database/sql; one
//	           connection behind a mutex, since waits of several of them sleep.
//	           Built with CGO_CFLAGS=-DHAVE_FDATASYNC=1 (make peers does) it
//	           syncs as the others do; else by fsync, which is slower; update:
//	           synchronous=OFF
//
// To add a store, implement store and enter it in openers; to add a workload,
// implement workload and enter it in workloads.
//
// It is a module of its own: the peers do not become dependencies of the store.
package main
