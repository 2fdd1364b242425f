package versionchain

import (
	"encoding/binary"

	"github.com/sakerdb/saker/internal/base"
)

const (
	// flagDrop marks a version that the next copy of the page leaves out.
	flagDrop = 0x80
	// flagSealed marks a version that is on its way into a frame: with flagDrop it
	// leaves the page, without it stays as a clean copy.
	flagSealed = 0x40
)

// Dropped reports whether Drop was called for the version.
func (v *Ver) Dropped() bool { return v.Flags&flagDrop != 0 }

// Drop marks the version at off as garbage; CopyTo leaves it out. It reports
// false, and does nothing, when somebody else holds the version (M4).
func (p *Page) Drop(off uint16) bool {
	v := p.Version(off)
	if v.Pinned() {
		return false
	}
	p.b[int(off)+22] |= flagDrop
	return true
}

// CopyTo makes a page of block dst with the records [from, to) of p, without
// dropped versions and without garbage. prefix is the common prefix of the leaf
// that dst will belong to. REQUIRES: dst does not overlap p's block and holds
// CopySize(from, to) bytes.
func (p *Page) CopyTo(dst []byte, from, to, prefix int) Page {
	q := MakePage(dst)
	n, top := 0, len(dst)
	for i := from; i < to; i++ {
		off := p.firstKept(p.Newest(i))
		if off == 0 {
			continue
		}
		key := p.Key(i)
		v := p.Version(off)
		top -= 2 + len(key) + versionHeader + v.stored()
		binary.LittleEndian.PutUint16(q.b[top:], uint16(len(key)))
		copy(q.b[top+2:], key)
		at := top + 2 + len(key)
		s := q.slot(n)
		binary.LittleEndian.PutUint32(s, Head(key, prefix))
		binary.LittleEndian.PutUint16(s[4:], uint16(top))
		binary.LittleEndian.PutUint16(s[6:], uint16(at))
		n++
		for {
			copy(q.b[at+versionHeader:], p.b[int(off)+versionHeader:int(off)+versionHeader+v.stored()])
			next := p.firstKept(v.Prior)
			v.Prior = 0
			if next == 0 {
				q.putVersion(at, &v)
				break
			}
			w := p.Version(next)
			top -= versionHeader + w.stored()
			v.Prior = uint16(top)
			q.putVersion(at, &v)
			at, off, v = top, next, w
		}
	}
	q.n, q.top = uint16(n), uint16(top)
	q.setEnds()
	return q
}

// MoveTo makes block dst, longer than the page's own, hold the page: what lies
// behind the slots moves as one piece to the end, and offsets follow it. It
// falls back to CopyTo when there is garbage to leave behind.
func (p *Page) MoveTo(dst []byte, prefix int) Page {
	n, top := p.Len(), int(p.top)
	if p.garbage != 0 || len(dst) <= len(p.b) {
		return p.CopyTo(dst, 0, n, prefix)
	}
	shift := len(dst) - len(p.b)
	q := *p
	q.b, q.top = dst, uint16(top+shift)
	copy(dst[top+shift:], p.b[top:])
	copy(dst, p.b[:slotSize*n])
	for i := range n {
		s := q.slot(i)
		off := int(binary.LittleEndian.Uint16(s[6:])) + shift
		binary.LittleEndian.PutUint16(s[4:], binary.LittleEndian.Uint16(s[4:])+uint16(shift))
		binary.LittleEndian.PutUint16(s[6:], uint16(off))
		for {
			prior := binary.LittleEndian.Uint16(dst[off+20:])
			if prior == 0 {
				break
			}
			binary.LittleEndian.PutUint16(dst[off+20:], prior+uint16(shift))
			off = int(prior) + shift
		}
	}
	return q
}

// Uniform fills rows with the page's records, if each has one version, live, of
// transaction id, at hand and pinned by nobody, and reports whether that is so:
// a leaf that one transaction filled alone.
func (p *Page) Uniform(id base.TxnID, dead func(base.Epoch) bool, rows []Row) ([]Row, bool) {
	stamp := UndecidedStamp(id)
	for i := range p.Len() {
		off := p.Newest(i)
		v := p.Version(off)
		if v.Stamp != stamp || v.Prior != 0 || v.Uses != 2 || v.Flags&^(kindMask|FlagListed|FlagLogged) != 0 {
			return rows, false
		}
		if i == 0 || v.Epoch != rows[len(rows)-1].Epoch {
			if dead(v.Epoch) {
				return rows, false
			}
		}
		rows = append(rows, Row{
			Key: p.Key(i), Value: p.b[int(off)+versionHeader : int(off)+versionHeader+int(v.Len)],
			Order: base.Order{Epoch: v.Epoch, Leave: v.Leave}, Kind: v.Kind(),
		})
	}
	return rows, true
}

// firstKept returns the first version from off on that is not dropped, or 0.
func (p *Page) firstKept(off uint16) uint16 {
	for off != 0 && p.b[int(off)+22]&flagDrop != 0 {
		off = binary.LittleEndian.Uint16(p.b[int(off)+20:])
	}
	return off
}

// CopySize returns the bytes that CopyTo needs for the records [from, to).
func (p *Page) CopySize(from, to int) int {
	n := 0
	for i := from; i < to; i++ {
		off := p.firstKept(p.Newest(i))
		if off == 0 {
			continue
		}
		n += slotSize + 2 + len(p.Key(i))
		for off != 0 {
			v := p.Version(off)
			n += versionHeader + v.stored()
			off = p.firstKept(v.Prior)
		}
	}
	return n
}

// Fetch brings the page into the processor's caches, line after line, which is
// many times faster than meeting its versions one by one in key order. It pays
// before a walk over all records of a page that was not touched of late.
func (p *Page) Fetch() { fetch(p.b[p.top:]) }

// fetch reads a byte of each cache line.
//
//go:noinline
func fetch(b []byte) (sum byte) {
	for i := 0; i < len(b); i += 64 {
		sum += b[i]
	}
	return sum
}

// Truncate moves the compacted content of q, built in scratch memory with the
// length that the block is to have, into the head of p's block.
func (p *Page) Truncate(q Page) Page {
	b := p.b[:len(q.b)]
	copy(b, q.b)
	q.b = b
	return q
}

// InBlock is the page in a block that its block became, contents and length
// being the same.
func (p *Page) InBlock(block []byte) Page {
	q := *p
	q.b = block
	return q
}

// Mark notes that the rows of record i are being sealed: with committed, decided
// versions are to become clean copies; otherwise the whole chain is dropped. What
// was garbage before stays that, whatever Confirm says.
// REQUIRES: no version of it is pinned when the chain is dropped.
func (p *Page) Mark(i int, committed bool) {
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		switch {
		case v.Dropped():
		case !committed:
			p.b[int(off)+22] |= flagDrop | flagSealed
		case !v.Undecided():
			p.b[int(off)+22] |= flagSealed
		}
		off = v.Prior
	}
}

// Retire drops the clean versions at the old end of record i's chain and
// returns how many. A clean version above one that no frame holds stays, since
// memory must be newer than frames.
func (p *Page) Retire(i int) int {
	keep := uint16(0) // the oldest version that must stay
	for off := p.Newest(i); off != 0; {
		v := p.Version(off)
		if !v.Dropped() && (v.Flags&FlagClean == 0 || v.Pinned()) {
			keep = off
		}
		off = v.Prior
	}
	off := p.Newest(i)
	if keep != 0 {
		v := p.Version(keep)
		off = v.Prior
	}
	n := 0
	for off != 0 {
		v := p.Version(off)
		if !v.Dropped() {
			p.b[int(off)+22] |= flagDrop
			n++
		}
		off = v.Prior
	}
	return n
}

// Kept returns the number of versions that are not dropped.
func (p *Page) Kept() int {
	n := 0
	for i := range p.Len() {
		for off := p.Newest(i); off != 0; {
			v := p.Version(off)
			if !v.Dropped() {
				n++
			}
			off = v.Prior
		}
	}
	return n
}

// Live returns the number of undecided versions that are not dropped.
func (p *Page) Live() int {
	n := 0
	for i := range p.Len() {
		for off := p.Newest(i); off != 0; {
			v := p.Version(off)
			if v.Undecided() && !v.Dropped() {
				n++
			}
			off = v.Prior
		}
	}
	return n
}

// Confirm ends what Mark began, once the frames are listed: sealed versions are
// clean, or gone. With ok false the frames were not listed, and the versions are as
// they were before Mark.
func (p *Page) Confirm(ok bool) {
	for i := range p.Len() {
		for off := p.Newest(i); off != 0; {
			v := p.Version(off)
			if f := v.Flags; f&flagSealed != 0 {
				switch f &^= flagSealed; {
				case !ok:
					f &^= flagDrop
				case f&flagDrop == 0:
					f |= FlagClean
				}
				p.b[int(off)+22] = f
			}
			off = v.Prior
		}
	}
}
