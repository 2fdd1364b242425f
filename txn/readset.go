package txn

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/sakerdb/saker/recordcache"
)

// readSet is what a serializable transaction has read: keys, absent ones too, and
// ranges. It never forgets anything (S4) and never outgrows its limits (M5): at
// the limit the spans that lie nearest to each other become one, together with
// what lies between, which may make a commit fail that need not.
//
//	add ──► spans as they come ──► sort: by table and key, disjoint
//	              at a limit ──► sort, and then coarsen to half of it
//
// It belongs to the goroutine of its transaction. While it is registered with the
// committer it does not change, and others look into it (validators).
type readSet struct {
	on     bool // the transaction is serializable and may write
	sorted bool // spans are in order and disjoint
	poor   bool // there was no room: it has the limits of a poor set

	tables []*recordcache.Table
	last   int // in tables, of the latest read
	spans  []span
	keys   []byte // bounds of the spans

	maxSpans, maxBytes int   // at which it is shrunk
	cost, charged      int64 // bytes that it takes, and of them charged

	verdict // guarded by committer.mu
}

// span is [from, to) of the keys of one table; bounds are offsets and lengths in
// readSet.keys.
type span struct {
	table    uint32
	from, to bound
	coarse   bool // it holds keys that nobody has read
}

type bound struct{ at, n uint32 }

// open is the bound behind all keys.
var open = bound{n: ^uint32(0)}

const (
	spanBytes = 24
	// readSpans and readBytes are how precise a read set is: so many spans, so many
	// bytes of keys. Of five times as many keys, read at random from all over a table,
	// the spans cover half of it, and hardly a commit passes beside writers: the limit
	// should be far (BenchmarkSerializableFalseAborts).
	readSpans = 4096
	readBytes = 128 << 10
	// poorSpans and poorBytes are its limits when there is no room: they fit into
	// what a transaction has uncharged.
	poorSpans = 24
	poorBytes = 1 << 10
)

// get returns the bytes of a bound; nil for open.
func (rs *readSet) get(b bound) []byte {
	if b == open {
		return nil
	}
	return rs.keys[b.at : b.at+b.n : b.at+b.n]
}

func (rs *readSet) put(key []byte) bound {
	b := bound{at: uint32(len(rs.keys)), n: uint32(len(key))}
	rs.keys = append(rs.keys, key...)
	return b
}

// table returns the number of t in the set.
func (rs *readSet) table(t *recordcache.Table) uint32 {
	if rs.last < len(rs.tables) && rs.tables[rs.last] == t {
		return uint32(rs.last)
	}
	if rs.last = slices.Index(rs.tables, t); rs.last < 0 {
		rs.last = len(rs.tables)
		rs.tables = append(rs.tables, t)
	}
	return uint32(rs.last)
}

// addKey adds [key, key+0).
func (rs *readSet) addKey(t *recordcache.Table, key []byte) {
	n := rs.table(t)
	if s := rs.latest(n); s != nil && rs.within(s, key) {
		return
	}
	from := rs.put(key)
	rs.keys = append(rs.keys, 0)
	rs.push(span{table: n, from: from, to: bound{from.at, from.n + 1}})
}

// addRange adds [from, to), or [from, to] with through; nil to is the end of the
// table.
func (rs *readSet) addRange(t *recordcache.Table, from, to []byte, through bool) {
	n := rs.table(t)
	s := rs.latest(n)
	// It goes on where the last one ended, which is nowhere if that was the table's end.
	if s != nil && (rs.within(s, from) || (s.to != open && bytes.Equal(rs.get(s.to), from))) {
		had := len(rs.keys)
		if end := rs.putTo(to, through); rs.compareTo(end, s.to) > 0 {
			s.to, rs.sorted = end, false
		} else {
			rs.keys = rs.keys[:had]
		}
		return
	}
	f := rs.put(from)
	rs.push(span{table: n, from: f, to: rs.putTo(to, through)})
}

func (rs *readSet) putTo(to []byte, through bool) bound {
	if to == nil {
		return open
	}
	b := rs.put(to)
	if through {
		rs.keys = append(rs.keys, 0)
		b.n++
	}
	return b
}

func (rs *readSet) push(s span) {
	rs.spans = append(rs.spans, s)
	rs.sorted = false
}

// latest returns the span that was added last, if it is of table n.
func (rs *readSet) latest(n uint32) *span {
	if i := len(rs.spans) - 1; i >= 0 && rs.spans[i].table == n {
		return &rs.spans[i]
	}
	return nil
}

// within reports whether the span holds the key.
func (rs *readSet) within(s *span, key []byte) bool {
	return bytes.Compare(rs.get(s.from), key) <= 0 && (s.to == open || bytes.Compare(key, rs.get(s.to)) < 0)
}

// full reports whether the set has reached its limits.
func (rs *readSet) full() bool { return len(rs.spans) >= rs.maxSpans || len(rs.keys) >= rs.maxBytes }

// compareTo orders upper bounds.
func (rs *readSet) compareTo(a, b bound) int {
	switch {
	case a == b:
		return 0
	case a == open:
		return 1
	case b == open:
		return -1
	default:
		return bytes.Compare(rs.get(a), rs.get(b))
	}
}

// sort puts the spans in order and joins those that overlap or touch.
func (rs *readSet) sort() {
	if rs.sorted {
		return
	}
	rs.sorted = true
	if len(rs.spans) < 2 {
		return
	}
	slices.SortFunc(rs.spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.table, b.table), bytes.Compare(rs.get(a.from), rs.get(b.from)))
	})
	out := rs.spans[:1]
	for _, s := range rs.spans[1:] {
		p := &out[len(out)-1]
		if p.table != s.table || (p.to != open && bytes.Compare(rs.get(s.from), rs.get(p.to)) > 0) {
			out = append(out, s)
			continue
		}
		if rs.compareTo(s.to, p.to) > 0 {
			p.to = s.to
		}
		p.coarse = p.coarse || s.coarse
	}
	rs.spans = out
}

// shrink brings the set down to half of its limits. A span per table stays.
func (rs *readSet) shrink() {
	rs.sort()
	n, size := rs.maxSpans/2, rs.maxBytes/2
	rs.coarsen(n)
	for rs.repack(); len(rs.keys) > size; rs.repack() {
		if n = min(n, len(rs.spans)) / 2; !rs.coarsen(n) {
			rs.widen() // a span per table is left, and their keys are long
		}
	}
	rs.maxSpans = max(rs.maxSpans, 2*len(rs.spans)) // of many tables
}

// impoverish gives the set the limits of one for which there is no room.
func (rs *readSet) impoverish() {
	rs.poor = true
	rs.maxSpans, rs.maxBytes = poorSpans, poorBytes
	rs.shrink()
	rs.spans = append(make([]span, 0, max(poorSpans, len(rs.spans))), rs.spans...)
}

// coarsen joins neighbours, those first between which the least lies, until n spans
// are left or one per table. It reports whether it joined any. REQUIRES: the spans
// are sorted.
func (rs *readSet) coarsen(n int) bool {
	type gap struct {
		width float64 // as a part of what the set spans in the table
		i     int     // after spans[i]
	}
	var gaps []gap
	for i := 0; i < len(rs.spans); {
		j := i + 1
		for j < len(rs.spans) && rs.spans[j].table == rs.spans[i].table {
			j++
		}
		first, last := rs.get(rs.spans[i].from), rs.get(rs.spans[j-1].from)
		p := 0
		for p < min(len(first), len(last)) && first[p] == last[p] {
			p++
		}
		whole := numberAt(last, p) - numberAt(first, p) + 1
		for k := i; k < j-1; k++ {
			width := numberAt(rs.get(rs.spans[k+1].from), p) - numberAt(rs.get(rs.spans[k].to), p)
			gaps = append(gaps, gap{width / whole, k})
		}
		i = j
	}
	many := min(len(gaps), len(rs.spans)-n)
	if many <= 0 {
		return false
	}
	slices.SortFunc(gaps, func(a, b gap) int { return cmp.Compare(a.width, b.width) })
	join := make([]bool, len(rs.spans))
	for _, g := range gaps[:many] {
		join[g.i] = true
	}
	out := rs.spans[:0]
	for i, s := range rs.spans {
		if i > 0 && join[i-1] {
			p := &out[len(out)-1]
			p.to, p.coarse = s.to, true
			continue
		}
		out = append(out, s)
	}
	rs.spans = out
	return true
}

// numberAt is the eight bytes of key behind a prefix of p bytes, as a number.
func numberAt(key []byte, p int) float64 {
	var b [8]byte
	if p < len(key) {
		copy(b[:], key[p:])
	}
	return float64(binary.BigEndian.Uint64(b[:]))
}

// widen makes every span the whole of its table: no keys are left. REQUIRES: one
// span per table.
func (rs *readSet) widen() {
	for i := range rs.spans {
		rs.spans[i].from, rs.spans[i].to, rs.spans[i].coarse = bound{}, open, true
	}
}

// repack drops keys that no span names any more.
func (rs *readSet) repack() {
	keys := make([]byte, 0, len(rs.keys)/2)
	for i := range rs.spans {
		s := &rs.spans[i]
		from, to := rs.get(s.from), rs.get(s.to)
		if s.from.at == s.to.at && s.to != open { // a key, whose bounds share their bytes
			s.from = bound{uint32(len(keys)), s.from.n}
			s.to = bound{uint32(len(keys)), s.to.n}
			keys = append(keys, to...)
			continue
		}
		s.from = bound{uint32(len(keys)), s.from.n}
		keys = append(keys, from...)
		if s.to != open {
			s.to = bound{uint32(len(keys)), s.to.n}
			keys = append(keys, to...)
		}
	}
	rs.keys = keys
}

// covers returns the span that holds the key of t, nil if none does. REQUIRES: the
// spans are sorted.
func (rs *readSet) covers(t *recordcache.Table, key []byte) *span {
	n := slices.Index(rs.tables, t)
	if n < 0 {
		return nil
	}
	// The first span behind the key: the one before it may hold the key.
	i, _ := slices.BinarySearchFunc(rs.spans, key, func(s span, key []byte) int {
		if c := cmp.Compare(int(s.table), n); c != 0 {
			return c
		}
		if bytes.Compare(rs.get(s.from), key) <= 0 {
			return -1
		}
		return 1
	})
	if i--; i >= 0 && rs.spans[i].table == uint32(n) && rs.within(&rs.spans[i], key) {
		return &rs.spans[i]
	}
	return nil
}

// size is what the set takes, in bytes.
func (rs *readSet) size() int64 {
	return int64(cap(rs.spans)*spanBytes + cap(rs.keys) + 8*cap(rs.tables))
}

// recycle empties the set for another transaction.
func (rs *readSet) recycle() {
	clear(rs.tables)
	*rs = readSet{tables: spare(rs.tables, spareRefs), spans: spare(rs.spans, poorSpans), keys: spare(rs.keys, spareBytes)}
}
