package txn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// A read set against a list of everything that was added to it: nothing is ever
// forgotten, a set that was not shrunk holds nothing else, and it keeps its limits.
func TestReadSet(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		adds := 400
		if seed >= 60 { // so few that none of them hides that another is forgotten
			adds = 2 + rng.IntN(6)
		}
		precise := seed%2 == 0
		tables := make([]*recordcache.Table, 1+rng.IntN(4))
		for i := range tables {
			tables[i] = new(recordcache.Table)
		}
		rs := &readSet{maxSpans: 8 + rng.IntN(40), maxBytes: 200 + rng.IntN(2000)}
		if precise {
			rs.maxSpans, rs.maxBytes = 1<<20, 1<<30
		}
		m := &readModel{T: t, rs: rs, rng: rng}
		for range adds {
			m.add(tables[rng.IntN(len(tables))])
			if rs.full() {
				rs.shrink()
				if len(rs.spans) > max(rs.maxSpans/2, 2*len(tables)) || len(rs.keys) > rs.maxBytes/2 {
					t.Fatalf("seed %d: %d spans, %d bytes after shrinking to %d, %d", seed, len(rs.spans), len(rs.keys), rs.maxSpans/2, rs.maxBytes/2)
				}
			}
			switch rng.IntN(40) {
			case 0:
				rs.sort()
			case 1:
				rs.repack()
			}
		}
		rs.sort()
		m.checkOrder()
		for _, tb := range tables {
			for range 200 {
				m.checkKey(tb, m.key(), precise)
			}
		}
		for _, a := range m.added {
			m.checkKey(a.t, []byte(a.from), precise)
		}
		rs.recycle()
		if rs.on || len(rs.spans) != 0 || len(rs.tables) != 0 || rs.covers(tables[0], []byte("a")) != nil {
			t.Fatal("recycled, and not empty")
		}
	}
}

type added struct {
	t        *recordcache.Table
	from, to string
	open     bool
}

type readModel struct {
	*testing.T
	rs    *readSet
	rng   *rand.Rand
	added []added
}

func (m *readModel) key() []byte {
	switch m.rng.IntN(10) {
	case 0:
		return nil
	case 1:
		return []byte(strings.Repeat("k", 1+m.rng.IntN(60)))
	case 2:
		return []byte{byte(m.rng.IntN(256)), 0}
	default:
		return fmt.Appendf(nil, "k%02d", m.rng.IntN(60))
	}
}

// add adds a key or a range, as reads and cursors do.
func (m *readModel) add(t *recordcache.Table) {
	from, to := m.key(), m.key()
	if bytes.Compare(from, to) > 0 {
		from, to = to, from
	}
	if to == nil {
		to = []byte{} // nil is the end of the table
	}
	switch m.rng.IntN(4) {
	case 0:
		m.rs.addKey(t, to)
		m.added = append(m.added, added{t: t, from: string(to), to: string(to) + "\x00"})
	case 1:
		m.rs.addRange(t, from, to, true)
		m.added = append(m.added, added{t: t, from: string(from), to: string(to) + "\x00"})
	case 2:
		m.rs.addRange(t, from, to, false)
		m.added = append(m.added, added{t: t, from: string(from), to: string(to)})
	default:
		if len(m.added) < 8 || m.rng.IntN(20) == 0 {
			m.rs.addRange(t, from, nil, false)
			m.added = append(m.added, added{t: t, from: string(from), open: true})
		}
	}
}

func (m *readModel) checkKey(t *recordcache.Table, key []byte, precise bool) {
	m.Helper()
	want := false
	for _, a := range m.added {
		want = want || (a.t == t && string(key) >= a.from && (a.open || string(key) < a.to))
	}
	s := m.rs.covers(t, key)
	switch {
	case want && s == nil:
		m.Fatalf("%q was read and is forgotten", key)
	case !want && s != nil && precise:
		m.Fatalf("%q was not read", key)
	case !want && s != nil && !s.coarse:
		m.Fatalf("%q was not read, and the span is not called coarse", key)
	}
}

// checkOrder checks that spans are in order and apart from each other.
func (m *readModel) checkOrder() {
	for i := 1; i < len(m.rs.spans); i++ {
		p, s := m.rs.spans[i-1], m.rs.spans[i]
		touch := 0
		if s.single() {
			touch = 1 // of two keys that are next to each other
		}
		if p.column > s.column || (p.column == s.column && (p.to == open || bytes.Compare(m.rs.get(p.to), m.rs.get(s.from)) >= touch)) {
			m.Fatalf("spans %d and %d are out of order", i-1, i)
		}
	}
}

// Of random ranges those become one span that lie nearest to each other.
func TestReadSetJoinsNeighbours(t *testing.T) {
	rs := &readSet{maxSpans: 8, maxBytes: 1 << 20}
	tb := new(recordcache.Table)
	for _, k := range []string{"a10", "a11", "a12", "p10", "p11", "p12", "z1", "z2"} {
		rs.addRange(tb, []byte(k), []byte(k), true)
	}
	rs.shrink()
	for _, k := range []string{"a105", "p115"} {
		if s := rs.covers(tb, []byte(k)); s == nil || !s.coarse {
			t.Errorf("%q lies between neighbours and is not in a coarse span", k)
		}
	}
	for _, k := range []string{"b", "o", "q", "y"} {
		if rs.covers(tb, []byte(k)) != nil {
			t.Errorf("%q lies far from what was read", k)
		}
	}
}

// Single keys are known one by one, however few spans are left of them, and ranges
// among them stay what they are. A set for which there is no room any more forgets no
// key, and knows few others.
func TestReadSetOfManyKeys(t *testing.T) {
	for _, poor := range []bool{false, true} {
		rs := &readSet{maxSpans: 256, maxBytes: 1 << 20}
		a, b := new(recordcache.Table), new(recordcache.Table)
		key := func(i int) []byte { return fmt.Appendf(nil, "%08d", i) }
		rng := rand.New(rand.NewPCG(1, 1))
		read := map[int]bool{}
		for i := range 300 {
			if poor && i == 100 {
				rs.impoverish()
			}
			if rs.full() {
				rs.shrink()
			}
			k := rng.IntN(1 << 20)
			read[k] = true
			rs.addKey(a, key(k))
			if i%50 == 0 {
				rs.addRange(a, key(k+1), key(k+2), true)
				read[k+1], read[k+2] = true, true
			}
		}
		rs.sort()
		for k := range read {
			if rs.covers(a, key(k)) == nil {
				t.Fatalf("poor %v: %d was read and is forgotten", poor, k)
			}
		}
		if n := len(rs.spans); n > 200 {
			t.Fatalf("poor %v: %d spans are left", poor, n)
		}
		others := 0
		for range 10000 {
			if k := rng.IntN(1 << 20); !read[k] && rs.covers(a, key(k)) != nil {
				others++
			}
			if rs.covers(b, key(rng.IntN(1<<20))) != nil {
				t.Fatal("a table that was not read")
			}
		}
		limit := 5
		if poor { // all keys between two ranges are one span then, and 2048 bits know them
			limit = 1500
		}
		if t.Logf("poor %v: %d spans, %d of 10000 other keys", poor, len(rs.spans), others); others > limit {
			t.Errorf("poor %v: %d of 10000 keys that were not read are in the set", poor, others)
		}
	}
}

// Keys that were coarse before there was no room any more, and keys so long that
// nothing is left of their spans, are known as before.
func TestReadSetForgetsNoKey(t *testing.T) {
	tb := new(recordcache.Table)
	for name, change := range map[string]func(rs *readSet){
		"poor": func(rs *readSet) { rs.shrink(); rs.impoverish() },
		"wide": func(rs *readSet) { rs.maxBytes = 100; rs.shrink() },
	} {
		for _, n := range []int{1, 60} {
			rs := &readSet{maxSpans: 64, maxBytes: 1 << 20}
			key := func(i int) []byte { return fmt.Appendf(nil, "%060d", i) }
			for i := range n {
				rs.addKey(tb, key(10*i))
			}
			change(rs)
			rs.sort()
			for i := range n {
				if rs.covers(tb, key(10*i)) == nil {
					t.Errorf("%s: key %d of %d was read and is forgotten", name, i, n)
				}
			}
		}
	}
}

// A sieve lets pass all that is in it, folded or not, and few others.
func TestSieve(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	s := newSieve(64 << 10)
	if len(s) != 8192 || len(newSieve(0)) != 1 || len(newSieve(384)) != 32 {
		t.Fatalf("lengths %d, %d, %d", len(s), len(newSieve(0)), len(newSieve(384)))
	}
	in := make([]uint64, 20000)
	for i := range in {
		in[i] = rng.Uint64()
		s.add(in[i])
	}
	folded := s.fold(16 << 10)
	for _, h := range in {
		if !s.has(h) || !folded.has(h) {
			t.Fatalf("%x is in the sieve and does not pass", h)
		}
	}
	others, more := 0, 0
	for range 100000 {
		h := rng.Uint64()
		if s.has(h) {
			others++
		}
		if folded.has(h) {
			more++
		}
	}
	if len(folded) != 2048 || others > 200 || more <= others || more > 20000 {
		t.Fatalf("%d of 100000 others pass, folded %d", others, more)
	}
}

// A scan whose transaction writes after each row leaves one span, in either direction.
func TestReadSetOfSteps(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		rs := &readSet{maxSpans: 64, maxBytes: 4 << 10}
		tb := new(recordcache.Table)
		for i := range 5000 {
			from, to := fmt.Appendf(nil, "%06d\x00", i), fmt.Appendf(nil, "%06d", i+1)
			if reverse {
				rs.addRange(tb, fmt.Appendf(nil, "%06d", 6000-i), fmt.Appendf(nil, "%06d", 6001-i), false)
			} else {
				rs.addRange(tb, from, to, true)
			}
			if rs.full() {
				rs.shrink()
			}
		}
		if rs.sort(); len(rs.spans) != 1 || rs.spans[0].coarse {
			t.Fatalf("reverse %v: %d spans, coarse %v", reverse, len(rs.spans), rs.spans[0].coarse)
		}
	}
}
