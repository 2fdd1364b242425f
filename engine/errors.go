package engine

import "github.com/sakerdb/saker/internal/base"

// The errors of the store, grouped by when they occur. Match them with
// errors.Is.
var (
	// ErrClosed is returned when the store is closed.
	ErrClosed = base.ErrClosed
	// ErrLocked is returned by Open when the directory is open already.
	ErrLocked = base.ErrLocked
	// ErrFormatTooNew is returned by Open when a newer version wrote the store.
	ErrFormatTooNew = base.ErrFormatTooNew
	// ErrInvalidOptions is returned by Open with every option at fault.
	ErrInvalidOptions = base.ErrInvalidOptions
	// ErrBackupExists is returned by Backup when its directory is a file, is not
	// empty, or is the goal of another backup.
	ErrBackupExists = base.ErrBackupExists

	// ErrTableExists is returned by CreateTable.
	ErrTableExists = base.ErrTableExists
	// ErrTableNotFound is returned for a name without table, and for a handle
	// that is nil, of a dropped table or of another store.
	ErrTableNotFound = base.ErrTableNotFound
	// ErrInvalidName is returned for the name of a table or an index that is empty
	// or too long, or begins with "\x00index/".
	ErrInvalidName = base.ErrInvalidName

	// ErrIndexExists is returned by CreateIndex for an index that has its function
	// already, is being built, or differs in unique.
	ErrIndexExists = base.ErrIndexExists
	// ErrIndexNotFound is returned for a name without index, and for a handle that
	// is nil, of a dropped index or of another store.
	ErrIndexNotFound = base.ErrIndexNotFound
	// ErrIndexNotReady is returned for an index that is being built, and for reads as
	// of a snapshot that is older than the index.
	ErrIndexNotReady = base.ErrIndexNotReady
	// ErrIndexDetached is returned by writes to a table with an index to which
	// CreateIndex has not given its function since Open.
	ErrIndexDetached = base.ErrIndexDetached
	// ErrIndexFunc is returned when the function of an index is nil or panics.
	ErrIndexFunc = base.ErrIndexFunc

	// ErrTxDone is returned by the methods of an ended transaction.
	ErrTxDone = base.ErrTxDone
	// ErrReadOnly is returned by a write that is not allowed.
	ErrReadOnly = base.ErrReadOnly
	// ErrSavepointNotFound is returned for a savepoint that is gone.
	ErrSavepointNotFound = base.ErrSavepointNotFound
	// ErrKeyEmpty is returned for a key without bytes.
	ErrKeyEmpty = base.ErrKeyEmpty
	// ErrKeyTooLarge is returned for a key longer than MaxKeySize.
	ErrKeyTooLarge = base.ErrKeyTooLarge
	// ErrValueTooLarge is returned for a value longer than MaxValueSize.
	ErrValueTooLarge = base.ErrValueTooLarge
	// ErrNotSupported is returned for an isolation level that does not exist, and when
	// a transaction has used up its savepoints, four billion.
	ErrNotSupported = base.ErrNotSupported

	// ErrNotFound is returned when no visible record has the key.
	ErrNotFound = base.ErrNotFound
	// ErrKeyExists is returned by Insert when a visible record has the key.
	ErrKeyExists = base.ErrKeyExists
	// ErrConflict is returned when another transaction was first. Retryable.
	ErrConflict = base.ErrConflict
	// ErrDeadlock is returned to the victim of a deadlock. Retryable.
	ErrDeadlock = base.ErrDeadlock
	// ErrLockTimeout is returned when a statement has waited for other transactions
	// as long as TxOptions.LockTimeout allows. The statement has changed nothing; the
	// transaction may go on. Not retryable.
	ErrLockTimeout = base.ErrLockTimeout
	// ErrRecordMemory is returned when record memory is full of what cannot be
	// moved. Not retryable.
	ErrRecordMemory = base.ErrRecordMemory

	// ErrPoisoned is returned by writes after a failed write or sync (L8).
	ErrPoisoned = base.ErrPoisoned
	// ErrDiskFull is returned with the system's error when there is no space
	// left; by a store that is open it comes with ErrPoisoned. Nothing is lost.
	ErrDiskFull = base.ErrDiskFull
)

// CorruptionError says that stored bytes are not what was written.
type CorruptionError = base.CorruptionError

// Limits of a row, in bytes.
const (
	MaxKeySize   = base.MaxKeySize
	MaxValueSize = base.MaxValueSize
)

// IsRetryable reports whether running the whole transaction again may succeed. It
// may not if the context has ended.
func IsRetryable(err error) bool { return base.IsRetryable(err) }
