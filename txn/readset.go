package txn

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// readSet is what a serializable transaction has read: keys, absent ones too, and
// ranges. It never forgets anything (S4) and never outgrows its limits (M5): at
// the limit the spans that lie nearest to each other become one, together with
// what lies between, which may make a commit fail that need not.
//
//	add ──► spans as they come ──► sort: by column and key, disjoint
//	              at a limit ──► sort, and then coarsen to half of it
//
// A table has two columns of spans: keys that were read one by one, and ranges. A span
// of the first kind that became coarse goes along with the sieve, in which all its
// keys are: what is in the span and not in the sieve has not been read. So keys are
// joined before ranges are, and reads at random fail falsely seldom, however many.
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
	sieve  sieve  // the keys of coarse spans of single keys; nil while there is none

	maxSpans, maxBytes int   // at which it is shrunk
	cost, charged      int64 // bytes that it takes, and of them charged

	verdict // guarded by committer.mu
}

// span is [from, to) of the keys of one table; bounds are offsets and lengths in
// readSet.keys.
type span struct {
	column   uint32 // twice the table's number; one more: of single keys
	from, to bound
	coarse   bool // it holds keys that nobody has read
}

// single reports whether what was read of the span is single keys. One that is not
// coarse is one key.
func (s *span) single() bool { return s.column%2 == 1 }

type bound struct{ at, n uint32 }

// open is the bound behind all keys.
var open = bound{n: ^uint32(0)}

const (
	spanBytes = 24
	// readSpans and readBytes are how precise a read set is: so many spans, so many
	// bytes of keys. Of five times as many ranges, read at random from all over a table,
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
		if s.single() && s.coarse {
			rs.sieve.add(sieveHash(s.column, key))
		}
		return
	}
	from := rs.put(key)
	rs.keys = append(rs.keys, 0)
	rs.push(span{column: 2*n + 1, from: from, to: bound{from.at, from.n + 1}})
}

// addRange adds [from, to), or [from, to] with through; nil to is the end of the
// table.
func (rs *readSet) addRange(t *recordcache.Table, from, to []byte, through bool) {
	n := rs.table(t)
	s := rs.latest(n)
	// It goes on where the last one ended, which is nowhere if that was the table's end.
	if s != nil && !s.single() && (rs.within(s, from) || (s.to != open && bytes.Equal(rs.get(s.to), from))) {
		had := len(rs.keys)
		if end := rs.putTo(to, through); rs.compareTo(end, s.to) > 0 {
			s.to, rs.sorted = end, false
		} else {
			rs.keys = rs.keys[:had]
		}
		return
	}
	f := rs.put(from)
	rs.push(span{column: 2 * n, from: f, to: rs.putTo(to, through)})
}

// sift puts the key of a span that is to become coarse into the sieve, if it is one of
// a single key.
func (rs *readSet) sift(s *span) {
	if !s.single() || s.coarse {
		return
	}
	if rs.sieve == nil {
		rs.sieve = newSieve(sieveShare * rs.maxSpans)
	}
	rs.sieve.add(sieveHash(s.column, rs.get(s.from)))
}

// passes reports whether the key, which is in the span, has been read, for all the set
// knows.
func (rs *readSet) passes(s *span, key []byte) bool {
	return !s.coarse || !s.single() || rs.sieve.has(sieveHash(s.column, key))
}

func sieveHash(column uint32, key []byte) uint64 {
	return base.Hash(key) ^ uint64(column)*0x9E3779B97F4A7C15
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
	if i := len(rs.spans) - 1; i >= 0 && rs.spans[i].column/2 == n {
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

// sort puts the spans in order and joins those that overlap, or touch if they are
// ranges.
func (rs *readSet) sort() {
	if rs.sorted {
		return
	}
	rs.sorted = true
	if len(rs.spans) < 2 {
		return
	}
	slices.SortFunc(rs.spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.column, b.column), bytes.Compare(rs.get(a.from), rs.get(b.from)))
	})
	out := rs.spans[:1]
	for _, s := range rs.spans[1:] {
		p := &out[len(out)-1]
		if p.column != s.column || !rs.reaches(p, &s) {
			out = append(out, s)
			continue
		}
		if p.coarse || s.coarse {
			rs.sift(p)
			rs.sift(&s)
			p.coarse = true
		}
		if rs.compareTo(s.to, p.to) > 0 {
			p.to = s.to
		}
	}
	rs.spans = out
}

// reaches reports whether s, which begins at p or behind it, is joined to p. Keys that
// touch stay two, for one span is one key.
func (rs *readSet) reaches(p, s *span) bool {
	if p.to == open {
		return true
	}
	c := bytes.Compare(rs.get(s.from), rs.get(p.to))
	return c < 0 || (c == 0 && !s.single())
}

// shrink brings the set down to half of its limits. A span per column stays.
func (rs *readSet) shrink() {
	rs.sort()
	n, size := rs.maxSpans/2, rs.maxBytes/2
	rs.coarsen(n)
	for rs.repack(); len(rs.keys) > size; rs.repack() {
		if n = min(n, len(rs.spans)) / 2; !rs.coarsen(n) {
			rs.widen() // a span per column is left, and their keys are long
		}
	}
	rs.maxSpans = max(rs.maxSpans, 2*len(rs.spans)) // of many tables
}

// impoverish gives the set the limits of one for which there is no room.
func (rs *readSet) impoverish() {
	rs.poor = true
	rs.maxSpans, rs.maxBytes = poorSpans, poorBytes
	if rs.sieve != nil {
		rs.sieve = rs.sieve.fold(sieveShare * poorSpans)
	}
	rs.shrink()
	rs.spans = append(make([]span, 0, max(poorSpans, len(rs.spans))), rs.spans...)
}

// coarsen joins neighbours until n spans are left or one per column: single keys first,
// which the sieve keeps apart, and of each kind those between which the least lies. It
// reports whether it joined any. REQUIRES: the spans are sorted.
func (rs *readSet) coarsen(n int) bool {
	type gap struct {
		width float64 // as a part of what the set spans in the column
		i     int     // after spans[i]
		kind  int     // 0: of single keys
	}
	var gaps []gap
	for i := 0; i < len(rs.spans); {
		j := i + 1
		for j < len(rs.spans) && rs.spans[j].column == rs.spans[i].column {
			j++
		}
		first, last := rs.get(rs.spans[i].from), rs.get(rs.spans[j-1].from)
		p := 0
		for p < min(len(first), len(last)) && first[p] == last[p] {
			p++
		}
		kind := 0
		if !rs.spans[i].single() {
			kind = 1
		}
		whole := numberAt(last, p) - numberAt(first, p) + 1
		for k := i; k < j-1; k++ {
			width := numberAt(rs.get(rs.spans[k+1].from), p) - numberAt(rs.get(rs.spans[k].to), p)
			gaps = append(gaps, gap{width / whole, k, kind})
		}
		i = j
	}
	many := min(len(gaps), len(rs.spans)-n)
	if many <= 0 {
		return false
	}
	slices.SortFunc(gaps, func(a, b gap) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.width, b.width)) })
	join := make([]bool, len(rs.spans))
	for _, g := range gaps[:many] {
		join[g.i] = true
	}
	out := rs.spans[:0]
	for i, s := range rs.spans {
		if i > 0 && join[i-1] {
			p := &out[len(out)-1]
			rs.sift(p)
			rs.sift(&s)
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
// span per column.
func (rs *readSet) widen() {
	for i := range rs.spans {
		s := &rs.spans[i]
		rs.sift(s)
		s.from, s.to, s.coarse = bound{}, open, true
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

// covers returns a span that holds the key of t, which was read for all the set knows;
// nil if there is none. REQUIRES: the spans are sorted.
func (rs *readSet) covers(t *recordcache.Table, key []byte) *span {
	n := slices.Index(rs.tables, t)
	if n < 0 {
		return nil
	}
	for column := uint32(2 * n); column <= uint32(2*n)+1; column++ {
		if s := rs.find(column, key); s != nil && rs.passes(s, key) {
			return s
		}
	}
	return nil
}

// find returns the span of the column that holds the key, or nil.
func (rs *readSet) find(column uint32, key []byte) *span {
	// The first span behind the key: the one before it may hold the key.
	i, _ := slices.BinarySearchFunc(rs.spans, key, func(s span, key []byte) int {
		if c := cmp.Compare(s.column, column); c != 0 {
			return c
		}
		if bytes.Compare(rs.get(s.from), key) <= 0 {
			return -1
		}
		return 1
	})
	if i--; i >= 0 && rs.spans[i].column == column && rs.within(&rs.spans[i], key) {
		return &rs.spans[i]
	}
	return nil
}

// size is what the set takes, in bytes.
func (rs *readSet) size() int64 {
	return int64(cap(rs.spans)*spanBytes + cap(rs.keys) + 8*cap(rs.tables) + 8*len(rs.sieve))
}

// recycle empties the set for another transaction.
func (rs *readSet) recycle() {
	clear(rs.tables)
	*rs = readSet{tables: spare(rs.tables, spareRefs), spans: spare(rs.spans, poorSpans), keys: spare(rs.keys, spareBytes)}
}
