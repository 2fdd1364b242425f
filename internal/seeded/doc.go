// Package seeded holds bugs on purpose, for the tests that show that the checkers
// of histories, and the model of the engine's random test, find such bugs.
//
//	if … || seeded.On(seeded.DirtyFrame)     at the place of the bug
//
//	build             On
//	normal            constant false: the compiler drops the branch
//	saker_seeded_bugs whether the bug was the last one given to Set
//
// Invariants
//
//   - Without the tag no bug can be turned on, and nothing is computed for one.
//   - One bug is on at a time, in the whole process.
//
// Concurrency: Set and On may be called from any goroutine; Set while no store
// is open, or what is found says little.
//
// Not promised: that a store survives a bug, or can be opened after one.
package seeded

// Bug names a bug.
type Bug uint32

const (
	// None is no bug.
	None Bug = iota
	// VisibleTooNew reads one timestamp beyond the snapshot.
	VisibleTooNew
	// VisibleUndecided reads resident versions of transactions that are running.
	VisibleUndecided
	// VisibleRolledBack reads what was rolled back to a savepoint.
	VisibleRolledBack
	// SkippedConflict lets a writer pass where the first updater wins.
	SkippedConflict
	// SkippedFrames looks for no conflict in frames.
	SkippedFrames
	// DirtyFrame reads frames of owners that are running.
	DirtyFrame
	// FirstFrame takes the first version that frames have, not the newest.
	FirstFrame
	// SkippedValidation commits a serializable transaction unchecked.
	SkippedValidation
	// ValidatedTooOld does not find a change one timestamp after the snapshot.
	ValidatedTooOld
	// UntrackedRange keeps no range in the read set.
	UntrackedRange
	// UntoldReaders tells nobody who validates of a commit meanwhile.
	UntoldReaders
	// KeptEntry does not erase the entries that a row loses.
	KeptEntry
	// KeptStatement leaves what a failed statement on an indexed table has done.
	KeptStatement
	// KeptRollback leaves the entries that were put since a savepoint, when a small
	// transaction rolls back to it.
	KeptRollback
	// SharedKey lets two rows have one key of a unique index.
	SharedKey
	// EarlyIndex lets snapshots read an index that is younger.
	EarlyIndex
	// HastyBuilder does not wait for those who had written the table.
	HastyBuilder
	// PassedOver leaves out a key of a unique index when the builder has a conflict.
	PassedOver
)
