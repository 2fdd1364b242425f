package versionchain

import (
	"bytes"
	"encoding/binary"

	"github.com/sakerdb/saker/internal/base"
)

// Page is the delta of one leaf: a block of record memory that holds the keys
// and version chains of the leaf's resident records. The zero Page is empty.
//
//	0            8n              top                      len
//	┌───────────┬───────────────┬────────────────────────┐
//	│ slots →   │  free         │ ← keys and versions    │
//	└───────────┴───────────────┴────────────────────────┘
//	slot:   head u32 │ key u16 │ newest version u16        sorted by key
//	key:    length u16 │ bytes
//	version: stamp u64 │ epoch u32 │ leave u32 │ length u32 │ prior u16 │ flags u8 │ uses u8 │ data
//	 a chilled version's data is: log position u64 │ length of the logged row u32
//
// Offsets are 16-bit (a block is at most 32 KiB), and there are no Go pointers
// in it, so that the garbage collector never sees a row. What a search needs
// before it knows which slot to look at is not in the block but beside the
// leaf's lock: a search misses the processor's caches once less.
//
// Concurrency: readers hold the leaf's lock shared, writers exclusively. A Page
// is not copied while it is in use.
type Page struct {
	b       []byte
	n       uint16 // slots
	top     uint16 // where keys and versions begin
	garbage uint16 // bytes behind top that nothing refers to
	first   uint32 // head of the first slot
	last    uint32 // head of the last slot
}

const (
	slotSize      = 8
	versionHeader = 24
	chilledSize   = 12
	// undecidedBit marks a stamp that is a TxnID and not a timestamp.
	undecidedBit = 1 << 63
)

// Flags of a version.
const (
	kindMask = 0x03
	// FlagListed: its transaction counts it as its own (§5, place 3).
	FlagListed = 0x04
	// FlagLogged: the serial log has it, or its transaction's redo buffer does.
	FlagLogged = 0x08
	// FlagClean: a frame of the leaf's list holds a copy; memory may drop it.
	FlagClean = 0x10
	// FlagChilled: the data is in the serial log, the header knows where.
	FlagChilled = 0x20
)

// KindStandIn is the kind of a version whose large value is in a frame: in
// memory it stands for it, so that conflicts are found without reading and no
// older version shows. It exists in pages only, and is always clean.
const KindStandIn base.Kind = 3

// Ver is a version header by value.
type Ver struct {
	Stamp uint64
	Epoch base.Epoch
	Leave base.Leave
	Len   uint32 // length of the value, wherever it is
	Prior uint16
	Flags uint8
	Uses  uint8
}

// UndecidedStamp is the stamp of a version of a transaction without outcome.
func UndecidedStamp(id base.TxnID) uint64 { return uint64(id) | undecidedBit }

// Undecided reports whether the stamp is a TxnID.
func (v *Ver) Undecided() bool { return v.Stamp&undecidedBit != 0 }

// Txn returns the writer of an undecided version.
func (v *Ver) Txn() base.TxnID { return base.TxnID(v.Stamp &^ undecidedBit) }

// TS returns the commit timestamp of a decided version.
func (v *Ver) TS() base.CommitTS { return base.CommitTS(v.Stamp) }

// Kind returns what the version is.
func (v *Ver) Kind() base.Kind { return base.Kind(v.Flags & kindMask) }

// Order returns the order of the version with ts in place of its stamp.
func (v *Ver) Order(ts base.CommitTS) base.Order {
	return base.Order{TS: ts, Epoch: v.Epoch, Leave: v.Leave}
}

// Expected returns the use count that a version has when nobody but its slot
// or newer version, and its transaction's list, hold it (§5).
func (v *Ver) Expected() uint8 {
	if v.Flags&FlagListed != 0 {
		return 2
	}
	return 1
}

// Pinned reports whether somebody else holds the version.
func (v *Ver) Pinned() bool { return v.Uses > v.Expected() }

func (v *Ver) stored() int {
	if v.Flags&FlagChilled != 0 {
		return chilledSize
	}
	return int(v.Len)
}

// VersionSize returns the bytes that a new version takes in a page, with its
// key when the record has none there yet.
func VersionSize(keyLen, valueLen int, newRecord bool) int {
	n := versionHeader + valueLen
	if newRecord {
		n += 2 + keyLen + slotSize
	}
	return n
}

// MakePage makes a page of a block. The content of the block does not matter.
func MakePage(block []byte) Page {
	p := Page{b: block}
	p.Clear()
	return p
}

// Clear drops all records.
func (p *Page) Clear() {
	*p = Page{b: p.b, top: uint16(len(p.b))}
}

// Block returns the block under the page, nil for the zero Page.
func (p *Page) Block() []byte { return p.b }

// Len returns the number of records.
func (p *Page) Len() int { return int(p.n) }

// Free returns the bytes between slots and versions.
func (p *Page) Free() int { return int(p.top) - slotSize*int(p.n) }

// Garbage returns the bytes behind the slots that nothing refers to.
func (p *Page) Garbage() int { return int(p.garbage) }

// Used returns the bytes that compacting the page would leave.
func (p *Page) Used() int { return len(p.b) - p.Free() - int(p.garbage) }

func (p *Page) slot(i int) []byte {
	o := slotSize * i
	return p.b[o : o+slotSize : o+slotSize]
}

// Head returns the first four bytes of key after the leaf's common prefix.
func Head(key []byte, prefix int) uint32 {
	if len(key) >= prefix+4 {
		return binary.BigEndian.Uint32(key[prefix:])
	}
	var h uint32
	for i := range 4 {
		h <<= 8
		if prefix+i < len(key) {
			h |= uint32(key[prefix+i])
		}
	}
	return h
}

// Find returns the first record whose key is not below key, and whether it is
// that key. prefix is the length of the leaf's common prefix.
func (p *Page) Find(key []byte, prefix int) (i int, exact bool) {
	n := p.Len()
	if n == 0 {
		return 0, false
	}
	slots := p.b[:slotSize*n]
	head := Head(key, prefix)
	last := p.last
	if last < head || (last == head && bytes.Compare(p.Key(n-1), key) < 0) {
		return n, false // after the last: a leaf filled in key order
	}
	// The first probe is where the head would be if heads were evenly spread;
	// from there the search widens until it has the place between two probes.
	lo, hi := 0, n-1
	if first := p.first; n > 16 && first < head && head < last {
		lo, hi = p.interpolate(slots, n, key, head, first, last)
	}
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if p.below(slots, m, key, head) {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, headAt(slots, lo) == head && bytes.Equal(p.Key(lo), key)
}

func headAt(slots []byte, i int) uint32 { return binary.LittleEndian.Uint32(slots[i*slotSize:]) }

// below reports whether record i comes before key.
func (p *Page) below(slots []byte, i int, key []byte, head uint32) bool {
	h := headAt(slots, i)
	return h < head || (h == head && bytes.Compare(p.Key(i), key) < 0)
}

// interpolate returns lo ≤ hi such that every record before lo comes before key
// and record hi does not. REQUIRES: first < head < last.
func (p *Page) interpolate(slots []byte, n int, key []byte, head, first, last uint32) (lo, hi int) {
	g := int(uint64(head-first) * uint64(n-1) / uint64(last-first))
	step := 4
	if p.below(slots, g, key, head) {
		lo = g + 1
		for hi = g + step; ; hi += step {
			if hi >= n-1 {
				return lo, n - 1
			}
			if !p.below(slots, hi, key, head) {
				return lo, hi
			}
			lo = hi + 1
			step *= 2
		}
	}
	hi = g
	for lo = g - step; ; lo -= step {
		if lo <= 0 {
			return 0, hi
		}
		if p.below(slots, lo, key, head) {
			return lo + 1, hi
		}
		hi = lo
		step *= 2
	}
}

// Key returns the key of record i; it aliases the page.
func (p *Page) Key(i int) []byte {
	s := p.slot(i)
	o := int(binary.LittleEndian.Uint16(s[4:]))
	n := int(binary.LittleEndian.Uint16(p.b[o:]))
	return p.b[o+2 : o+2+n : o+2+n]
}

// Newest returns the offset of the newest version of record i.
func (p *Page) Newest(i int) uint16 { return binary.LittleEndian.Uint16(p.slot(i)[6:]) }

func (p *Page) setNewest(i int, v uint16) { binary.LittleEndian.PutUint16(p.slot(i)[6:], v) }

// Version returns the header at off.
func (p *Page) Version(off uint16) Ver {
	b := p.b[off : int(off)+versionHeader]
	return Ver{
		Stamp: binary.LittleEndian.Uint64(b),
		Epoch: base.Epoch(binary.LittleEndian.Uint32(b[8:])),
		Leave: base.Leave(binary.LittleEndian.Uint32(b[12:])),
		Len:   binary.LittleEndian.Uint32(b[16:]),
		Prior: binary.LittleEndian.Uint16(b[20:]),
		Flags: b[22],
		Uses:  b[23],
	}
}

func (p *Page) putVersion(off int, v *Ver) {
	b := p.b[off : off+versionHeader]
	binary.LittleEndian.PutUint64(b, v.Stamp)
	binary.LittleEndian.PutUint32(b[8:], uint32(v.Epoch))
	binary.LittleEndian.PutUint32(b[12:], uint32(v.Leave))
	binary.LittleEndian.PutUint32(b[16:], v.Len)
	binary.LittleEndian.PutUint16(b[20:], v.Prior)
	b[22] = v.Flags
	b[23] = v.Uses
}

// Value returns the data of the version at off; it aliases the page.
// REQUIRES: the version is not chilled.
func (p *Page) Value(off uint16, v *Ver) []byte {
	o := int(off) + versionHeader
	return p.b[o : o+int(v.Len) : o+int(v.Len)]
}

// Chilled returns where the log has the row of a chilled version.
func (p *Page) Chilled(off uint16) (base.LSN, int) {
	b := p.b[int(off)+versionHeader:]
	return base.LSN(binary.LittleEndian.Uint64(b)), int(binary.LittleEndian.Uint32(b[8:]))
}

// Insert adds a record at slot i with v as its only version. It returns false
// when the page has no room. v.Prior is set to zero, v.Uses as v.Expected.
func (p *Page) Insert(i int, key, value []byte, prefix int, v *Ver) bool {
	need := 2 + len(key) + versionHeader + len(value)
	if p.b == nil || p.Free() < need+slotSize {
		return false
	}
	n := p.Len()
	top := int(p.top) - need
	binary.LittleEndian.PutUint16(p.b[top:], uint16(len(key)))
	copy(p.b[top+2:], key)
	vo := top + 2 + len(key)
	v.Prior, v.Len = 0, uint32(len(value))
	v.Uses = v.Expected()
	p.putVersion(vo, v)
	copy(p.b[vo+versionHeader:], value)
	if i < n {
		o := slotSize * i
		copy(p.b[o+slotSize:o+slotSize+slotSize*(n-i)], p.b[o:])
	}
	s := p.slot(i)
	head := Head(key, prefix)
	binary.LittleEndian.PutUint32(s, head)
	binary.LittleEndian.PutUint16(s[4:], uint16(top))
	binary.LittleEndian.PutUint16(s[6:], uint16(vo))
	p.top = uint16(top)
	p.n++
	if i == 0 {
		p.first = head
	}
	if i == n {
		p.last = head
	}
	return true
}

// Push adds v as the newest version of record i, above the others. It returns
// false when the page has no room.
func (p *Page) Push(i int, value []byte, v *Ver) bool {
	need := versionHeader + len(value)
	if p.Free() < need {
		return false
	}
	top := int(p.top) - need
	v.Prior, v.Len = p.Newest(i), uint32(len(value))
	v.Uses = v.Expected()
	p.putVersion(top, v)
	copy(p.b[top+versionHeader:], value)
	p.top = uint16(top)
	p.setNewest(i, uint16(top))
	return true
}

// Replace gives the newest version of record i another header and value (S6).
// It returns false when the page has no room. Prior is kept. REQUIRES: the
// version is not pinned.
func (p *Page) Replace(i int, value []byte, v *Ver) bool {
	off := p.Newest(i)
	old := p.Version(off)
	v.Prior, v.Len = old.Prior, uint32(len(value))
	v.Uses = v.Expected()
	if len(value) <= old.stored() {
		p.garbage += uint16(old.stored() - len(value))
		p.putVersion(int(off), v)
		copy(p.b[int(off)+versionHeader:], value)
		return true
	}
	need := versionHeader + len(value)
	if p.Free() < need {
		return false
	}
	top := int(p.top) - need
	p.putVersion(top, v)
	copy(p.b[top+versionHeader:], value)
	p.top = uint16(top)
	p.setNewest(i, uint16(top))
	p.garbage += uint16(versionHeader + old.stored())
	return true
}

// Pop removes the newest version of record i and reports whether that was the
// last one; then the record is gone and later slots have moved down by one.
func (p *Page) Pop(i int) (gone bool) {
	off := p.Newest(i)
	v := p.Version(off)
	p.garbage += uint16(versionHeader + v.stored())
	if v.Prior != 0 {
		p.setNewest(i, v.Prior)
		return false
	}
	p.removeSlot(i)
	return true
}

// DropSuperseded unlinks what lies below the version at off, as long as transaction
// id wrote it in epoch from or later and nobody holds it, and returns how many
// versions that were. REQUIRES: the version at off is id's and is no lock.
func (p *Page) DropSuperseded(off uint16, id base.TxnID, from base.Epoch) (n int) {
	v := p.Version(off)
	for v.Prior != 0 {
		below := p.Version(v.Prior)
		if below.Stamp != UndecidedStamp(id) || below.Epoch < from || below.Pinned() || below.Dropped() {
			break
		}
		p.garbage += uint16(versionHeader + below.stored())
		v.Prior = below.Prior
		n++
	}
	if n > 0 {
		p.putVersion(int(off), &v)
	}
	return n
}

func (p *Page) removeSlot(i int) {
	n := p.Len()
	p.garbage += uint16(2 + len(p.Key(i)))
	o := slotSize * i
	copy(p.b[o:], p.b[o+slotSize:slotSize*n])
	p.n--
	p.setEnds()
}

// setEnds notes the heads of the first and the last slot.
func (p *Page) setEnds() {
	if p.n > 0 {
		p.first, p.last = headAt(p.b, 0), headAt(p.b, int(p.n)-1)
	}
}

// Chill replaces the data of the version at off by its place in the log and
// returns the bytes that compacting will free.
func (p *Page) Chill(off uint16, v *Ver, lsn base.LSN, rowLen int) int {
	freed := int(v.Len) - chilledSize
	v.Flags |= FlagChilled | FlagLogged
	p.putVersion(int(off), v)
	b := p.b[int(off)+versionHeader:]
	binary.LittleEndian.PutUint64(b, uint64(lsn))
	binary.LittleEndian.PutUint32(b[8:], uint32(rowLen))
	p.garbage += uint16(freed)
	return freed
}

// MinChill is the shortest value that chilling makes smaller.
const MinChill = chilledSize + 4
