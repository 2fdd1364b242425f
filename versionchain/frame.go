package versionchain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/sakerdb/saker/internal/base"
)

// A frame is one leaf's rows, immutable, in key order and newest first within a
// key. It is both the unit of I/O and the format that readers search in place:
// nothing is decoded into structures. All integers are little-endian.
//
//	header                          width  at
//	  length of the frame               4   0
//	  crc32c, zero until sealed         4   4   see SealFrame
//	  magic 0xF5                        1   8
//	  version                           1   9
//	  flags                             2  10
//	  table                             4  12
//	  owner, 0 = committed              8  16
//	  newest timestamp                  8  24
//	  timestamp base                    8  32   of every row, or what the column counts down from
//	  greatest leave number             4  40
//	  rows (n)                          4  44
//	  epoch of every row                4  48   if there is no column
//	  leave number of every row         4  52   if there is no column
//	  key+value length of every row     4  56   if there are no offsets
//	  key length of every row           2  60   if there is no column
//	  length of the common key prefix   2  62
//	  length of the low fence           2  64
//	  length of the high fence          2  66
//	  length of the filter              2  68
//	  kind of every row                 1  70   if there is no column
//	  zero                              1  71
//	low fence, high fence, filter           72
//	body
//	  heads        4 × n      four key bytes after the common prefix, zero padded, as a number
//	  offsets      0|2|4 × n+1  of rows within the data; absent if all are of one length
//	  key lengths  0|2 × n
//	  timestamps   0|4|8 × n  4: subtracted from the base
//	  epochs       0|4 × n
//	  leaves       0|4 × n
//	  kinds        0|1 × n
//	  data         key and value of each row, back to back
//
// A row of an 8-byte key and a 100-byte value takes 112 bytes where lengths are
// uniform and 114 otherwise. Keys are stored whole, so that Row and Key return
// slices of the frame; only the search leaves out the common prefix.
const (
	// FrameHeaderSize is the length of the fixed part of a frame.
	FrameHeaderSize = 72
	// MaxFrameSize is the greatest length of a frame that decoders accept: a
	// value of base.MaxValueSize fits with room to spare.
	MaxFrameSize = 256 << 20

	frameMagic   = 0xF5
	frameVersion = 1

	posLength    = 0
	posCRC       = 4
	posMagic     = 8
	posVersion   = 9
	posFlags     = 10
	posTable     = 12
	posOwner     = 16
	posNewest    = 24
	posTS        = 32
	posLeave     = 40
	posRows      = 44
	posEpoch     = 48
	posRowLeave  = 52
	posRowLen    = 56
	posKeyLen    = 60
	posPrefix    = 62
	posLowLen    = 64
	posHighLen   = 66
	posFilterLen = 68
	posKind      = 70
	posZero      = 71
)

// Flags of a frame.
const (
	flagImage      = 1 << iota // complete, one version per record
	flagHighOpen               // no high fence
	flagOffset16               // offsets of 2 bytes
	flagOffset32               // offsets of 4 bytes
	flagKeyLens                // key length column
	flagTS32                   // timestamp column, 4 bytes below the base
	flagTS64                   // timestamp column, 8 bytes
	flagEpochs                 // epoch column
	flagLeaves                 // leave number column
	flagKinds                  // kind column
	flagsEnd                   // first bit without a meaning
	flagsOffset    = flagOffset16 | flagOffset32
	flagsTS        = flagTS32 | flagTS64
	flagsOrderCols = flagsTS | flagEpochs | flagLeaves | flagKinds
)

// FrameMeta is what the header of a frame says about its rows.
type FrameMeta struct {
	Table  base.TableID
	Low    []byte        // fence: every key is ≥ Low
	High   []byte        // fence: every key is < High; nil is open
	Owner  base.TxnID    // whose rows these are until decided; 0: committed
	Newest base.CommitTS // greatest timestamp in it; 0 in an owned frame
	Leave  base.Leave    // greatest leave number in it
	Image  bool          // holds one committed version of every record in its range
}

// Row is one version of one record. In an owned frame Order.TS is zero: the
// owner's outcome decides it.
type Row struct {
	Key, Value []byte
	base.Order
	Kind base.Kind
}

// Frame is a view of the bytes of one frame: a plain value that points to
// nothing but them. It is made by ParseFrame and safe for concurrent use.
type Frame struct {
	b      []byte
	flags  uint32
	rows   uint32
	heads  uint32 // where the columns begin in b
	offs   uint32
	kls    uint32
	tss    uint32
	epochs uint32
	leaves uint32
	kinds  uint32
	data   uint32
	rowLen uint32
	keyLen uint32
	prefix uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameCRC is the checksum of a sealed frame: the crc32c of everything after
// the crc field, begun from a value that stands for run, offset and length, so
// that a frame which was read from a wrong place, or with a wrong length, does
// not pass. The crc is begun that way instead of being fed those 20 bytes
// because the slice handed to crc32 would escape to the heap.
func frameCRC(frame []byte, run base.RunID, off uint64) uint32 {
	seed := uint64(run)*0x9E3779B97F4A7C15 ^ (off+1)*0xC2B2AE3D27D4EB4F ^ uint64(len(frame))*0x165667B19E3779F9
	seed ^= seed >> 29
	seed *= 0xBF58476D1CE4E5B9
	return crc32.Update(uint32(seed>>32), castagnoli, frame[posMagic:])
}

// SealFrame stores the checksum of a frame that lies at off in run.
//
// REQUIRES: frame is what AppendFrame appended, and nobody reads its crc field.
func SealFrame(frame []byte, run base.RunID, off uint64) {
	binary.LittleEndian.PutUint32(frame[posCRC:], frameCRC(frame, run, off))
}

// CheckFrame returns nil if frame is, byte for byte, a frame that was sealed
// for this place, else a *base.CorruptionError. Its File is the number of the
// run; who knows the path may replace it.
func CheckFrame(frame []byte, run base.RunID, off uint64) error {
	n, err := FrameLen(frame)
	if err == nil && n != len(frame) {
		err = corruptf("frame of %d bytes where %d are expected", n, len(frame))
	}
	if err == nil {
		if got := binary.LittleEndian.Uint32(frame[posCRC:]); got != frameCRC(frame, run, off) {
			err = corruptf("frame checksum does not match")
		}
	}
	if err == nil {
		return nil
	}
	if ce, ok := errors.AsType[*base.CorruptionError](err); ok {
		ce.File, ce.Offset = fmt.Sprintf("run %d", uint64(run)), int64(off)
	}
	return err
}

// LooksLikeFrame reports whether b may be the beginning of a frame, for who looks
// for one behind damage. At least 12 bytes tell.
func LooksLikeFrame(b []byte) bool {
	return len(b) >= posTable && b[posMagic] == frameMagic && b[posVersion] == frameVersion
}

// FrameLen returns the length of the frame that begins with b, of which the
// first 4 bytes are enough. The length is plausible, not verified.
func FrameLen(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, corruptf("frame ends in its length")
	}
	n := binary.LittleEndian.Uint32(b[posLength:])
	if n < FrameHeaderSize || n > MaxFrameSize {
		return 0, corruptf("frame length %d", n)
	}
	return int(n), nil
}

// ParseFrame returns a view of the frame that b begins with. It checks the
// header and where the columns lie, in constant time; after it no accessor
// reads outside b, whatever the bytes. Sense is what the checksum and Verify
// are for.
func ParseFrame(b []byte) (Frame, error) {
	n, err := FrameLen(b)
	if err != nil {
		return Frame{}, err
	}
	if n > len(b) {
		return Frame{}, corruptf("frame of %d bytes, %d present", n, len(b))
	}
	b = b[:n:n]
	if b[posMagic] != frameMagic || b[posVersion] != frameVersion {
		return Frame{}, corruptf("not a frame: magic %#x version %d", b[posMagic], b[posVersion])
	}
	le := binary.LittleEndian
	f := Frame{
		b:      b,
		flags:  uint32(le.Uint16(b[posFlags:])),
		rows:   le.Uint32(b[posRows:]),
		rowLen: le.Uint32(b[posRowLen:]),
		keyLen: uint32(le.Uint16(b[posKeyLen:])),
		prefix: uint32(le.Uint16(b[posPrefix:])),
	}
	if f.flags >= flagsEnd || f.flags&flagsOffset == flagsOffset || f.flags&flagsTS == flagsTS ||
		b[posZero] != 0 || b[posKind] > byte(base.KindLock) ||
		f.flags&flagHighOpen != 0 && le.Uint16(b[posHighLen:]) != 0 {
		return Frame{}, corruptf("frame flags %#x kind %d", f.flags, b[posKind])
	}
	if uint64(f.rows)*4 > uint64(n) {
		return Frame{}, corruptf("frame of %d bytes has %d rows", n, f.rows)
	}
	f.place()
	dataLen := int64(n) - int64(f.data)
	if dataLen < 0 {
		return Frame{}, corruptf("frame columns end at %d of %d", f.data, n)
	}
	if f.flags&flagsOffset == 0 {
		if int64(f.rows)*int64(f.rowLen) != dataLen || f.flags&flagKeyLens == 0 && f.keyLen > f.rowLen {
			return Frame{}, corruptf("frame rows of %d bytes, key %d, rows %d, data %d", f.rowLen, f.keyLen, f.rows, dataLen)
		}
	}
	if f.prefix > 0 && (f.rows == 0 || int(f.prefix) > len(f.Key(0))) {
		return Frame{}, corruptf("frame prefix of %d bytes", f.prefix)
	}
	return f, nil
}

// place computes where the columns begin. Sums cannot overflow: there are at
// most MaxFrameSize/4 rows, and 27 bytes of columns for each.
func (f *Frame) place() {
	le, n := binary.LittleEndian, f.rows
	f.heads = FrameHeaderSize + uint32(le.Uint16(f.b[posLowLen:])) +
		uint32(le.Uint16(f.b[posHighLen:])) + uint32(le.Uint16(f.b[posFilterLen:]))
	at := f.heads + 4*n
	f.offs = at
	switch {
	case f.flags&flagOffset16 != 0:
		at += 2 * (n + 1)
	case f.flags&flagOffset32 != 0:
		at += 4 * (n + 1)
	}
	f.kls = at
	if f.flags&flagKeyLens != 0 {
		at += 2 * n
	}
	f.tss = at
	switch {
	case f.flags&flagTS32 != 0:
		at += 4 * n
	case f.flags&flagTS64 != 0:
		at += 8 * n
	}
	f.epochs = at
	if f.flags&flagEpochs != 0 {
		at += 4 * n
	}
	f.leaves = at
	if f.flags&flagLeaves != 0 {
		at += 4 * n
	}
	f.kinds = at
	if f.flags&flagKinds != 0 {
		at += n
	}
	f.data = at
}

func corruptf(format string, args ...any) error {
	return &base.CorruptionError{Why: fmt.Sprintf(format, args...)}
}
