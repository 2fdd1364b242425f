package seriallog

import (
	"encoding/binary"
	"math"

	"github.com/sakerdb/saker/internal/base"
)

// Type says what a record is.
type Type uint8

const (
	// TypeGroup is rows of a transaction, logged ahead of its commit.
	TypeGroup Type = iota + 1
	// TypeCommit is a commit, with the rows not logged before.
	TypeCommit
	// TypeDDL is a change of the set of tables or of a persisted ceiling.
	TypeDDL

	// typeEnd closes a segment and names the next one; zero is none yet. It is
	// never delivered.
	typeEnd
)

// String names the type.
func (t Type) String() string {
	return base.Name(t, "type", "", "group", "commit", "ddl", "end")
}

// RunTail names a run and the end of the last index block in it that a
// transaction's frames depend on.
type RunTail struct {
	Run  base.RunID
	Tail uint64
}

// Commit is the truth about one transaction (L1).
type Commit struct {
	Txn        base.TxnID
	TS         base.CommitTS
	Runs       []RunTail         // runs that hold frames it owns
	FirstGroup base.LSN          // start of its first group; 0: no earlier groups
	Segments   []uint64          // segments that hold its earlier groups
	Dead       []base.EpochRange // rolled back savepoint stretches
	NoSync     bool
}

// DDLOp says what a DDL record does.
type DDLOp uint8

const (
	// OpCreateTable creates a table.
	OpCreateTable DDLOp = iota + 1
	// OpDropTable drops a table.
	OpDropTable
	// OpCeiling raises a ceiling below which numbers may have been handed out.
	OpCeiling
)

// String names the operation.
func (op DDLOp) String() string {
	return base.Name(op, "op", "", "create-table", "drop-table", "ceiling")
}

// DDL is a change of the set of tables, or of a ceiling.
type DDL struct {
	TS      base.CommitTS
	Op      DDLOp
	Table   base.TableID
	Name    string
	Ceiling uint64
}

// Record is what Replay delivers. Body is valid during the call.
type Record struct {
	Start, End base.LSN
	Type       Type
	Txn        base.TxnID // of a group or commit
	Commit     *Commit    // of a commit
	DDL        *DDL       // of a DDL
	Body       []byte     // concatenated rows of a group or commit
	BodyStart  base.LSN
}

// Record encoding, within the payload of a block:
//
//	4  length of the whole record
//	4  type in the upper 8 bits, length of the meta in the lower 24
//	n  meta: see putCommit and putDDL; of a group, the TxnID (8 bytes);
//	   of an end, the next sequence number (8 bytes)
//	n  body: rows
const (
	recordHeaderSize = 8
	groupMetaSize    = 8
	endRecordSize    = recordHeaderSize + 8
	maxMetaSize      = 1<<24 - 1
)

// putRecordHeader appends a record header.
func putRecordHeader(dst []byte, t Type, meta, body int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(recordHeaderSize+meta+body))
	return binary.LittleEndian.AppendUint32(dst, uint32(t)<<24|uint32(meta))
}

// putCommit appends the meta of a commit:
//
//	1      flags: bit 0 NoSync
//	1–10   txn, timestamp, first group
//	1–10   number of runs, then run and tail of each
//	1–10   number of segments, then each
//	1–10   number of dead ranges, then from and (to - from) of each
func putCommit(dst []byte, c *Commit) []byte {
	var flags byte
	if c.NoSync {
		flags = 1
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(c.Txn))
	dst = binary.AppendUvarint(dst, uint64(c.TS))
	dst = binary.AppendUvarint(dst, uint64(c.FirstGroup))
	dst = binary.AppendUvarint(dst, uint64(len(c.Runs)))
	for i := range c.Runs {
		dst = binary.AppendUvarint(dst, uint64(c.Runs[i].Run))
		dst = binary.AppendUvarint(dst, c.Runs[i].Tail)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Segments)))
	for _, s := range c.Segments {
		dst = binary.AppendUvarint(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Dead)))
	for i := range c.Dead {
		dst = binary.AppendUvarint(dst, uint64(c.Dead[i].From))
		dst = binary.AppendUvarint(dst, uint64(c.Dead[i].To-c.Dead[i].From))
	}
	return dst
}

// commitSize returns the number of bytes that putCommit appends.
func commitSize(c *Commit) int {
	n := 1 + uvarintSize(uint64(c.Txn)) + uvarintSize(uint64(c.TS)) + uvarintSize(uint64(c.FirstGroup)) +
		uvarintSize(uint64(len(c.Runs))) + uvarintSize(uint64(len(c.Segments))) + uvarintSize(uint64(len(c.Dead)))
	for i := range c.Runs {
		n += uvarintSize(uint64(c.Runs[i].Run)) + uvarintSize(c.Runs[i].Tail)
	}
	for _, s := range c.Segments {
		n += uvarintSize(s)
	}
	for i := range c.Dead {
		n += uvarintSize(uint64(c.Dead[i].From)) + uvarintSize(uint64(c.Dead[i].To-c.Dead[i].From))
	}
	return n
}

// getCommit decodes the meta of a commit.
func getCommit(meta []byte) (*Commit, bool) {
	if len(meta) < 1 || meta[0] > 1 {
		return nil, false
	}
	d := decoder{src: meta, off: 1}
	c := &Commit{
		NoSync:     meta[0] == 1,
		Txn:        base.TxnID(d.uvarint(math.MaxInt64)),
		TS:         base.CommitTS(d.uvarint(math.MaxInt64)),
		FirstGroup: base.LSN(d.uvarint(math.MaxUint64)),
	}
	if n := d.count(2); n > 0 {
		c.Runs = make([]RunTail, n)
		for i := range c.Runs {
			c.Runs[i].Run = base.RunID(d.uvarint(math.MaxUint64))
			c.Runs[i].Tail = d.uvarint(math.MaxUint64)
		}
	}
	if n := d.count(1); n > 0 {
		c.Segments = make([]uint64, n)
		for i := range c.Segments {
			c.Segments[i] = d.uvarint(math.MaxUint64)
		}
	}
	if n := d.count(2); n > 0 {
		c.Dead = make([]base.EpochRange, n)
		for i := range c.Dead {
			from := d.uvarint(math.MaxUint32)
			width := d.uvarint(math.MaxUint32 - from)
			c.Dead[i] = base.EpochRange{From: base.Epoch(from), To: base.Epoch(from + width)}
		}
	}
	return c, !d.bad && d.off == len(meta)
}

// putDDL appends the meta of a DDL:
//
//	1     operation
//	1–10  timestamp, table, ceiling, length of the name
//	n     name
func putDDL(dst []byte, c *DDL) []byte {
	dst = append(dst, byte(c.Op))
	dst = binary.AppendUvarint(dst, uint64(c.TS))
	dst = binary.AppendUvarint(dst, uint64(c.Table))
	dst = binary.AppendUvarint(dst, c.Ceiling)
	dst = binary.AppendUvarint(dst, uint64(len(c.Name)))
	return append(dst, c.Name...)
}

// ddlSize returns the number of bytes that putDDL appends.
func ddlSize(c *DDL) int {
	return 1 + uvarintSize(uint64(c.TS)) + uvarintSize(uint64(c.Table)) + uvarintSize(c.Ceiling) +
		uvarintSize(uint64(len(c.Name))) + len(c.Name)
}

// getDDL decodes the meta of a DDL.
func getDDL(meta []byte) (*DDL, bool) {
	if len(meta) < 1 || DDLOp(meta[0]) < OpCreateTable || DDLOp(meta[0]) > OpCeiling {
		return nil, false
	}
	d := decoder{src: meta, off: 1}
	c := &DDL{
		Op:      DDLOp(meta[0]),
		TS:      base.CommitTS(d.uvarint(math.MaxInt64)),
		Table:   base.TableID(d.uvarint(math.MaxUint32)),
		Ceiling: d.uvarint(math.MaxUint64),
	}
	c.Name = string(d.bytes(d.uvarint(uint64(len(meta)))))
	return c, !d.bad && d.off == len(meta)
}

// parseRecord decodes the record at the beginning of src and returns its
// length. next is the successor that an end record names.
func parseRecord(src []byte) (rec Record, n int, next uint64, ok bool) {
	if len(src) < recordHeaderSize {
		return Record{}, 0, 0, false
	}
	n = int(binary.LittleEndian.Uint32(src))
	word := binary.LittleEndian.Uint32(src[4:])
	meta := int(word & maxMetaSize)
	if n < recordHeaderSize+meta || n > len(src) {
		return Record{}, 0, 0, false
	}
	m := src[recordHeaderSize : recordHeaderSize+meta]
	rec.Type = Type(word >> 24)
	rec.Body = src[recordHeaderSize+meta : n : n]
	switch rec.Type {
	case TypeGroup:
		if ok = meta == groupMetaSize; ok {
			rec.Txn = base.TxnID(binary.LittleEndian.Uint64(m))
		}
	case TypeCommit:
		if rec.Commit, ok = getCommit(m); ok {
			rec.Txn = rec.Commit.Txn
		}
	case TypeDDL:
		rec.DDL, ok = getDDL(m)
		ok = ok && len(rec.Body) == 0
	case typeEnd:
		if ok = n == endRecordSize && meta == 8; ok {
			next = binary.LittleEndian.Uint64(m)
		}
	}
	return rec, n, next, ok
}
