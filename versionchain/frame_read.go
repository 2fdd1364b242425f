package versionchain

import (
	"bytes"
	"encoding/binary"

	"github.com/sakerdb/saker/internal/base"
)

// Bytes returns the whole frame.
func (f *Frame) Bytes() []byte { return f.b }

// Len returns the number of rows.
func (f *Frame) Len() int { return int(f.rows) }

// Owner returns whose rows these are; 0 is committed.
func (f *Frame) Owner() base.TxnID {
	return base.TxnID(binary.LittleEndian.Uint64(f.b[posOwner:]))
}

// Newest returns the greatest timestamp in the frame.
func (f *Frame) Newest() base.CommitTS {
	return base.CommitTS(binary.LittleEndian.Uint64(f.b[posNewest:]))
}

// Image reports whether the frame is an image.
func (f *Frame) Image() bool { return f.flags&flagImage != 0 }

// Meta returns the header. The fences are slices of the frame.
func (f *Frame) Meta() FrameMeta {
	le, b := binary.LittleEndian, f.b
	low := FrameHeaderSize + int(le.Uint16(b[posLowLen:]))
	high := low + int(le.Uint16(b[posHighLen:]))
	m := FrameMeta{
		Table:  base.TableID(le.Uint32(b[posTable:])),
		Low:    b[FrameHeaderSize:low:low],
		High:   b[low:high:high],
		Owner:  f.Owner(),
		Newest: f.Newest(),
		Leave:  base.Leave(le.Uint32(b[posLeave:])),
		Image:  f.Image(),
	}
	if f.flags&flagHighOpen != 0 {
		m.High = nil
	}
	return m
}

// Filter returns the filter over every key of the frame, a slice of it.
func (f *Frame) Filter() []byte {
	end := int(f.heads)
	start := end - int(binary.LittleEndian.Uint16(f.b[posFilterLen:]))
	return f.b[start:end:end]
}

// bounds returns where row i begins, where its value begins, and where it ends.
// Offsets that point nowhere, which only damage can bring, make an empty row.
func (f *Frame) bounds(i int) (key, value, end int) {
	le, b := binary.LittleEndian, f.b
	data := int(f.data)
	kl := int(f.keyLen)
	if f.flags&(flagsOffset|flagKeyLens) == 0 {
		key = data + i*int(f.rowLen)
		return key, key + kl, key + int(f.rowLen)
	}
	if f.flags&flagKeyLens != 0 {
		kl = int(le.Uint16(b[int(f.kls)+2*i:]))
	}
	switch {
	case f.flags&flagOffset16 != 0:
		both := le.Uint32(b[int(f.offs)+2*i:])
		key, end = data+int(both&0xFFFF), data+int(both>>16)
	case f.flags&flagOffset32 != 0:
		both := le.Uint64(b[int(f.offs)+4*i:])
		key, end = data+int(both&0xFFFFFFFF), data+int(both>>32)
	default:
		key = data + i*int(f.rowLen)
		end = key + int(f.rowLen)
	}
	value = key + kl
	if value > end || end > len(b) {
		return data, data, data
	}
	return key, value, end
}

// Key returns the key of row i, a slice of the frame.
func (f *Frame) Key(i int) []byte {
	s, v, _ := f.bounds(i)
	return f.b[s:v:v]
}

// Value returns the value of row i, a slice of the frame.
func (f *Frame) Value(i int) []byte {
	_, v, e := f.bounds(i)
	return f.b[v:e:e]
}

// Kind returns the kind of row i.
func (f *Frame) Kind(i int) base.Kind {
	if f.flags&flagKinds == 0 {
		return base.Kind(f.b[posKind])
	}
	return base.Kind(f.b[int(f.kinds)+i])
}

// Order returns the order of row i.
func (f *Frame) Order(i int) base.Order {
	le, b := binary.LittleEndian, f.b
	o := base.Order{TS: base.CommitTS(le.Uint64(b[posTS:]))}
	switch {
	case f.flags&flagsTS == 0:
	case f.flags&flagTS32 != 0:
		o.TS -= base.CommitTS(le.Uint32(b[int(f.tss)+4*i:]))
	default:
		o.TS = base.CommitTS(le.Uint64(b[int(f.tss)+8*i:]))
	}
	if f.flags&flagEpochs == 0 {
		o.Epoch = base.Epoch(le.Uint32(b[posEpoch:]))
	} else {
		o.Epoch = base.Epoch(le.Uint32(b[int(f.epochs)+4*i:]))
	}
	if f.flags&flagLeaves == 0 {
		o.Leave = base.Leave(le.Uint32(b[posRowLeave:]))
	} else {
		o.Leave = base.Leave(le.Uint32(b[int(f.leaves)+4*i:]))
	}
	return o
}

// Row fills r with row i. Key and Value are slices of the frame.
//
// REQUIRES: 0 ≤ i < Len().
func (f *Frame) Row(i int, r *Row) {
	s, v, e := f.bounds(i)
	b := f.b
	r.Key, r.Value = b[s:v:v], b[v:e:e]
	if f.flags&flagsOrderCols == 0 {
		le := binary.LittleEndian
		r.TS = base.CommitTS(le.Uint64(b[posTS:]))
		r.Epoch = base.Epoch(le.Uint32(b[posEpoch:]))
		r.Leave = base.Leave(le.Uint32(b[posRowLeave:]))
		r.Kind = base.Kind(b[posKind])
		return
	}
	r.Order = f.Order(i)
	r.Kind = f.Kind(i)
}

// Search returns the first row whose key is ≥ key, Len() if there is none, and
// whether its key is equal. With several versions of a key that is the newest.
//
// The heads are as good as the keys wherever four bytes tell them apart, and
// lie in a few cache lines; full keys are compared only among equal heads.
func (f *Frame) Search(key []byte) (i int, exact bool) {
	n := int(f.rows)
	if n == 0 {
		return 0, false
	}
	p := int(f.prefix)
	if p > 0 {
		first := f.Key(0)
		if len(key) < p {
			if bytes.Compare(key, first[:p]) <= 0 {
				return 0, false
			}
			return n, false
		}
		if c := bytes.Compare(key[:p], first[:p]); c < 0 {
			return 0, false
		} else if c > 0 {
			return n, false
		}
	}
	heads := f.b[f.heads:f.offs]
	h := keyHead(key, p)
	lo := searchHeads(heads, h, n)
	if lo == n || binary.LittleEndian.Uint32(heads[4*lo:]) != h {
		return lo, false
	}
	if c := bytes.Compare(f.Key(lo), key); c >= 0 {
		return lo, c == 0
	}
	hi := n
	if h != 1<<32-1 {
		hi = searchHeads(heads, h+1, n)
	}
	for lo++; lo < hi; {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(f.Key(mid), key) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < n && bytes.Equal(f.Key(lo), key)
}

// searchHeads returns the first of n heads that is ≥ h. The comparison becomes
// a number instead of a branch: its outcome is a coin toss, which would be
// mispredicted every other time.
func searchHeads(heads []byte, h uint32, n int) int {
	i := 0
	for n > 1 {
		half := n >> 1
		i += half & -headBelow(heads, i+half-1, h)
		n -= half
	}
	if n == 1 {
		i += headBelow(heads, i, h)
	}
	return i
}

// headBelow returns 1 if head i is below h, else 0.
func headBelow(heads []byte, i int, h uint32) int {
	head := binary.LittleEndian.Uint32(heads[4*i : 4*i+4 : 4*i+4])
	return int((uint64(head) - uint64(h)) >> 63)
}

// keyHead returns the four bytes of key after a prefix of p bytes, as a number
// that orders as they do; missing bytes count as zero, which the comparison of
// whole keys corrects.
func keyHead(key []byte, p int) uint32 {
	if len(key)-p >= 4 {
		return binary.BigEndian.Uint32(key[p:])
	}
	var h uint32
	for i := p; i < p+4; i++ {
		h <<= 8
		if i < len(key) {
			h |= uint32(key[i])
		}
	}
	return h
}

// Verify checks everything that AppendFrame promises of the rows: order, kinds,
// fences, what the header says of timestamps and leave numbers, one version per
// record in an image, and that the filter knows every key. It returns a
// *base.CorruptionError.
func (f *Frame) Verify() error {
	m := f.Meta()
	filter := f.Filter()
	var r, last Row
	for i := range f.Len() {
		if s, _, e := f.bounds(i); i == 0 && s != int(f.data) || i == f.Len()-1 && e != len(f.b) {
			return corruptf("frame data does not fit its rows")
		}
		f.Row(i, &r)
		switch {
		case r.Kind > base.KindLock:
			return corruptf("frame row %d has kind %d", i, uint8(r.Kind))
		case bytes.Compare(r.Key, m.Low) < 0 || m.High != nil && bytes.Compare(r.Key, m.High) >= 0:
			return corruptf("frame row %d outside the fences", i)
		case r.TS > m.Newest || r.Leave > m.Leave:
			return corruptf("frame row %d newer than the header says", i)
		case m.Owner != 0 && r.TS != 0:
			return corruptf("frame row %d has a timestamp and an owner", i)
		case keyHead(r.Key, int(f.prefix)) != binary.LittleEndian.Uint32(f.b[int(f.heads)+4*i:]):
			return corruptf("frame row %d has a wrong head", i)
		case !FilterMayContain(filter, base.Hash(r.Key)):
			return corruptf("frame row %d is not in the filter", i)
		}
		if i > 0 {
			c := bytes.Compare(last.Key, r.Key)
			if c > 0 || c == 0 && (m.Image || r.Newer(last.Order)) {
				return corruptf("frame row %d out of order", i)
			}
		}
		last = r
	}
	return nil
}
