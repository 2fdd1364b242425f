// Command registry keeps the staker registry of a block chain: who may produce
// which block, what that earned, who missed a turn. Each block and each advance
// of the slots is one transaction, so the stored registry is always the registry.
//
//	go run ./examples/registry -dir /tmp/registry -for 2s
//
//	 clock ─► ticker, every 5 ms ─► Advance: slots whose time is over; nobody
//	                                │        produced in one: its staker missed it
//	                                ▼
//	                    ┌──────── state ────────┐  slot, height, hash, supply,
//	                    │ stakers names accounts│  digest of all other records
//	                    └───────────▲───────────┘
//	 network ─► Apply: validate, ───┤                 blocks: header + derived data
//	            operations, reward  │
//	                                └─ Query: snapshots, which wait for nobody
//
// The requirements of its seed, a chain's development diary, and what meets them:
//
//   - A block must not be judged by a state that a new slot replaces before the
//     block is applied. Apply and Advance first lock the state record, and write
//     it. The engine lets the first updater win: the other waits, then runs again
//     from the start on the new state. No mutex is in this program
//     (TestBlockHoldsTheSlot, TestSlotOvertakesBlock).
//   - Queries must see one state. Each has a snapshot, and blocks nobody
//     (TestQueryIsOneMoment, TestQueriesDuringChanges).
//   - The sync loop is time, update, 5 ms of rest, and nothing else; most ticks
//     find nothing to do and begin no transaction (TestTicks). Blocks come in by
//     other goroutines (node.go).
//   - The block index has the header, height and staker id in it, and what is
//     derived, so that the next reward needs no history (record.go, blockRow).
//   - Persistence goes with every change, synchronously: Apply returns when its
//     transaction is on stable storage. A killed node is ready as soon as the
//     store is open. It reads two records, and would not miss the history if it
//     were gone (TestKill, TestRestartNeedsNoHistory). Replaying it gives the same
//     records: -audit does, and tells the time that was saved.
//   - A block's changes are taken in total or not at all: an owner never has its
//     part of a reward without the delegate having his (TestBlockIsAllOrNothing,
//     TestCrashAnywhere).
//   - The registry is small, a bit field of 4096 turns per staker its largest part,
//     and is served from memory; the closing table shows size, bytes and rates.
//   - All numbers are 64 bits wide, in one byte order (TestRecordGolden).
//
// Invariants, checked by View.Check on any snapshot:
//
//   - The digest in the state record is that of all stakers, names and accounts.
//   - The balances add up to the supply.
//   - The newest row of the block index has the state's height, hash and supply.
//   - Every slot that is over was produced in or missed, by exactly one staker.
//
// Concurrency: Registry may be used from any goroutine, a View by one.
//
// Not promised: signatures, consensus, a network, reorganisations (the seed takes
// a change of the registry as final), protection from a clock that runs backwards.
package main
