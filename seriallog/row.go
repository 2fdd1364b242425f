package seriallog

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/sakerdb/saker/internal/base"
)

// Row is one logged version.
type Row struct {
	Table base.TableID
	Kind  base.Kind
	Epoch base.Epoch
	Leave base.Leave
	Key   []byte
	Value []byte
}

// Row encoding. It carries its own checksum because thaw reads one row out of
// the middle of a block:
//
//	4   crc32c of what follows
//	1   kind
//	1–5 table, epoch, leave, key length, value length: one uvarint each
//	n   key
//	n   value
const rowCRCSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RowSize returns the number of bytes that AppendRow appends.
func RowSize(r *Row) int {
	return rowCRCSize + 1 +
		uvarintSize(uint64(r.Table)) + uvarintSize(uint64(r.Epoch)) + uvarintSize(uint64(r.Leave)) +
		uvarintSize(uint64(len(r.Key))) + uvarintSize(uint64(len(r.Value))) +
		len(r.Key) + len(r.Value)
}

// AppendRow appends the encoding of r to dst.
func AppendRow(dst []byte, r *Row) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(r.Kind))
	dst = binary.AppendUvarint(dst, uint64(r.Table))
	dst = binary.AppendUvarint(dst, uint64(r.Epoch))
	dst = binary.AppendUvarint(dst, uint64(r.Leave))
	dst = binary.AppendUvarint(dst, uint64(len(r.Key)))
	dst = binary.AppendUvarint(dst, uint64(len(r.Value)))
	dst = append(dst, r.Key...)
	dst = append(dst, r.Value...)
	binary.LittleEndian.PutUint32(dst[at:], crc32.Checksum(dst[at+rowCRCSize:], castagnoli))
	return dst
}

// DecodeRow decodes the row at the beginning of src and returns its length. Key
// and value of r alias src.
func DecodeRow(src []byte) (r Row, n int, err error) {
	if len(src) < rowCRCSize+1 {
		return Row{}, 0, rowError("row is cut off")
	}
	kind := base.Kind(src[rowCRCSize])
	d := decoder{src: src, off: rowCRCSize + 1}
	table := d.uvarint(math.MaxUint32)
	epoch := d.uvarint(math.MaxUint32)
	leave := d.uvarint(math.MaxUint32)
	// Lengths beyond the rest of src are refused before anything adds them up.
	klen := d.uvarint(uint64(len(src)))
	vlen := d.uvarint(uint64(len(src)))
	key := d.bytes(klen)
	value := d.bytes(vlen)
	if d.bad {
		return Row{}, 0, rowError("row is cut off or has a field out of range")
	}
	if crc32.Checksum(src[rowCRCSize:d.off], castagnoli) != binary.LittleEndian.Uint32(src) {
		return Row{}, 0, rowError("row checksum mismatch")
	}
	if kind > base.KindLock {
		return Row{}, 0, rowError("row of unknown kind")
	}
	return Row{
		Table: base.TableID(table),
		Kind:  kind,
		Epoch: base.Epoch(epoch),
		Leave: base.Leave(leave),
		Key:   key,
		Value: value,
	}, d.off, nil
}

// rowError reports a bad row; the caller knows where it was read from.
func rowError(why string) error {
	return &base.CorruptionError{File: "serial log", Why: why}
}

// decoder reads fields from bytes that may be anything. The first field that is
// cut off or out of range makes bad true and everything after it zero.
type decoder struct {
	src []byte
	off int
	bad bool
}

// uvarint returns the next number, which must not exceed limit.
func (d *decoder) uvarint(limit uint64) uint64 {
	if d.bad {
		return 0
	}
	if d.off < len(d.src) && d.src[d.off] < 0x80 && uint64(d.src[d.off]) <= limit {
		d.off++
		return uint64(d.src[d.off-1])
	}
	v, n := binary.Uvarint(d.src[d.off:])
	if n <= 0 || v > limit {
		d.bad = true
		return 0
	}
	d.off += n
	return v
}

// bytes returns the next n bytes.
func (d *decoder) bytes(n uint64) []byte {
	if d.bad || n > uint64(len(d.src)-d.off) {
		d.bad = true
		return nil
	}
	b := d.src[d.off : d.off+int(n) : d.off+int(n)]
	d.off += int(n)
	return b
}

// count returns the next number as the length of a list whose elements take at
// least min bytes each, so that no list is longer than its bytes allow.
func (d *decoder) count(min int) int {
	return int(d.uvarint(uint64((len(d.src) - d.off) / min)))
}

// uvarintSize returns the length of v as a uvarint.
func uvarintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
