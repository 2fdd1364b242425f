package tablespace

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// Addr is where a frame is.
type Addr struct {
	Run base.RunID
	Off uint64 // of its first byte in the run's file
	Len uint32 // bytes, header included
}

// The header of a run file:
//
//	+---------+-----------+-------+---------+-----------+
//	| magic 8 | version 4 | crc 4 | run id 8 | owner 8  |   crc32c of the rest
//	+---------+-----------+-------+---------+-----------+
//
// Frames and index blocks follow back to back.
const (
	runMagic      = "sakerRUN"
	runVersion    = 1
	runHeaderSize = 32
)

// gone is the bit of Run.refs that says that no new reference is given.
const gone = int64(1) << 62

// Run is a file of frames, possibly still being written.
type Run struct {
	s     *Space
	id    base.RunID
	owner base.TxnID
	found bool // its file, possibly empty, was there when the space was opened

	// refs counts readers, and whoever else needs the file; with the bit gone.
	refs atomic.Int64

	size    atomic.Uint64 // bytes added; changes under mu
	written atomic.Uint64 // bytes in the file; those behind are in chunks
	synced  atomic.Uint64 // bytes on stable storage
	frames  atomic.Uint64 // frames added since the store was opened
	sealed  atomic.Bool   // no frame will be added (Seal)
	sealSeq atomic.Uint64 // last edit begun before it was sealed; valid once sealed is set

	// ioMu is held to write or sync the file: vfs wants one at a time.
	ioMu      sync.Mutex
	dirSynced bool   // the directory entry is durable
	pushed    uint64 // bytes whose writing to the medium was started

	mu      sync.Mutex // guards everything below; never held for I/O except to open the file for reading
	chunks  []*chunk   // not yet written, by offset; the last may be open
	pending []IndexEntry
	tail    uint64   // end of the last index block, 0 if none
	scratch []byte   // for index blocks
	file    vfs.File // nil until first written or read
	done    bool     // the last reference is gone
	queued  bool     // in Space.ready; guarded by Space.bufMu

	listed  atomic.Int64 // list entries as of the last edit; changes under Space.q.mu
	applied atomic.Int64 // list entries as of the last applied edit; applier only writes
	touched bool         // applier only: in the batch being built

	// named: in this life of the space the map listed the run, if only for a
	// moment. What is on disk may list it still.
	named atomic.Bool
}

// ID returns the id of the run.
func (r *Run) ID() base.RunID { return r.id }

// Owner returns the transaction whose run it is, or 0 if it is shared.
func (r *Run) Owner() base.TxnID { return r.owner }

// Size returns the bytes added so far.
func (r *Run) Size() int64 { return int64(r.size.Load()) }

// Sizes of runs follow that of the store, up to Options.RunSize: the space of a
// run comes back as a whole, so one run must be a small part of the store.
const (
	minRunSize      = 256 << 10
	minOwnedRunSize = 4 << 20
)

// Full reports whether the caller should go on with a new run. One transaction's
// runs are larger: each is synced when it commits.
func (r *Run) Full() bool {
	limit := max(minRunSize, r.s.RunBytes()/16)
	if r.owner != 0 {
		limit = max(minOwnedRunSize, r.s.RunBytes()/4)
	}
	return r.Size() >= min(limit, r.s.o.RunSize)
}

// Listed returns the number of list entries that name the run, as of the last edit.
func (r *Run) Listed() int64 { return r.listed.Load() }

// Frames returns the number of frames added since the store was opened.
func (r *Run) Frames() uint64 { return r.frames.Load() }

// NewRun creates a run of owner, or a shared one if owner is 0. Its file is
// created when its first bytes are written.
func (s *Space) NewRun(owner base.TxnID) (*Run, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	id := base.RunID(uint64(s.o.Incarnation)<<base.RunSeqBits | s.runSeq.Add(1))
	r := &Run{s: s, id: id, owner: owner}
	s.regMu.Lock()
	s.runs[id] = r
	s.regMu.Unlock()
	return r, nil
}

func appendRunHeader(dst []byte, id base.RunID, owner base.TxnID) []byte {
	n := len(dst)
	dst = append(dst, runMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, runVersion)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(id))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(owner))
	binary.LittleEndian.PutUint32(dst[n+12:], runHeaderCRC(dst[n:]))
	return dst
}

func runHeaderCRC(h []byte) uint32 {
	return crc32.Update(crc32.Checksum(h[:12], castagnoli), castagnoli, h[16:])
}

// Seal says that no frame will be added any more. A run that nothing lists is
// unlinked only when it is sealed, and every edit begun before that is durable.
func (r *Run) Seal() {
	if r.sealed.Load() {
		return
	}
	r.sealSeq.Store(uint64(r.s.LastSeq()))
	if r.sealed.Swap(true) {
		return
	}
	if r.listed.Load() == 0 {
		r.s.idle(r, r.s.LastSeq())
	}
}

// add copies a frame to the buffer, in which the caller has reserved room for it,
// and returns its address.
// REQUIRES: Space.q.mu is held, so that runs and edits agree on the order.
func (r *Run) add(b []byte, e IndexEntry) Addr {
	r.mu.Lock()
	if r.refs.Load()&gone != 0 {
		// Dropped under the hands of its owner: nobody will ever read this.
		r.mu.Unlock()
		r.s.bytes.release(int64(len(b)))
		return Addr{Run: r.id, Off: r.size.Load(), Len: uint32(len(b))}
	}
	if r.size.Load() == 0 {
		var h [runHeaderSize]byte
		r.appendLocked(appendRunHeader(h[:0], r.id, r.owner))
		r.s.bytes.force(runHeaderSize)
	}
	off := r.size.Load()
	a := Addr{Run: r.id, Off: off, Len: uint32(len(b))}
	c := r.appendLocked(b)
	n := len(c.buf)
	c.marks = append(c.marks, mark{n - len(b), n})
	e.Addr = a
	r.pending = append(r.pending, e)
	if len(r.pending) >= indexBlockEntries {
		r.writeIndexLocked()
	}
	r.mu.Unlock()
	r.frames.Add(1)
	return a
}

// appendLocked copies b behind the last byte. REQUIRES: r.mu is held.
func (r *Run) appendLocked(b []byte) *chunk {
	var c *chunk
	if n := len(r.chunks); n > 0 {
		c = r.chunks[n-1]
		if c.closed || len(c.buf)+len(b) > cap(c.buf) {
			r.closeChunkLocked()
			c = nil
		}
	}
	if c == nil {
		c = r.s.pool.get(len(b), r.nextClassLocked())
		r.pushChunkLocked(c)
	}
	c.buf = append(c.buf, b...)
	c.charged += int64(len(b))
	r.size.Store(r.size.Load() + uint64(len(b)))
	r.s.runBytes.Add(int64(len(b)))
	if len(c.buf) == cap(c.buf) {
		r.closeChunkLocked()
	}
	return c
}

// nextClassLocked chooses the size of the next chunk: larger while chunks fill
// faster than they are written, small for a run that is written often and little.
// REQUIRES: r.mu is held.
func (r *Run) nextClassLocked() int {
	largest := len(chunkSizes) - 1
	if n := len(r.chunks); n > 0 {
		return min(int(max(r.chunks[n-1].class, 0))+1, largest)
	}
	if r.size.Load() > uint64(chunkSizes[largest]) {
		return 1
	}
	return 0
}

// pushChunkLocked makes c the open chunk. REQUIRES: r.mu is held.
func (r *Run) pushChunkLocked(c *chunk) {
	c.off = r.size.Load()
	r.chunks = append(r.chunks, c)
	if len(r.chunks) == 1 {
		r.s.markDirty(r)
	}
}

// closeChunkLocked hands the open chunk to the flusher. REQUIRES: r.mu is held.
func (r *Run) closeChunkLocked() {
	n := len(r.chunks)
	if n == 0 || r.chunks[n-1].closed {
		return
	}
	r.chunks[n-1].closed = true
	r.s.markReady(r)
}

// parseRunHeader returns the id and owner in a run's header, or why it is none.
func parseRunHeader(h []byte) (base.RunID, base.TxnID, string) {
	switch {
	case len(h) < runHeaderSize:
		return 0, 0, "run header is cut short"
	case string(h[:8]) != runMagic:
		return 0, 0, "not a run file"
	case binary.LittleEndian.Uint32(h[12:]) != runHeaderCRC(h[:runHeaderSize]):
		return 0, 0, "checksum of run header"
	case binary.LittleEndian.Uint32(h[8:]) != runVersion:
		return 0, 0, "unknown version of run file"
	}
	return base.RunID(binary.LittleEndian.Uint64(h[16:])), base.TxnID(binary.LittleEndian.Uint64(h[24:])), ""
}
