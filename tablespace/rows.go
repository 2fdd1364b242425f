package tablespace

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/sakerdb/saker/internal/base"
)

// The first byte of a key in Pebble says what the row is. Every value starts
// with a version byte and ends with a crc32c of key and value.
const (
	keyEntry      = 'm' // + table be4 + low: a leaf
	keyOutcome    = 'o' // + txn be8
	keyTable      = 't' // + table be4
	keyRun        = 'r' // + run be8; no row: nothing lists it
	keyMeta       = 'k' // + name
	keyCheckpoint = 'p'
	keyPrefix     = 's' // the edits that survived

	rowVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Outcome is the fate of a transaction that frames may still name.
type Outcome struct {
	Txn  base.TxnID
	TS   base.CommitTS // 0: aborted
	Dead []base.EpochRange
	Runs []base.RunID
}

// TableRow is a table of the catalog.
type TableRow struct {
	ID   base.TableID
	Name string
	Meta []byte
}

// RunRow is what is known about a run when the store is opened.
type RunRow struct {
	Run    base.RunID
	Owner  base.TxnID
	Count  int64 // list entries that name it; 0 if it has no row
	Bytes  int64 // of the file, 0 if there is none
	OnDisk bool
}

func key8(kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, id)
}

func tableKey(id base.TableID) []byte {
	return binary.BigEndian.AppendUint32([]byte{keyTable}, uint32(id))
}

func appendOutcome(dst, key []byte, o *Outcome) []byte {
	n := len(dst)
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, uint64(o.TS))
	dst = binary.AppendUvarint(dst, uint64(len(o.Dead)))
	for _, r := range o.Dead {
		dst = binary.AppendUvarint(dst, uint64(r.From))
		dst = binary.AppendUvarint(dst, uint64(r.To))
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.Runs)))
	for _, r := range o.Runs {
		dst = binary.AppendUvarint(dst, uint64(r))
	}
	return appendRowCRC(dst, n, key)
}

func decodeOutcome(key, value []byte) (Outcome, error) {
	d := rowDecoder{key: key}
	if len(key) != 9 {
		return Outcome{}, d.corrupt("key of outcome")
	}
	d.open(value, rowVersion)
	o := Outcome{Txn: base.TxnID(binary.BigEndian.Uint64(key[1:])), TS: base.CommitTS(d.uint(64))}
	for n := d.count(2); n > 0; n-- {
		o.Dead = append(o.Dead, base.EpochRange{From: base.Epoch(d.uint(32)), To: base.Epoch(d.uint(32))})
	}
	for n := d.count(1); n > 0; n-- {
		o.Runs = append(o.Runs, base.RunID(d.uint(64)))
	}
	return o, d.close()
}

func appendTable(dst, key []byte, t *TableRow) []byte {
	n := len(dst)
	dst = append(dst, rowVersion)
	dst = appendBytes(dst, []byte(t.Name))
	dst = appendBytes(dst, t.Meta)
	return appendRowCRC(dst, n, key)
}

func decodeTable(key, value []byte) (TableRow, error) {
	d := rowDecoder{key: key}
	if len(key) != 5 {
		return TableRow{}, d.corrupt("key of table")
	}
	d.open(value, rowVersion)
	t := TableRow{ID: base.TableID(binary.BigEndian.Uint32(key[1:]))}
	t.Name = string(d.bytes())
	t.Meta = append([]byte(nil), d.bytes()...)
	return t, d.close()
}

// appendUints encodes rows that are numbers only: run, checkpoint, prefix.
func appendUints(dst, key []byte, vals ...uint64) []byte {
	n := len(dst)
	dst = append(dst, rowVersion)
	for _, v := range vals {
		dst = binary.AppendUvarint(dst, v)
	}
	return appendRowCRC(dst, n, key)
}

func decodeUints(key, value []byte, vals ...*uint64) error {
	d := rowDecoder{key: key}
	d.open(value, rowVersion)
	for _, v := range vals {
		*v = d.uint(64)
	}
	return d.close()
}

func appendMeta(dst, key, val []byte) []byte {
	n := len(dst)
	dst = append(dst, rowVersion)
	dst = append(dst, val...)
	return appendRowCRC(dst, n, key)
}

func decodeMeta(key, value []byte) ([]byte, error) {
	d := rowDecoder{key: key}
	d.open(value, rowVersion)
	val := append([]byte(nil), d.b...)
	d.b = nil
	return val, d.close()
}

// rowDecoder decodes a value; the first fault sticks and everything after it
// reads as zero.
type rowDecoder struct {
	key []byte
	b   []byte
	err error
}

// fail notes a fault; close returns it.
func (d *rowDecoder) fail(why string) {
	if d.err == nil {
		d.err = &base.CorruptionError{File: mapDirName, Why: fmt.Sprintf("row %q: %s", d.key, why)}
	}
	d.b = nil
}

// corrupt is fail for whoever gives up at once.
func (d *rowDecoder) corrupt(why string) error {
	d.fail(why)
	return d.err
}

// open checks version and checksum.
func (d *rowDecoder) open(value []byte, version byte) {
	n := len(value) - 4
	if n < 1 {
		d.fail("cut short")
		return
	}
	if binary.LittleEndian.Uint32(value[n:]) != rowCRC(d.key, value[:n]) {
		d.fail("checksum")
		return
	}
	if value[0] != version {
		d.fail("unknown version")
		return
	}
	d.b = value[1:n:n]
}

func (d *rowDecoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("ends early")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// uint reads a varint of at most the given number of bits.
func (d *rowDecoder) uint(bits int) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || bits < 64 && v>>bits != 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads the number of items that follow, each of at least size bytes.
func (d *rowDecoder) count(size int) int {
	n := d.uint(64)
	if n > uint64(len(d.b)/size) {
		d.fail("bad count")
		return 0
	}
	return int(n)
}

func (d *rowDecoder) bytes() []byte {
	n := d.uint(64)
	if n > uint64(len(d.b)) {
		d.fail("bad length")
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *rowDecoder) close() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("trailing bytes")
	}
	return d.err
}

// decodeRun decodes the row of a run. The size in it is for people.
func decodeRun(key, value []byte) (id base.RunID, count int64, owner base.TxnID, err error) {
	d := rowDecoder{key: key}
	if len(key) != 9 {
		return 0, 0, 0, d.corrupt("key of run")
	}
	var n, size uint64
	if err := decodeUints(key, value, &n, &size, (*uint64)(&owner)); err != nil {
		return 0, 0, 0, err
	}
	if n == 0 || n > math.MaxInt64 {
		return 0, 0, 0, d.corrupt("count of run")
	}
	return base.RunID(binary.BigEndian.Uint64(key[1:])), int64(n), owner, nil
}
