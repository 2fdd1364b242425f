package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/sakerdb/saker/internal/base"
)

// Segment header, at offset 0 of the file, little endian:
//
//	 8  magic "SAKERLOG"
//	 4  version
//	 4  incarnation of the store that wrote the segment
//	 8  sequence number
//	 8  segment size in bytes
//	 8  prevEnd: position at which the log left the previous segment
//	 8  synced: position known synced when the header was written
//	12  zero
//	 4  crc32c of the 60 bytes before it
const (
	// HeaderSize is the length of a segment header; the first block follows.
	HeaderSize = 64

	headerMagic   = "SAKERLOG"
	headerVersion = 1
)

// Block header, little endian; the payload follows:
//
//	4  magic
//	4  length of the payload, ≥ 1
//	8  synced: position known synced when the block was written
//	4  crc32c of the payload, continued from the header's crc32c
//	4  crc32c of length and synced, continued from the hash of the place:
//	   sequence number, incarnation, offset
const (
	// BlockHeaderSize is the length of a block header.
	BlockHeaderSize = 24

	blockMagic = 0x6b425a9d
)

const nameSuffix = ".seg"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header says which part of the log a file holds.
type Header struct {
	Seq         uint64
	Incarnation uint32
	Size        int64
	PrevEnd     base.LSN
	Synced      base.LSN
}

// Name returns the file name of segment seq.
func Name(seq uint64) string { return fmt.Sprintf("%012d%s", seq, nameSuffix) }

// ParseName returns the sequence number in a file name made by Name.
func ParseName(name string) (seq uint64, ok bool) {
	digits, found := strings.CutSuffix(name, nameSuffix)
	if !found || len(digits) < 12 {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil && seq > 0 && Name(seq) == name
}

// PutHeader encodes h into the first HeaderSize bytes of dst.
func PutHeader(dst []byte, h *Header) {
	dst = dst[:HeaderSize]
	clear(dst)
	copy(dst, headerMagic)
	binary.LittleEndian.PutUint32(dst[8:], headerVersion)
	binary.LittleEndian.PutUint32(dst[12:], h.Incarnation)
	binary.LittleEndian.PutUint64(dst[16:], h.Seq)
	binary.LittleEndian.PutUint64(dst[24:], uint64(h.Size))
	binary.LittleEndian.PutUint64(dst[32:], uint64(h.PrevEnd))
	binary.LittleEndian.PutUint64(dst[40:], uint64(h.Synced))
	binary.LittleEndian.PutUint32(dst[60:], crc32.Checksum(dst[:60], castagnoli))
}

// ParseHeader decodes a header; ok is false when src holds none.
func ParseHeader(src []byte) (h Header, ok bool) {
	if len(src) < HeaderSize || string(src[:8]) != headerMagic ||
		binary.LittleEndian.Uint32(src[60:]) != crc32.Checksum(src[:60], castagnoli) ||
		binary.LittleEndian.Uint32(src[8:]) != headerVersion {
		return Header{}, false
	}
	return Header{
		Incarnation: binary.LittleEndian.Uint32(src[12:]),
		Seq:         binary.LittleEndian.Uint64(src[16:]),
		Size:        int64(binary.LittleEndian.Uint64(src[24:])),
		PrevEnd:     base.LSN(binary.LittleEndian.Uint64(src[32:])),
		Synced:      base.LSN(binary.LittleEndian.Uint64(src[40:])),
	}, true
}

// Place is where a block is, and in which life of the store it was written.
type Place struct {
	Seq         uint64
	Incarnation uint32
	Off         int64 // of the block header within the segment
}

// SealBlock fills the header of block: BlockHeaderSize bytes of room, then the
// payload.
func SealBlock(block []byte, p Place, synced base.LSN) {
	payload := block[BlockHeaderSize:]
	binary.LittleEndian.PutUint32(block, blockMagic)
	binary.LittleEndian.PutUint32(block[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(block[8:], uint64(synced))
	head := headCRC(p, block)
	binary.LittleEndian.PutUint32(block[16:], crc32.Update(head, castagnoli, payload))
	binary.LittleEndian.PutUint32(block[20:], head)
}

// checkHead reports whether src begins with the header of a block at p, and the
// length of the payload.
func checkHead(src []byte, p Place) (length int, synced base.LSN, ok bool) {
	if len(src) < BlockHeaderSize || binary.LittleEndian.Uint32(src) != blockMagic {
		return 0, 0, false
	}
	n := binary.LittleEndian.Uint32(src[4:])
	if n == 0 || n > 1<<30 || headCRC(p, src) != binary.LittleEndian.Uint32(src[20:]) {
		return 0, 0, false
	}
	return int(n), base.LSN(binary.LittleEndian.Uint64(src[8:])), true
}

// checkPayload verifies a whole block whose header passed checkHead.
func checkPayload(block []byte) bool {
	head := binary.LittleEndian.Uint32(block[20:])
	return crc32.Update(head, castagnoli, block[BlockHeaderSize:]) == binary.LittleEndian.Uint32(block[16:])
}

// headCRC covers the length and synced position, which are stored, and the
// place, which is not: it is hashed into the initial value. (Bytes on the stack
// for it would escape through crc32's function pointers, at each block.)
func headCRC(p Place, head []byte) uint32 {
	seed := mix64(mix64(p.Seq)+uint64(p.Incarnation)) + uint64(p.Off)
	return crc32.Update(uint32(mix64(seed)>>32), castagnoli, head[4:16])
}

// mix64 is the finalizer of SplitMix64, a bijection in which every bit of the
// argument changes about half of those of the result. Part of the format.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
