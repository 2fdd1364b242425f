package engine

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Metrics are figures of a store at one moment; counters count since Open.
type Metrics struct {
	RecordMemoryCap     int64 // bytes; never exceeded
	RecordMemoryUsed    int64 // bytes reserved, metadata charged to it included
	RecordMemoryPeak    int64
	RecordMemoryCharged int64 // of it, Go heap that grows with data
	ColdRowBytes        int64 // budget of the cold-row cache
	BufferBytes         int64 // budget of run, log and leaf-map buffers
	Leaves              int64 // present in the directories

	LowMemory          bool
	LowMemoryEpisodes  uint64
	ChilledRecords     uint64
	ThawedRecords      uint64
	BackloggedChains   uint64
	RestoredChains     uint64
	SealedLeaves       uint64 // filled in key order and handed to a run whole
	PrunedVersions     uint64
	RetiredVersions    uint64
	LeafSplits         uint64
	FrameMerges        uint64
	ColdReads          uint64 // frames read for point reads and conflict checks
	ColdRowHits        uint64
	ActiveTransactions int64
	TempTables         int64 // live transactions with frames
	OldestTransaction  time.Duration
	Sweeping           int64 // rolled back transactions not yet cleaned up

	Commits, Rollbacks, Conflicts, Deadlocks, LockTimeouts uint64
	Waits, WaitsWoken                                      uint64 // for other transactions; of them ended by another

	Unserializable    uint64 // of the conflicts, commits that failed because others had changed what was read
	MaybeSerializable uint64 // of those, the ones that a more precise read set might have let pass

	DiskBytesWritten uint64 // runs, log and leaf map
	LogBytes         uint64 // appended to the log
	LogBytesPending  int64  // since the checkpoint position
	LogSyncs         uint64
	LogRecycled      uint64 // segments written over old files instead of new ones
	RunBytes         int64  // in run files
	RunLiveBytes     int64  // of it, what would stay, estimated by the last survey for space collection
	RunDeadBytes     int64  // of it, what superseded and deleted rows took then
	CollectedRuns    uint64
	CollectedBytes   uint64 // of frames read to collect those runs
	Runs             int64
	MapBytes         uint64 // of the leaf map
}

// Metrics returns the figures of the moment; all zero when the store is closed.
func (db *DB) Metrics() Metrics {
	_, leave, err := db.gate.enter(context.Background())
	if err != nil {
		return Metrics{}
	}
	defer leave()
	waits, woken := db.m.Waits()
	st, sp, lg := &db.cache.Stats, db.space.Stats(), db.log.Stats()
	return Metrics{
		RecordMemoryCap: db.arena.Cap(), RecordMemoryUsed: db.arena.Reserved(), RecordMemoryPeak: db.arena.Peak(),
		RecordMemoryCharged: db.arena.Charged(), ColdRowBytes: db.o.coldBytes,
		BufferBytes: db.o.runBuffer + db.o.logBuffer + db.o.mapCache + 2*db.o.MapMemTable, Leaves: int64(db.cache.Leaves()),
		LowMemory: db.scav.LowMemory(), LowMemoryEpisodes: db.scav.Episodes(),
		ChilledRecords: st.ChilledRecords.Load(), ThawedRecords: st.ThawedRecords.Load(),
		BackloggedChains: st.BackloggedChains.Load(), RestoredChains: st.RestoredChains.Load(),
		SealedLeaves: st.SealedLeaves.Load(), PrunedVersions: st.PrunedVersions.Load(), RetiredVersions: st.RetiredVersions.Load(),
		LeafSplits: st.Splits.Load(), FrameMerges: st.Merges.Load(), ColdReads: st.ColdReads.Load(), ColdRowHits: st.ColdHits.Load(),
		ActiveTransactions: int64(db.m.Active()), OldestTransaction: db.m.OldestAge(), TempTables: int64(db.temps.Len()), Sweeping: db.m.Sweeping(),
		Commits: db.m.Counters.Commits.Load(), Rollbacks: db.m.Counters.Rollbacks.Load(), Conflicts: db.m.Counters.Conflicts.Load(),
		Deadlocks: db.m.Counters.Deadlocks.Load(), LockTimeouts: db.m.Counters.LockTimeouts.Load(),
		Waits: waits, WaitsWoken: woken,
		Unserializable: db.m.Counters.Unserializable.Load(), MaybeSerializable: db.m.Counters.MaybeSerializable.Load(),
		DiskBytesWritten: sp.BytesWritten + sp.MapWritten + lg.WrittenBytes,
		LogBytes:         lg.AppendedBytes, LogBytesPending: db.log.SinceCheckpoint(), LogSyncs: lg.Syncs, LogRecycled: lg.Recycled,
		RunLiveBytes: db.collect.live.Load(), RunDeadBytes: db.collect.dead.Load(),
		CollectedRuns: db.collect.runs.Load(), CollectedBytes: st.CollectedBytes.Load(),
		RunBytes: sp.RunBytes, Runs: int64(sp.Runs), MapBytes: sp.MapBytes,
	}
}

// String formats the metrics as a table.
func (m Metrics) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-22s "+format+"\n", append([]any{name}, args...)...)
	}
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	row("record memory", "%.1f of %.1f MiB, peak %.1f, charged %.1f", mib(m.RecordMemoryUsed), mib(m.RecordMemoryCap), mib(m.RecordMemoryPeak), mib(m.RecordMemoryCharged))
	row("other budgets", "cold rows %.1f MiB, buffers %.1f MiB", mib(m.ColdRowBytes), mib(m.BufferBytes))
	row("leaves", "%d present, %d splits, %d sealed, %d merges", m.Leaves, m.LeafSplits, m.SealedLeaves, m.FrameMerges)
	row("low memory", "%v, %d episodes", m.LowMemory, m.LowMemoryEpisodes)
	row("chilled / thawed", "%d / %d", m.ChilledRecords, m.ThawedRecords)
	row("backlogged / restored", "%d / %d", m.BackloggedChains, m.RestoredChains)
	row("pruned / retired", "%d / %d", m.PrunedVersions, m.RetiredVersions)
	row("cold reads / row hits", "%d / %d", m.ColdReads, m.ColdRowHits)
	row("transactions", "%d active, the oldest for %v, %d temp tables, %d sweeping", m.ActiveTransactions, m.OldestTransaction, m.TempTables, m.Sweeping)
	row("outcomes", "%d commits, %d rollbacks, %d conflicts, %d deadlocks, %d lock timeouts, %d waits", m.Commits, m.Rollbacks, m.Conflicts, m.Deadlocks, m.LockTimeouts, m.Waits)
	row("serializable", "%d conflicts of reads, %d of them doubtful", m.Unserializable, m.MaybeSerializable)
	row("log", "%.1f MiB appended, %.1f pending, %d syncs, %d segments recycled", mib(int64(m.LogBytes)), mib(m.LogBytesPending), m.LogSyncs, m.LogRecycled)
	row("runs", "%d with %.1f MiB", m.Runs, mib(m.RunBytes))
	row("space", "%.1f MiB live, %.1f dead; %d runs collected, %.1f MiB read for it", mib(m.RunLiveBytes), mib(m.RunDeadBytes), m.CollectedRuns, mib(int64(m.CollectedBytes)))
	row("leaf map", "%.1f MiB", mib(int64(m.MapBytes)))
	row("written", "%.1f MiB", mib(int64(m.DiskBytesWritten)))
	return b.String()
}
