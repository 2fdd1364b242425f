package tablespace

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/sakerdb/saker/internal/base"
)

// IndexEntry is what a run's index knows about a frame.
type IndexEntry struct {
	Addr
	Table base.TableID
	Owner base.TxnID   // 0: committed when it was written
	Seq   base.EditSeq // the edit that the frame was added in
}

// An index block is chained to the one before it, and found by its end:
//
//	+-------+---------+--------+------------+------------------+-------------+
//	| crc 4 | magic 4 | run 8  | previous 8 | entries n × 32   | n 4         |
//	+-------+---------+--------+------------+------------------+-------------+
//	entry: | off 8 | len 4 | table 4 | owner 8 | seq 8 |
//
// The crc32c covers everything after it and the end offset. previous is the end
// of the block before, 0 if none.
const (
	indexMagic      = 0x58494b53 // "SKIX"
	indexHeaderSize = 24
	indexEntrySize  = 32
	indexTailSize   = 4
	// indexBlockEntries bounds both a block and the entries held in memory (M5).
	indexBlockEntries = 512
)

func appendIndexBlock(dst []byte, run base.RunID, prev, off uint64, entries []IndexEntry) []byte {
	n := len(dst)
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, indexMagic)
	dst = le.AppendUint64(dst, uint64(run))
	dst = le.AppendUint64(dst, prev)
	for i := range entries {
		e := &entries[i]
		dst = le.AppendUint64(dst, e.Off)
		dst = le.AppendUint32(dst, e.Len)
		dst = le.AppendUint32(dst, uint32(e.Table))
		dst = le.AppendUint64(dst, uint64(e.Owner))
		dst = le.AppendUint64(dst, uint64(e.Seq))
	}
	dst = le.AppendUint32(dst, uint32(len(entries)))
	le.PutUint32(dst[n:], indexCRC(dst[n:], off+uint64(len(dst)-n)))
	return dst
}

func indexCRC(block []byte, tail uint64) uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], tail)
	return crc32.Update(crc32.Checksum(block[4:], castagnoli), castagnoli, at[:])
}

// indexBlock is a view of a checked block.
type indexBlock struct {
	run  base.RunID
	prev uint64
	b    []byte // the entries
}

// parseIndexBlock returns the block that ends at tail, or why it is none.
func parseIndexBlock(b []byte, run base.RunID, tail uint64) (indexBlock, string) {
	le := binary.LittleEndian
	if len(b) < indexHeaderSize+indexTailSize {
		return indexBlock{}, "index block is cut short"
	}
	if le.Uint32(b) != indexCRC(b, tail) {
		return indexBlock{}, "checksum of index block"
	}
	n := le.Uint32(b[len(b)-indexTailSize:])
	x := indexBlock{run: run, prev: le.Uint64(b[16:]), b: b[indexHeaderSize : len(b)-indexTailSize]}
	switch {
	case le.Uint32(b[4:]) != indexMagic:
		return indexBlock{}, "not an index block"
	case base.RunID(le.Uint64(b[8:])) != run:
		return indexBlock{}, "index block of another run"
	case uint64(len(x.b)) != uint64(n)*indexEntrySize:
		return indexBlock{}, "length of index block"
	case x.prev >= tail:
		return indexBlock{}, "index blocks in a circle"
	}
	return x, ""
}

func (x *indexBlock) len() int { return len(x.b) / indexEntrySize }

func (x *indexBlock) entry(i int) IndexEntry {
	b := x.b[i*indexEntrySize:][:indexEntrySize]
	le := binary.LittleEndian
	return IndexEntry{
		Addr:  Addr{Run: x.run, Off: le.Uint64(b), Len: le.Uint32(b[8:])},
		Table: base.TableID(le.Uint32(b[12:])),
		Owner: base.TxnID(le.Uint64(b[16:])),
		Seq:   base.EditSeq(le.Uint64(b[24:])),
	}
}

// WriteIndex adds an index block for the frames since the previous one and
// returns the end of the last block: where WalkIndex starts. It is as cheap as
// adding a frame and needs no buffer reservation.
func (r *Run) WriteIndex() (tail uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writeIndexLocked()
	return r.tail
}

// writeIndexLocked implements WriteIndex. REQUIRES: r.mu is held.
func (r *Run) writeIndexLocked() {
	if len(r.pending) == 0 || r.refs.Load()&gone != 0 {
		return
	}
	r.scratch = appendIndexBlock(r.scratch[:0], r.id, r.tail, r.size.Load(), r.pending)
	r.s.bytes.force(int64(len(r.scratch)))
	r.appendLocked(r.scratch)
	r.tail = r.size.Load()
	r.pending = r.pending[:0]
}

// WalkIndex calls fn for every frame of the run that the index ending at tail
// names, newest first, until fn returns false or an error. A tail of 0 is an
// empty index. Fails with ErrRunNotFound if the run is gone.
func (s *Space) WalkIndex(run base.RunID, tail uint64, fn func(IndexEntry) (more bool, err error)) error {
	if tail == 0 {
		return nil
	}
	r := s.known(run)
	if r == nil || !r.Acquire() {
		return fmt.Errorf("saker: index of run %x: %w", uint64(run), ErrRunNotFound)
	}
	defer r.Release()
	var buf []byte
	for tail != 0 {
		x, b, err := r.readIndexBlock(tail, buf)
		if err != nil {
			return err
		}
		buf = b
		for i := x.len() - 1; i >= 0; i-- {
			if more, err := fn(x.entry(i)); err != nil || !more {
				return err
			}
		}
		tail = x.prev
	}
	return nil
}

// readIndexBlock reads the block that ends at tail into buf.
func (r *Run) readIndexBlock(tail uint64, buf []byte) (indexBlock, []byte, error) {
	corrupt := func(why string) error {
		return &base.CorruptionError{File: r.s.runPath(r.id), Offset: int64(tail), Why: why}
	}
	if tail < runHeaderSize+indexHeaderSize+indexTailSize {
		return indexBlock{}, buf, corrupt("address of index block")
	}
	buf, _, err := r.read(tail-indexTailSize, indexTailSize, noCRC, buf[:0])
	if err != nil {
		return indexBlock{}, buf, err
	}
	n := uint64(binary.LittleEndian.Uint32(buf))
	size := indexHeaderSize + n*indexEntrySize + indexTailSize
	if n > indexBlockEntries || size > tail-runHeaderSize {
		return indexBlock{}, buf, corrupt("length of index block")
	}
	if buf, _, err = r.read(tail-size, int(size), noCRC, buf[:0]); err != nil {
		return indexBlock{}, buf, err
	}
	x, why := parseIndexBlock(buf, r.id, tail)
	if why != "" {
		return indexBlock{}, buf, corrupt(why)
	}
	return x, buf, nil
}
