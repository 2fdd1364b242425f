package versionchain

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/sakerdb/saker/internal/base"
)

// frameShape is what the first pass over the rows finds out.
type frameShape struct {
	flags     uint32
	size      int // of the frame
	filterLen int
	prefix    int
	dataLen   int
	minTS     base.CommitTS
	maxTS     base.CommitTS
	maxLeave  base.Leave
}

// AppendFrame appends a frame of rows to dst; its crc is left zero. Keys and
// values are copied. The newest timestamp and the greatest leave number are
// raised to those of the rows if m names lower ones. Nothing is allocated
// beyond the growth of dst.
//
// REQUIRES: rows are sorted by key, newest first within a key; keys and fences
// are not longer than a key and its successor may be; TS is 0 if m.Owner is not.
func AppendFrame(dst []byte, m *FrameMeta, rows []Row) []byte {
	s := shapeOf(m, rows)
	at := len(dst)
	dst = slices.Grow(dst, s.size)[:at+s.size]
	f := Frame{b: dst[at:], flags: s.flags, rows: uint32(len(rows))}
	writeHeader(&f, m, &s, rows)
	f.place()
	writeColumns(&f, &s, rows)
	writeRows(&f, &s, rows)
	writeFilter(f.b[int(f.heads)-s.filterLen:f.heads], rows)
	return dst
}

// RowOverheadBound is the most that a row takes in the columns of a frame, its
// filter not included: head, offset, key length, timestamp, epoch, leave
// number, kind.
const RowOverheadBound = 4 + 4 + 2 + 8 + 4 + 4 + 1

// shapeOf finds out which columns a frame of rows needs, and its length.
func shapeOf(m *FrameMeta, rows []Row) frameShape {
	n := len(rows)
	s := frameShape{filterLen: filterSize(n)}
	if m.Image {
		s.flags |= flagImage
	}
	if m.High == nil {
		s.flags |= flagHighOpen
	}
	var keyDiff, rowDiff int
	var epochDiff uint32 // a column is needed wherever a bit differs from row 0
	var leaveDiff, kindDiff uint32
	if n > 0 {
		r0 := &rows[0]
		s.minTS, s.maxTS = r0.TS, r0.TS
		s.prefix = commonPrefix(r0.Key, rows[n-1].Key)
		key0, row0 := len(r0.Key), len(r0.Key)+len(r0.Value)
		epoch0, leave0, kind0 := r0.Epoch, r0.Leave, r0.Kind
		for i := range rows {
			r := &rows[i]
			l := len(r.Key) + len(r.Value)
			s.dataLen += l
			rowDiff |= l ^ row0
			keyDiff |= len(r.Key) ^ key0
			s.minTS = min(s.minTS, r.TS)
			s.maxTS = max(s.maxTS, r.TS)
			s.maxLeave = max(s.maxLeave, r.Leave)
			epochDiff |= uint32(r.Epoch ^ epoch0)
			leaveDiff |= uint32(r.Leave ^ leave0)
			kindDiff |= uint32(r.Kind ^ kind0)
		}
	}
	s.size = FrameHeaderSize + len(m.Low) + len(m.High) + s.filterLen + 4*n + s.dataLen
	if rowDiff != 0 {
		if s.dataLen <= math.MaxUint16 {
			s.flags |= flagOffset16
			s.size += 2 * (n + 1)
		} else {
			s.flags |= flagOffset32
			s.size += 4 * (n + 1)
		}
	}
	if keyDiff != 0 {
		s.flags |= flagKeyLens
		s.size += 2 * n
	}
	if s.minTS != s.maxTS {
		if s.maxTS-s.minTS <= math.MaxUint32 {
			s.flags |= flagTS32
			s.size += 4 * n
		} else {
			s.flags |= flagTS64
			s.size += 8 * n
		}
	}
	if epochDiff != 0 {
		s.flags |= flagEpochs
		s.size += 4 * n
	}
	if leaveDiff != 0 {
		s.flags |= flagLeaves
		s.size += 4 * n
	}
	if kindDiff != 0 {
		s.flags |= flagKinds
		s.size += n
	}
	return s
}

func writeHeader(f *Frame, m *FrameMeta, s *frameShape, rows []Row) {
	le, b := binary.LittleEndian, f.b
	clear(b[:FrameHeaderSize])
	le.PutUint32(b[posLength:], uint32(s.size))
	b[posMagic], b[posVersion] = frameMagic, frameVersion
	le.PutUint16(b[posFlags:], uint16(s.flags))
	le.PutUint32(b[posTable:], uint32(m.Table))
	le.PutUint64(b[posOwner:], uint64(m.Owner))
	le.PutUint64(b[posNewest:], uint64(max(m.Newest, s.maxTS)))
	le.PutUint64(b[posTS:], uint64(s.maxTS))
	le.PutUint32(b[posLeave:], uint32(max(m.Leave, s.maxLeave)))
	le.PutUint32(b[posRows:], uint32(len(rows)))
	le.PutUint16(b[posPrefix:], uint16(s.prefix))
	le.PutUint16(b[posLowLen:], uint16(len(m.Low)))
	le.PutUint16(b[posHighLen:], uint16(len(m.High)))
	le.PutUint16(b[posFilterLen:], uint16(s.filterLen))
	if len(rows) > 0 {
		r := &rows[0]
		f.rowLen, f.keyLen = uint32(len(r.Key)+len(r.Value)), uint32(len(r.Key))
		if s.flags&flagEpochs == 0 {
			le.PutUint32(b[posEpoch:], uint32(r.Epoch))
		}
		if s.flags&flagLeaves == 0 {
			le.PutUint32(b[posRowLeave:], uint32(r.Leave))
		}
		if s.flags&flagsOffset == 0 {
			le.PutUint32(b[posRowLen:], f.rowLen)
		}
		if s.flags&flagKeyLens == 0 {
			le.PutUint16(b[posKeyLen:], uint16(f.keyLen))
		}
		if s.flags&flagKinds == 0 {
			b[posKind] = byte(r.Kind)
		}
	}
	at := FrameHeaderSize
	at += copy(b[at:], m.Low)
	copy(b[at:], m.High)
}

// writeColumns writes those columns that most frames do not have.
func writeColumns(f *Frame, s *frameShape, rows []Row) {
	le := binary.LittleEndian
	if f.flags&flagKeyLens != 0 {
		for i, col := 0, f.b[f.kls:f.tss]; i < len(rows); i++ {
			le.PutUint16(col[2*i:], uint16(len(rows[i].Key)))
		}
	}
	if f.flags&flagTS32 != 0 {
		for i, col := 0, f.b[f.tss:f.epochs]; i < len(rows); i++ {
			le.PutUint32(col[4*i:], uint32(s.maxTS-rows[i].TS))
		}
	}
	if f.flags&flagTS64 != 0 {
		for i, col := 0, f.b[f.tss:f.epochs]; i < len(rows); i++ {
			le.PutUint64(col[8*i:], uint64(rows[i].TS))
		}
	}
	if f.flags&flagEpochs != 0 {
		for i, col := 0, f.b[f.epochs:f.leaves]; i < len(rows); i++ {
			le.PutUint32(col[4*i:], uint32(rows[i].Epoch))
		}
	}
	if f.flags&flagLeaves != 0 {
		for i, col := 0, f.b[f.leaves:f.kinds]; i < len(rows); i++ {
			le.PutUint32(col[4*i:], uint32(rows[i].Leave))
		}
	}
	if f.flags&flagKinds != 0 {
		for i, col := 0, f.b[f.kinds:f.data]; i < len(rows); i++ {
			col[i] = byte(rows[i].Kind)
		}
	}
}

// writeRows writes heads, offsets, keys and values.
func writeRows(f *Frame, s *frameShape, rows []Row) {
	le := binary.LittleEndian
	heads := f.b[f.heads:f.offs]
	data := f.b[f.data:]
	at := 0
	for i := range rows {
		r := &rows[i]
		le.PutUint32(heads[4*i:], keyHead(r.Key, s.prefix))
		at += copy(data[at:], r.Key)
		at += copy(data[at:], r.Value)
	}
	if f.flags&flagsOffset == 0 {
		return
	}
	offs := f.b[f.offs:f.kls]
	at = 0
	for i := 0; i <= len(rows); i++ {
		if f.flags&flagOffset16 != 0 {
			le.PutUint16(offs[2*i:], uint16(at))
		} else {
			le.PutUint32(offs[4*i:], uint32(at))
		}
		if i < len(rows) {
			at += len(rows[i].Key) + len(rows[i].Value)
		}
	}
}

// writeFilter makes the filter of the rows, without a list of hashes.
func writeFilter(filter []byte, rows []Row) {
	clear(filter)
	probes := filterProbes(len(filter), len(rows))
	filter[0] = probes
	for i := range rows {
		filterAdd(filter, probes, base.Hash(rows[i].Key))
	}
}

// commonPrefix returns how many bytes a and b have in common at their start.
func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
