package base

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Errors of opening and closing a store.
var (
	// ErrClosed is returned when the store is closed.
	ErrClosed = errors.New("saker: store is closed")
	// ErrLocked is returned by Open when another process, or this one, has the
	// directory open.
	ErrLocked = errors.New("saker: directory is in use")
	// ErrFormatTooNew is returned by Open when a newer version wrote the store.
	ErrFormatTooNew = errors.New("saker: store has a newer format")
	// ErrInvalidOptions is returned by Open, wrapped with every option at fault.
	ErrInvalidOptions = errors.New("saker: invalid options")
	// ErrBackupExists is returned by Backup when its directory exists and is not
	// empty, or is being written to.
	ErrBackupExists = errors.New("saker: backup directory is not empty")
)

// Errors of tables.
var (
	// ErrTableExists is returned when a table of that name exists.
	ErrTableExists = errors.New("saker: table exists")
	// ErrTableNotFound is returned when no table has that name, or the handle
	// is of a dropped table or of another store.
	ErrTableNotFound = errors.New("saker: table not found")
	// ErrInvalidName is returned when the name of a table or an index is empty or
	// too long, or begins as names of the store's own do.
	ErrInvalidName = errors.New("saker: invalid name")
)

// Errors of secondary indexes.
var (
	// ErrIndexExists is returned by CreateIndex when the table has an index of that
	// name that is not just waiting for its function, or differs in unique.
	ErrIndexExists = errors.New("saker: index exists")
	// ErrIndexNotFound is returned when no index has that name, or the handle is of
	// a dropped index or of another store.
	ErrIndexNotFound = errors.New("saker: index not found")
	// ErrIndexNotReady is returned when an index is being built, or became ready
	// after the snapshot of the transaction that wants to read it.
	ErrIndexNotReady = errors.New("saker: index is not ready")
	// ErrIndexDetached is returned by a write to a table with an index whose
	// function nobody has given since the store was opened (CreateIndex).
	ErrIndexDetached = errors.New("saker: index has no function yet")
	// ErrIndexFunc is returned when the function of an index is nil or panicked.
	ErrIndexFunc = errors.New("saker: index function failed")
)

// Misuse of a transaction.
var (
	// ErrTxDone is returned by every method of a transaction after Commit or
	// Rollback.
	ErrTxDone = errors.New("saker: transaction has ended")
	// ErrReadOnly is returned by a write in a read-only transaction or store.
	ErrReadOnly = errors.New("saker: read only")
	// ErrSavepointNotFound is returned when a savepoint was released or rolled
	// away, or belongs to another transaction.
	ErrSavepointNotFound = errors.New("saker: savepoint not found")
	// ErrKeyEmpty is returned when a key has no bytes.
	ErrKeyEmpty = errors.New("saker: key is empty")
	// ErrKeyTooLarge is returned when a key exceeds MaxKeySize.
	ErrKeyTooLarge = errors.New("saker: key is too large")
	// ErrValueTooLarge is returned when a value exceeds MaxValueSize.
	ErrValueTooLarge = errors.New("saker: value is too large")
	// ErrNotSupported is returned for an isolation level that does not exist, and when
	// a transaction has used up its savepoints, four billion.
	ErrNotSupported = errors.New("saker: not supported")
)

// Outcomes of a statement.
var (
	// ErrNotFound is returned when no visible record has the key.
	ErrNotFound = errors.New("saker: record not found")
	// ErrKeyExists is returned by Insert when a visible record has the key.
	ErrKeyExists = errors.New("saker: key exists")
	// ErrConflict is returned when another transaction committed a version of
	// the record after the snapshot of this one (S3). Retryable.
	ErrConflict = errors.New("saker: write conflict")
	// ErrDeadlock is returned to the transaction whose wait would close a cycle
	// of waits (S5). Retryable.
	ErrDeadlock = errors.New("saker: deadlock")
	// ErrLockTimeout is returned when a statement would wait for other transactions
	// longer than its lock timeout. Not retryable: who sets a limit wants to know.
	ErrLockTimeout = errors.New("saker: lock timeout")
	// ErrRecordMemory is returned when record memory is full and nothing in it
	// can be moved (M3). Never retryable as a conflict.
	ErrRecordMemory = errors.New("saker: record memory exhausted")
)

// ErrPoisoned is returned by writes and commits after a failed write or sync,
// until the store is reopened (L8). It wraps the first failure.
var ErrPoisoned = errors.New("saker: store failed and must be reopened")

// ErrDiskFull is returned, together with the error of the operating system, when
// a write fails for want of space. Nothing is lost; make space and open again.
var ErrDiskFull = errors.New("saker: disk is full")

// Poisoned returns the failure of a write or sync as everybody is to see it: it
// matches ErrPoisoned and err, and ErrDiskFull if that is what err means.
func Poisoned(err error) error {
	if err == nil || errors.Is(err, ErrPoisoned) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrPoisoned, DiskFull(err))
}

// DiskFull returns err, so that it matches ErrDiskFull too if the system says
// that there is no space, or no quota, left.
func DiskFull(err error) error {
	if errors.Is(err, ErrDiskFull) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDiskFull, err)
}

// CorruptionError says that stored bytes are not what was written.
type CorruptionError struct {
	File   string // path of the file within the store
	Offset int64  // where in the file, in bytes
	Why    string
}

// Error implements error.
func (e *CorruptionError) Error() string {
	return fmt.Sprintf("saker: corruption in %s at offset %d: %s", e.File, e.Offset, e.Why)
}

// IsRetryable reports whether running the whole transaction again may succeed:
// the error is a conflict or a deadlock, and no context has ended.
func IsRetryable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return errors.Is(err, ErrConflict) || errors.Is(err, ErrDeadlock)
}
