package tablespace

import "github.com/sakerdb/saker/internal/base"

// Stats are figures of a space.
type Stats struct {
	Runs         int    // with a file, or being written
	RunBytes     int64  // in them
	Unlinked     uint64 // run files removed since the opening
	UnlinkFailed uint64 // run files that could not be removed: the next opening tries again
	BytesWritten uint64 // to runs since the opening
	RunSyncs     uint64
	BufferUsed   int64 // bytes reserved or added and not yet written

	LastSeq     base.EditSeq
	Queued      int64 // edits reserved or not yet applied
	Overlay     int   // entries not yet in Pebble
	Batches     uint64
	MapBytes    uint64 // of the leaf map on disk
	MapMemory   uint64 // memtables
	MapCache    int64  // bytes in its block cache
	MapWritten  uint64 // bytes flushed and compacted since the opening
	MapFlushes  int64
	MapCompacts int64
}

// RunBytes returns the bytes in all runs, those not yet written included.
func (s *Space) RunBytes() int64 { return s.runBytes.Load() }

// RunInfo is what space collection wants to know about a run.
type RunInfo struct {
	Run    base.RunID
	Owner  base.TxnID // 0: shared; also of a run of an earlier life that nothing lists
	Bytes  int64
	Listed int64 // list entries that name it, as of the last edit
	Sealed bool  // nothing is added any more
}

// RunInfos appends the runs that have not been unlinked, in no order.
func (s *Space) RunInfos(dst []RunInfo) []RunInfo {
	s.regMu.RLock()
	defer s.regMu.RUnlock()
	for _, r := range s.runs {
		if r.refs.Load()&gone == 0 {
			dst = append(dst, RunInfo{r.id, r.owner, r.Size(), r.listed.Load(), r.sealed.Load()})
		}
	}
	return dst
}

// Stats returns the figures of the moment.
func (s *Space) Stats() Stats {
	st := Stats{
		Unlinked:     s.unlinked.Load(),
		UnlinkFailed: s.unlinkFailed.Load(),
		BytesWritten: s.bytesWritten.Load(),
		RunSyncs:     s.syncs.Load(),
		BufferUsed:   s.bytes.inUse(),
		Queued:       s.room.inUse(),
		Batches:      s.batches.Load(),
	}
	s.regMu.RLock()
	for _, r := range s.runs {
		if r.refs.Load()&gone == 0 {
			st.Runs++
			st.RunBytes += r.Size()
		}
	}
	s.regMu.RUnlock()
	s.q.mu.Lock()
	st.LastSeq, st.Overlay = s.q.seq, s.q.tree.Len()
	s.q.mu.Unlock()
	m := s.mapMetrics()
	if m == nil {
		return st
	}
	st.MapBytes = m.DiskSpaceUsage()
	st.MapMemory = m.MemTable.Size
	st.MapCache = m.BlockCache.Size
	total := m.Total()
	st.MapWritten = total.TableBytesFlushed + total.TableBytesCompacted
	st.MapFlushes = m.Flush.Count
	st.MapCompacts = m.Compact.Count
	return st
}
