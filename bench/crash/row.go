package main

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// stamp names the statement that wrote a row: no two statements of a store have
// the same one, those that were rolled back or cut short included.
//
//	63      44 43    38 37     18 17    0
//	| round   | writer | txn     | step  |
type stamp uint64

func stampOf(round, writer, txn, step int) stamp {
	return stamp(round)<<44 | stamp(writer)<<38 | stamp(txn)<<18 | stamp(step)
}

func (s stamp) round() int  { return int(s >> 44) }
func (s stamp) writer() int { return int(s >> 38 & 63) }
func (s stamp) txn() int    { return int(s >> 18 & (1<<20 - 1)) }

func (s stamp) String() string {
	return fmt.Sprintf("round %d, writer %d, txn %d, step %d", s.round(), s.writer(), s.txn(), s&(1<<18-1))
}

// row is a row's content; the bytes of its value follow from it and from its key.
type row struct {
	Stamp   stamp `json:"s"`
	Version int   `json:"v,omitempty"` // counts the changes of a row that all writers share
	Amount  int64 `json:"a,omitempty"` // balance of an account
	Size    int   `json:"n"`           // bytes of the value
}

func (r row) String() string {
	return fmt.Sprintf("{%v; version %d, amount %d, %d bytes}", r.Stamp, r.Version, r.Amount, r.Size)
}

// rowHeader is the size of what precedes the filler in a value, in bytes:
//
//	|   8   |    4    |   8    |  …
//	| stamp | version | amount | filler
const rowHeader = 8 + 4 + 8

// appendValue appends the value of r under key, at least rowHeader bytes.
func (r row) appendValue(dst, key []byte) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Stamp))
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Version))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Amount))
	h := fnv.New64a()
	_, _ = h.Write(key)
	x := h.Sum64() ^ uint64(r.Stamp)
	for len(dst)-start < r.Size {
		x = x*6364136223846793005 + 1442695040888963407
		dst = binary.BigEndian.AppendUint64(dst, x^x>>29)
	}
	return dst[:start+max(r.Size, rowHeader)]
}

// boundTo returns what the values of a table are bound to: the key, but where the
// store chooses it.
func boundTo(table string, key []byte) []byte {
	if table == tableLog {
		return nil
	}
	return key
}

// parseValue returns the row that a value says it is; ok means every byte of it
// is what that row has under key. buf is for the comparison, and is returned.
func parseValue(key, value, buf []byte) (r row, ok bool, scratch []byte) {
	if len(value) < rowHeader {
		return row{Size: len(value)}, false, buf
	}
	r = row{
		Stamp:   stamp(binary.BigEndian.Uint64(value)),
		Version: int(binary.BigEndian.Uint32(value[8:])),
		Amount:  int64(binary.BigEndian.Uint64(value[12:])),
		Size:    len(value),
	}
	buf = r.appendValue(buf[:0], key)
	return r, string(buf) == string(value), buf
}

// keys are Count keys by a formula: Prefix and the number (First + i·Step) mod
// Mod. With Count 0 there is one, the Prefix itself.
type keys struct {
	Prefix []byte `json:"p"`
	First  int    `json:"f,omitempty"`
	Step   int    `json:"d,omitempty"`
	Mod    int    `json:"m,omitempty"`
	Count  int    `json:"c,omitempty"`
}

func oneKey(key []byte) keys { return keys{Prefix: key} }

func (k keys) len() int { return max(k.Count, 1) }

// append appends the key number i to dst.
func (k keys) append(dst []byte, i int) []byte {
	dst = append(dst, k.Prefix...)
	if k.Count == 0 {
		return dst
	}
	return fmt.Appendf(dst, "%06d", (k.First+i*k.Step)%k.Mod)
}

// effect is what one statement of a transaction leaves if it commits.
type effect struct {
	Table  string `json:"t"`
	Keys   keys   `json:"k"`
	Delete bool   `json:"del,omitempty"`
	Row    row    `json:"r"`
}
