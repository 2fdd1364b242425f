package versionchain

import (
	"bytes"
	"fmt"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
)

// pageModel is what a page should hold: chains, newest version first.
type pageModel struct {
	keys   []string
	chains map[string][]modelVer
}

type modelVer struct {
	Ver
	val     []byte
	lsn     base.LSN
	rowLen  int
	dropped bool
}

func (m *pageModel) add(k string, v modelVer) {
	if _, ok := m.chains[k]; !ok {
		m.keys = append(m.keys, k)
		sort.Strings(m.keys)
	}
	m.chains[k] = append([]modelVer{v}, m.chains[k]...)
}

func (m *pageModel) remove(k string) {
	delete(m.chains, k)
	i := sort.SearchStrings(m.keys, k)
	m.keys = append(m.keys[:i], m.keys[i+1:]...)
}

// compact drops what is marked.
func (m *pageModel) compact() {
	for _, k := range append([]string(nil), m.keys...) {
		var kept []modelVer
		for _, v := range m.chains[k] {
			if !v.dropped {
				kept = append(kept, v)
			}
		}
		if m.chains[k] = kept; len(kept) == 0 {
			m.remove(k)
		}
	}
}

func (m *pageModel) size() int {
	n := 0
	for _, k := range m.keys {
		n += slotSize + 2 + len(k)
		for _, v := range m.chains[k] {
			n += versionHeader + v.stored()
		}
	}
	return n
}

func (m *pageModel) check(t *rapid.T, p Page, prefix int) {
	t.Helper()
	if p.Len() != len(m.keys) {
		t.Fatalf("%d records, want %d", p.Len(), len(m.keys))
	}
	for i, k := range m.keys {
		if string(p.Key(i)) != k {
			t.Fatalf("record %d is %q, want %q", i, p.Key(i), k)
		}
		if j, exact := p.Find([]byte(k), prefix); j != i || !exact {
			t.Fatalf("Find(%q) is %d, %v", k, j, exact)
		}
		off := p.Newest(i)
		for j, want := range m.chains[k] {
			if off == 0 {
				t.Fatalf("%q has %d versions, want %d", k, j, len(m.chains[k]))
			}
			v := p.Version(off)
			if v.Dropped() != want.dropped {
				t.Fatalf("%q version %d: dropped %v", k, j, v.Dropped())
			}
			prior := v.Prior
			v.Prior, v.Flags = 0, v.Flags&^flagDrop
			w := want.Ver
			w.Prior = 0
			if v != w {
				t.Fatalf("%q version %d: %+v, want %+v", k, j, v, w)
			}
			if v.Flags&FlagChilled != 0 {
				if lsn, n := p.Chilled(off); lsn != want.lsn || n != want.rowLen {
					t.Fatalf("%q version %d: chilled at %d, %d", k, j, lsn, n)
				}
			} else if got := p.Value(off, &v); !bytes.Equal(got, want.val) {
				t.Fatalf("%q version %d: value %q, want %q", k, j, got, want.val)
			}
			off = prior
		}
		if off != 0 {
			t.Fatalf("%q has more than %d versions", k, len(m.chains[k]))
		}
	}
	if used := p.Used(); used != m.size() {
		t.Fatalf("Used is %d, want %d", used, m.size())
	}
	if p.Block() != nil && p.Free()+p.Used()+p.Garbage() != len(p.Block()) {
		t.Fatalf("free %d, used %d, garbage %d of %d", p.Free(), p.Used(), p.Garbage(), len(p.Block()))
	}
}

// TestPageAgainstModel does everything that changes a page.
func TestPageAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		common := rapid.SampledFrom([]string{"", "p", "prefix/"}).Draw(t, "prefix")
		prefix := len(common)
		block := func(n int) []byte {
			b := bytes.Repeat([]byte{0xDB}, n)
			return b
		}
		p := MakePage(block(rapid.SampledFrom([]int{1 << 10, 3 << 10, 32 << 10}).Draw(t, "block")))
		m := &pageModel{chains: map[string][]modelVer{}}
		n := 0
		ver := func() Ver {
			n++
			return Ver{
				Stamp: rapid.Uint64().Draw(t, "stamp"), Epoch: base.Epoch(n), Leave: base.Leave(n * 3),
				Flags: uint8(rapid.SampledFrom([]int{0, FlagListed, FlagListed | FlagLogged, FlagClean, 1, 2 | FlagListed}).Draw(t, "flags")),
			}
		}
		val := func() []byte {
			size := rapid.SampledFrom([]int{0, 1, 15, 16, 17, 100, 700}).Draw(t, "size")
			return bytes.Repeat([]byte{byte(n)}, size)
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			k := common + fmt.Sprint("k", rapid.IntRange(0, 20).Draw(t, "key"))
			i, exact := p.Find([]byte(k), prefix)
			chain := m.chains[k]
			if exact != (len(chain) > 0) {
				t.Fatalf("Find(%q) = %d, %v", k, i, exact)
			}
			switch op := rapid.SampledFrom([]string{"write", "write", "write", "write", "replace", "pop", "chill", "drop", "copy", "move", "truncate", "stamp"}).Draw(t, "op"); op {
			case "write":
				v, b := ver(), val()
				need := VersionSize(len(k), len(b), !exact)
				fits := p.Free() >= need
				var ok bool
				if exact {
					ok = p.Push(i, b, &v)
				} else {
					ok = p.Insert(i, []byte(k), b, prefix, &v)
				}
				if ok != fits {
					t.Fatalf("%d bytes into %d free: %v", need, p.Free(), ok)
				}
				if ok {
					if v.Uses != v.Expected() || v.Pinned() {
						t.Fatalf("use count %d of a new version, expected %d", v.Uses, v.Expected())
					}
					m.add(k, modelVer{Ver: v, val: b})
				}
			case "replace":
				if exact {
					v, b := ver(), val()
					if p.Replace(i, b, &v) {
						chain[0] = modelVer{Ver: v, val: b}
					}
				}
			case "pop":
				if exact {
					gone := p.Pop(i)
					if m.chains[k] = chain[1:]; gone != (len(chain) == 1) {
						t.Fatalf("Pop of %d versions: %v", len(chain), gone)
					} else if gone {
						m.remove(k)
					}
				}
			case "chill":
				if exact {
					off, v := p.Newest(i), chain[0].Ver
					v.Prior = p.Version(off).Prior
					v.Flags |= p.Version(off).Flags & flagDrop
					if v.Len >= MinChill && v.Flags&FlagChilled == 0 {
						before := p.Used()
						freed := p.Chill(off, &v, base.LSN(n+1000), n)
						if before-p.Used() != freed || freed <= 0 {
							t.Fatalf("Chill says %d bytes, freed %d", freed, before-p.Used())
						}
						chain[0].Ver, chain[0].lsn, chain[0].rowLen = v, base.LSN(n+1000), n
						chain[0].Flags &^= flagDrop
					}
				}
			case "drop":
				if exact {
					j := rapid.IntRange(0, len(chain)-1).Draw(t, "version")
					off := p.Newest(i)
					for range j {
						off = p.Version(off).Prior
					}
					if !p.Drop(off) {
						t.Fatal("not dropped")
					}
					chain[j].dropped = true
				}
			case "stamp":
				if exact {
					got := p.StampAll(i, 7, 99)
					want := 0
					for j := range chain {
						if chain[j].Stamp == UndecidedStamp(7) {
							want++
						}
					}
					if got != want {
						t.Fatalf("%d stamped, want %d", got, want)
					}
				}
			case "copy", "truncate":
				size := p.CopySize(0, p.Len())
				m.compact()
				if size != m.size() {
					t.Fatalf("CopySize is %d, want %d", size, m.size())
				}
				if op == "copy" {
					p = p.CopyTo(block(size), 0, p.Len(), prefix)
				} else if size <= len(p.Block()) {
					p = p.Truncate(p.CopyTo(block(size), 0, p.Len(), prefix))
				}
				if p.Garbage() != 0 || p.Free() != 0 {
					t.Fatalf("free %d, garbage %d after a copy", p.Free(), p.Garbage())
				}
			case "move":
				if len(p.Block()) < 24<<10 {
					if p.Garbage() != 0 {
						m.compact()
					}
					p = p.MoveTo(block(len(p.Block())+rapid.IntRange(1, 8<<10).Draw(t, "growth")), prefix)
					p = p.InBlock(bytes.Clone(p.Block()))
				}
			}
			m.check(t, p, prefix)
		}
		// A split: both halves together are the whole.
		m.compact()
		whole := p.CopyTo(block(p.CopySize(0, p.Len())), 0, p.Len(), prefix)
		at := rapid.IntRange(0, whole.Len()).Draw(t, "split")
		left := whole.CopyTo(block(whole.CopySize(0, at)), 0, at, prefix)
		right := whole.CopyTo(block(whole.CopySize(at, whole.Len())), at, whole.Len(), prefix)
		half := func(keys []string) *pageModel {
			h := &pageModel{keys: keys, chains: map[string][]modelVer{}}
			for _, k := range keys {
				h.chains[k] = m.chains[k]
			}
			return h
		}
		half(m.keys[:at]).check(t, left, prefix)
		half(m.keys[at:]).check(t, right, prefix)
	})
}

// The zero Page is empty and has no room.
func TestZeroPage(t *testing.T) {
	var p Page
	v := Ver{}
	if i, ok := p.Find([]byte("k"), 0); i != 0 || ok || p.Len() != 0 || p.Free() != 0 || p.Used() != 0 || p.Garbage() != 0 || p.Block() != nil {
		t.Error("the zero page is not empty")
	}
	if p.Insert(0, []byte("k"), nil, 0, &v) {
		t.Error("the zero page has room")
	}
	p.Clear()
}

// Use counts: one for the slot or the newer version, one for the transaction's
// list (design §5); more is somebody who holds the version.
func TestUseCounts(t *testing.T) {
	for _, c := range []struct {
		flags, uses, expected uint8
		pinned                bool
	}{
		{0, 1, 1, false},
		{0, 2, 1, true},
		{FlagListed, 2, 2, false},
		{FlagListed, 3, 2, true},
		{FlagListed | FlagLogged | FlagClean, 2, 2, false},
		{FlagClean, 1, 1, false},
	} {
		v := Ver{Flags: c.flags, Uses: c.uses}
		if v.Expected() != c.expected || v.Pinned() != c.pinned {
			t.Errorf("flags %x uses %d: expected %d, pinned %v", c.flags, c.uses, v.Expected(), v.Pinned())
		}
	}
	p := MakePage(make([]byte, 1<<10))
	v := Ver{Stamp: UndecidedStamp(7), Flags: FlagListed}
	p.Insert(0, []byte("k"), []byte("v"), 0, &v)
	off := p.Newest(0)
	v.Uses++
	p.putVersion(int(off), &v)
	if p.Drop(off) {
		t.Error("a pinned version was dropped (M4)")
	}
	if p.Retire(0) != 0 {
		t.Error("a pinned version was retired (M4)")
	}
	if n := p.StampAll(0, 7, 40); n != 1 {
		t.Fatalf("%d stamped", n)
	}
	if v = p.Version(off); v.TS() != 40 || v.Undecided() || v.Flags&FlagListed != 0 || v.Uses != 2 || !v.Pinned() {
		t.Errorf("after stamping: %+v", v)
	}
	v.Uses--
	p.putVersion(int(off), &v)
	if !p.Drop(off) {
		t.Error("not dropped when let go")
	}
}

// Keys and values at the limits of a page.
func TestPageLimits(t *testing.T) {
	p := MakePage(make([]byte, 32<<10))
	key, val := bytes.Repeat([]byte{1}, base.MaxKeySize), bytes.Repeat([]byte{2}, base.LargeValueSize)
	v := Ver{}
	if !p.Insert(0, key, val, 0, &v) || !p.Push(0, val, &v) {
		t.Fatal("the longest key with two of the longest values does not fit")
	}
	if p.Push(0, val, &v) {
		t.Fatal("a third value fits")
	}
	if i, ok := p.Find(key, 0); i != 0 || !ok {
		t.Error("not found")
	}
	for _, c := range []struct {
		key    string
		prefix int
		want   uint32
	}{
		{"", 0, 0},
		{"a", 0, 'a' << 24},
		{"abcd", 0, 0x61626364},
		{"abcde", 0, 0x61626364},
		{"abcde", 3, 0x64650000},
		{"abc", 3, 0},
		{"ab", 5, 0},
	} {
		if got := Head([]byte(c.key), c.prefix); got != c.want {
			t.Errorf("Head(%q, %d) = %x, want %x", c.key, c.prefix, got, c.want)
		}
	}
}
