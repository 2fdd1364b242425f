package tablespace

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sakerdb/saker/internal/base"
)

// FrameRef is what the leaf map knows about a frame.
type FrameRef struct {
	Addr
	Owner  base.TxnID    // 0: committed
	Newest base.CommitTS // of its rows; 0 if Owner is set
	Leave  base.Leave    // greatest in it
	Rows   uint32
	Stones uint32 // of the rows, those that hold no value: tombstones and locks
	Image  bool
	Large  bool   // one large value, alone
	Merged bool   // made by a merge of a live owner's frames, which it does not overlap
	Filter []byte // immutable; empty: may contain anything
	// First and Last bound the keys in it, both included; nil: not known.
	First, Last []byte
}

// Entry is one leaf in the map: its fences and its frames. Frames and the byte
// slices are shared and immutable.
type Entry struct {
	Low    []byte
	High   []byte       // nil: up to the end of the table
	Seq    base.EditSeq // of its last edit: the leaf epoch (P7)
	Frames []FrameRef

	held []*Run // references taken by a lookup, by frame; nil: that run is gone
}

// Held returns the run of frame i of an entry that a lookup returned, on which
// the entry holds a reference until ReleaseEntry; nil if that run is gone,
// because its owner never committed.
func (en *Entry) Held(i int) *Run {
	if i >= len(en.held) {
		return nil
	}
	return en.held[i]
}

// An entry in Pebble: the key is 'm', the table (4, big-endian), Low; the value
//
//	| version 1 | flags 1 | seq v | high: length v, bytes | frames: count v, … | crc 4 |
//	frame: | flags 1 | run v | off v | len v | owner v | newest v | leave v | rows v | stones v, if flagged | filter, first, last: length v, bytes |
//
// v is a varint; the crc32c covers key and value.
const (
	entryVersion  = 1
	entryOpenHigh = 1 << 0 // High is nil
	frameImage    = 1 << 0
	frameMerged   = 1 << 1
	frameLarge    = 1 << 2
	frameStones   = 1 << 3
	// frameRefMin is the least size of an encoded frame: a bound for counts.
	frameRefMin = 11
)

func entryKey(dst []byte, table base.TableID, low []byte) []byte {
	dst = append(dst, keyEntry)
	dst = binary.BigEndian.AppendUint32(dst, uint32(table))
	return append(dst, low...)
}

const entryKeyPrefix = 5

func appendEntry(dst, key []byte, en *Entry) []byte {
	n := len(dst)
	var flags byte
	if en.High == nil {
		flags = entryOpenHigh
	}
	dst = append(dst, entryVersion, flags)
	dst = binary.AppendUvarint(dst, uint64(en.Seq))
	dst = appendBytes(dst, en.High)
	dst = binary.AppendUvarint(dst, uint64(len(en.Frames)))
	for i := range en.Frames {
		f := &en.Frames[i]
		flags = 0
		if f.Image {
			flags |= frameImage
		}
		if f.Merged {
			flags |= frameMerged
		}
		if f.Large {
			flags |= frameLarge
		}
		if f.Stones > 0 {
			flags |= frameStones
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, uint64(f.Run))
		dst = binary.AppendUvarint(dst, f.Off)
		dst = binary.AppendUvarint(dst, uint64(f.Len))
		dst = binary.AppendUvarint(dst, uint64(f.Owner))
		dst = binary.AppendUvarint(dst, uint64(f.Newest))
		dst = binary.AppendUvarint(dst, uint64(f.Leave))
		dst = binary.AppendUvarint(dst, uint64(f.Rows))
		if f.Stones > 0 {
			dst = binary.AppendUvarint(dst, uint64(f.Stones))
		}
		dst = appendBytes(dst, f.Filter)
		dst = appendBytes(dst, f.First)
		dst = appendBytes(dst, f.Last)
	}
	return appendRowCRC(dst, n, key)
}

// decodeEntry decodes a value. The entry aliases key and value.
func decodeEntry(key, value []byte) (Entry, error) {
	d := rowDecoder{key: key}
	if len(key) < entryKeyPrefix {
		return Entry{}, d.corrupt("key of leaf")
	}
	d.open(value, entryVersion)
	flags := d.byte()
	en := Entry{Low: key[entryKeyPrefix:], Seq: base.EditSeq(d.uint(64))}
	en.High = d.bytes()
	if flags&entryOpenHigh != 0 {
		en.High = nil
	}
	n := d.count(frameRefMin)
	if n > 0 {
		en.Frames = make([]FrameRef, n)
	}
	for i := range en.Frames {
		f := &en.Frames[i]
		flags := d.byte()
		f.Image, f.Merged, f.Large = flags&frameImage != 0, flags&frameMerged != 0, flags&frameLarge != 0
		f.Run = base.RunID(d.uint(64))
		f.Off = d.uint(64)
		f.Len = uint32(d.uint(32))
		f.Owner = base.TxnID(d.uint(64))
		f.Newest = base.CommitTS(d.uint(64))
		f.Leave = base.Leave(d.uint(32))
		f.Rows = uint32(d.uint(32))
		if flags&frameStones != 0 {
			f.Stones = uint32(d.uint(32))
		}
		f.Filter = d.bytes()
		f.First = known(d.bytes())
		f.Last = known(d.bytes())
	}
	if err := d.close(); err != nil {
		return Entry{}, err
	}
	return en, nil
}

// known turns an empty bound into none: no key is empty.
func known(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// rowCRC is the checksum of a row in Pebble.
func rowCRC(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// appendRowCRC closes the row that starts at dst[n].
func appendRowCRC(dst []byte, n int, key []byte) []byte {
	return binary.LittleEndian.AppendUint32(dst, rowCRC(key, dst[n:]))
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}
