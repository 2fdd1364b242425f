// Package seeded holds bugs on purpose, for the tests that show that the checkers
// of histories find such bugs.
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
)
