package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/txn"
)

// Options of a store. Nil and zero values mean the default.
type Options struct {
	// Memory is the budget of everything together, in bytes; default 256 MiB,
	// least 4 MiB. Of it record memory gets three quarters, cold rows an eighth,
	// and the rest is shared by the leaf map, log and run buffers. Metrics
	// reports the split.
	Memory int64
	// RecordMemory overrides the share of record memory, in bytes; least 1 MiB.
	// The other parts then keep the sizes that Memory gives them.
	RecordMemory int64
	// ChillThreshold is how many uncommitted bytes a transaction may have before
	// it is treated as large: what it writes then leaves memory without waiting
	// for pressure. Default 5 MiB.
	ChillThreshold int64
	// LogLimit is how many bytes the serial log may grow beyond the last
	// checkpoint before new writers wait, or get the error of the checkpoints if one
	// after the other fails. Default 256 MiB, least 1 MiB.
	LogLimit int64
	// LogSegmentSize is the size of log segments for a new store; default
	// 16 MiB, 64 KiB to 1 GiB.
	LogSegmentSize int64
	// MapMemTable is the size of the leaf map's memtables, 64 KiB at least; by
	// default it follows from Memory.
	MapMemTable int64
	// RunSize is the size after which run files are rolled over; default 256 MiB.
	RunSize int64
	// NoSync makes every transaction a NoSync one.
	NoSync bool
	// SyncInterval bounds what a crash may take of NoSync transactions: what was
	// committed longer ago than this, and the time of one sync, is durable. A crash
	// takes the newest ones, whole and in order. Default 100 ms, least 1 ms.
	SyncInterval time.Duration
	// LockTimeout is TxOptions.LockTimeout of transactions that do not set it; default
	// 0, no limit.
	LockTimeout time.Duration
	// TxAgeLimit is the age at which Events and Logger are told of an open transaction,
	// once: it may be leaked, and keeps old versions. Told within a sixteenth of the
	// limit, or a second. Default a minute, least 1 ms; below 0 nobody is told.
	TxAgeLimit time.Duration
	// DebugTransactions notes for each transaction the stack that began it, to be told
	// with its age. It costs some microseconds and kilobytes, outside Memory, each.
	DebugTransactions bool
	// ReadOnly opens without permission to write rows.
	ReadOnly bool
	// FS is the file system; default the operating system's.
	FS vfs.FS
	// Logger, if not nil, is told about events.
	Logger *slog.Logger
	// Events, if not nil, is told about events.
	Events *EventListener

	schema   *schema       // tests: of another engine
	clockGap base.CommitTS // tests: other than txn.ClockGap
}

const (
	defaultMemory    = 256 << 20
	minMemory        = 4 << 20
	minRecordMemory  = 1 << 20
	maxMemory        = 1 << 44
	defaultThreshold = 5 << 20
	defaultLogLimit  = 256 << 20
	minLogLimit      = 1 << 20

	defaultTxAgeLimit = time.Minute
	minTxAgeLimit     = time.Millisecond

	defaultSyncInterval = 100 * time.Millisecond
	minSyncInterval     = time.Millisecond
)

// resolved are options with all defaults filled in.
type resolved struct {
	Options
	coldBytes, mapCache, logBuffer, runBuffer int64
}

// resolve checks all options and fills in defaults; it reports every fault.
func (o *Options) resolve() (*resolved, error) {
	r := &resolved{}
	if o != nil {
		r.Options = *o
	}
	var errs []error
	check := func(v *int64, name string, def, lo, hi int64) {
		if *v == 0 {
			*v = def
		}
		if *v < lo || *v > hi {
			errs = append(errs, fmt.Errorf("%s is %d, not within %d to %d", name, *v, lo, hi))
		}
	}
	check(&r.Memory, "Memory", defaultMemory, minMemory, maxMemory)
	m := max(r.Memory, minMemory)
	check(&r.RecordMemory, "RecordMemory", m/4*3, minRecordMemory, maxMemory)
	check(&r.ChillThreshold, "ChillThreshold", defaultThreshold, 1, maxMemory)
	check(&r.LogLimit, "LogLimit", defaultLogLimit, minLogLimit, maxMemory)
	check(&r.LogSegmentSize, "LogSegmentSize", 16<<20, 64<<10, 1<<30)
	check(&r.MapMemTable, "MapMemTable", clamp(m/64, 256<<10, 8<<20), 64<<10, 1<<30)
	check(&r.RunSize, "RunSize", 256<<20, 64<<10, 1<<40)
	if r.SyncInterval == 0 {
		r.SyncInterval = defaultSyncInterval
	}
	if r.SyncInterval < minSyncInterval {
		errs = append(errs, fmt.Errorf("SyncInterval is %v, less than %v", r.SyncInterval, minSyncInterval))
	}
	if r.TxAgeLimit == 0 {
		r.TxAgeLimit = defaultTxAgeLimit
	}
	if r.TxAgeLimit > 0 && r.TxAgeLimit < minTxAgeLimit {
		errs = append(errs, fmt.Errorf("TxAgeLimit is %v, less than %v", r.TxAgeLimit, minTxAgeLimit))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", base.ErrInvalidOptions, errors.Join(errs...))
	}
	if r.FS == nil {
		r.FS = vfs.Default
	}
	if r.schema == nil {
		r.schema = currentSchema()
	}
	if r.clockGap == 0 {
		r.clockGap = txn.ClockGap
	}
	r.coldBytes = m / 8
	r.mapCache = clamp(m/32, 256<<10, 64<<20)
	r.logBuffer = clamp(m/64, 512<<10, 4<<20)
	r.runBuffer = clamp(m/32, 512<<10, 8<<20)
	return r, nil
}

func clamp(v, lo, hi int64) int64 { return min(max(v, lo), hi) }
