package base

import "bytes"

// Keys of index entries. The entry of a row in an index is the escaped index key
// and, unless the index is unique, the row's primary key behind it:
//
//	n  index key, each byte 00 as 00 FF
//	2  00 01: the end of it
//	n  primary key, as it is (a unique index has it as the entry's value)
//
// Worked example: index key "a\x00b" of row "k1" is 61 00 FF 62 00 01 6B 31.
//
// No escaped key is the beginning of another one, and they order as the index
// keys do, bytewise, prefixes first: where one key ends and a longer one goes on,
// 00 01 meets 00 FF or a byte that is not zero. So the entries from index key F on
// are those from the escaped F on, whatever primary keys follow.

const (
	escapeByte = 0x00
	escapeZero = 0xFF // 00 FF stands for a byte 00
	escapeEnd  = 0x01 // 00 01 ends the index key
)

// AppendIndexKey appends the escaped index key to dst. The index key may be empty;
// the result never is.
func AppendIndexKey(dst, key []byte) []byte {
	for {
		i := bytes.IndexByte(key, escapeByte)
		if i < 0 {
			break
		}
		dst = append(dst, key[:i]...)
		dst = append(dst, escapeByte, escapeZero)
		key = key[i+1:]
	}
	dst = append(dst, key...)
	return append(dst, escapeByte, escapeEnd)
}

// CutIndexKey takes an entry's key apart: it appends the index key to dst and
// returns what follows it, a part of entry. ok is false if the entry does not begin
// with an escaped key; then dst is returned as it was.
func CutIndexKey(dst, entry []byte) (key, rest []byte, ok bool) {
	n := len(dst)
	for {
		i := bytes.IndexByte(entry, escapeByte)
		if i < 0 || i+1 >= len(entry) {
			return dst[:n], nil, false
		}
		dst = append(dst, entry[:i]...)
		switch entry[i+1] {
		case escapeEnd:
			return dst, entry[i+2:], true
		case escapeZero:
			dst = append(dst, escapeByte)
		default:
			return dst[:n], nil, false
		}
		entry = entry[i+2:]
	}
}
