package tablespace

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
)

func TestLookup(t *testing.T) {
	cases := []struct {
		key    string
		before bool
		want   string
	}{
		{"a", false, "hole ∞ c"},
		{"c", false, "entry c f"},
		{"e", false, "entry c f"},
		{"f", false, "entry f h"},
		{"h", false, "hole h m"},
		{"l", false, "hole h m"},
		{"m", false, "entry m ∞"},
		{"zzz", false, "entry m ∞"},
		{"", true, "entry m ∞"},
		{"m", true, "hole h m"},
		{"l", true, "hole h m"},
		{"h", true, "entry f h"},
		{"g", true, "entry f h"},
		{"f", true, "entry c f"},
		{"c", true, "hole ∞ c"},
		{"a", true, "hole ∞ c"},
	}
	for _, pending := range []bool{true, false} {
		t.Run(fmt.Sprintf("pending=%t", pending), func(t *testing.T) {
			s := openFresh(t)
			put := func(table base.TableID, low, high string) {
				edit(t, s, func(e *EditTx) { e.Put(table, Entry{Low: []byte(low), High: highOf(high)}) })
			}
			if pending { // a few of them in Pebble and shadowed, the rest only in the overlay
				put(1, "b", "c")
				put(1, "f", "g")
				put(1, "i", "k")
				if _, err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				s.holdApplier(t)
				edit(t, s, func(e *EditTx) { e.Delete(1, []byte("b")) })
				edit(t, s, func(e *EditTx) { e.Delete(1, []byte("i")) })
			}
			put(1, "c", "f")
			put(1, "f", "h")
			put(1, "m", "")
			put(0, "a", "")
			put(2, "", "x")
			if !pending {
				if _, err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range cases {
				if got := lookup(t, s, 1, c.key, c.before); got != c.want {
					t.Errorf("%q before=%t: %s, want %s", c.key, c.before, got, c.want)
				}
			}
			for _, c := range []struct {
				table  base.TableID
				before bool
				key    string
				want   string
			}{
				{2, false, "a", "entry  x"},
				{2, true, "", "hole x ∞"},
				{2, true, "x", "entry  x"},
				{3, false, "a", "hole ∞ ∞"},
				{3, true, "", "hole ∞ ∞"},
				{1<<32 - 1, true, "", "hole ∞ ∞"},
			} {
				if got := lookup(t, s, c.table, c.key, c.before); got != c.want {
					t.Errorf("table %d %q before=%t: %s, want %s", c.table, c.key, c.before, got, c.want)
				}
			}
		})
	}
}

// holdApplier keeps edits in the overlay until the test ends or the returned
// function is called: the next edit that needs a sync waits in SyncLog.
func (s *Space) holdApplier(tb testing.TB) (release func()) {
	tb.Helper()
	gate := make(chan struct{})
	entered := make(chan struct{})
	var once, open sync.Once
	s.o.SyncLog = func() error {
		once.Do(func() { close(entered) })
		<-gate
		return nil
	}
	edit(tb, s, func(e *EditTx) { e.NeedSync() })
	<-entered
	release = func() { open.Do(func() { close(gate) }) }
	tb.Cleanup(release)
	return release
}

// mapModel is the leaf map as a sorted list of fences.
type mapModel struct{ low, high []string }

func (m *mapModel) put(low, high string) {
	m.remove(low)
	i := sort.SearchStrings(m.low, low)
	m.low = append(m.low[:i], append([]string{low}, m.low[i:]...)...)
	m.high = append(m.high[:i], append([]string{high}, m.high[i:]...)...)
}

func (m *mapModel) remove(low string) {
	if i := sort.SearchStrings(m.low, low); i < len(m.low) && m.low[i] == low {
		m.low = append(m.low[:i], m.low[i+1:]...)
		m.high = append(m.high[:i], m.high[i+1:]...)
	}
}

func (m *mapModel) find(key string, before bool) string {
	lo, hi := "∞", "∞"
	for i := range m.low {
		in := m.low[i] <= key && key < m.high[i]
		if before {
			in = key != "" && m.low[i] < key && key <= m.high[i]
		}
		if in {
			return fmt.Sprintf("entry %s %s", m.low[i], m.high[i])
		}
		if before && key == "" || m.high[i] < key || !before && m.high[i] == key {
			lo = m.high[i]
		} else if hi == "∞" {
			hi = m.low[i]
		}
	}
	return fmt.Sprintf("hole %s %s", lo, hi)
}

// TestMapModel compares lookups and walks with a model under random edits,
// whatever part of them is applied, flushed or reopened.
func TestMapModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewMem()
		inc := uint32(1)
		open := func() *Space {
			s, err := Open(smallOptions(fs, inc))
			if err != nil {
				rt.Fatal(err)
			}
			inc++
			endRecovery(t, s)
			return s
		}
		s := open()
		w := s.NewWalk(1)
		defer func() {
			w.Close()
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		var m mapModel
		key := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%02d", rapid.IntRange(1, 60).Draw(t, "key"))
		})
		find := func(rt *rapid.T, fn func(k []byte) (Entry, bool, []byte, []byte, error), k string, before bool) {
			kb := []byte(k)
			if before && k == "" {
				kb = nil
			}
			if got, want := describe(t, s)(fn(kb)), m.find(k, before); got != want {
				rt.Fatalf("%q before=%t: %s, want %s (%v)", k, before, got, want, m)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				low, high := key.Draw(rt, "low"), key.Draw(rt, "high")
				if low >= high {
					return
				}
				// What overlaps goes in the same edit.
				edit(t, s, func(e *EditTx) {
					for i := 0; i < len(m.low); i++ {
						if m.low[i] < high && low < m.high[i] {
							e.Delete(1, []byte(m.low[i]))
							m.remove(m.low[i])
							i--
						}
					}
					e.Put(1, Entry{Low: []byte(low), High: []byte(high)})
				})
				m.put(low, high)
			},
			"remove": func(rt *rapid.T) {
				if len(m.low) == 0 {
					return
				}
				low := rapid.SampledFrom(m.low).Draw(rt, "low")
				edit(t, s, func(e *EditTx) { e.Delete(1, []byte(low)) })
				m.remove(low)
			},
			"lookup": func(rt *rapid.T) {
				find(rt, func(k []byte) (Entry, bool, []byte, []byte, error) { return s.Lookup(1, k) }, key.Draw(rt, "key"), false)
			},
			"before": func(rt *rapid.T) {
				k := key.Draw(rt, "key")
				if rapid.Bool().Draw(rt, "end") {
					k = ""
				}
				find(rt, func(k []byte) (Entry, bool, []byte, []byte, error) { return s.LookupBefore(1, k) }, k, true)
			},
			"walk": func(rt *rapid.T) {
				k := key.Draw(rt, "key")
				for range 5 {
					find(rt, w.Lookup, k, false)
					en, ok, _, hi, _ := w.Lookup([]byte(k))
					if s.ReleaseEntry(&en); ok {
						hi = en.High
					}
					if hi == nil {
						return
					}
					k = string(hi)
				}
			},
			"walk back": func(rt *rapid.T) {
				k := ""
				for range 5 {
					find(rt, w.LookupBefore, k, true)
					kb := []byte(k)
					if k == "" {
						kb = nil
					}
					en, ok, lo, _, _ := w.LookupBefore(kb)
					if s.ReleaseEntry(&en); ok {
						lo = en.Low
					}
					if lo == nil {
						return
					}
					k = string(lo)
				}
			},
			"flush": func(rt *rapid.T) {
				if _, err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "really") != 0 {
					return
				}
				w.Close()
				if err := s.Verify(context.Background()); err != nil {
					rt.Fatal(err)
				}
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = open()
				w = s.NewWalk(1)
			},
		})
	})
}

// TestLookupSeesOneMoment: every edit moves the fence between two leaves, and
// no lookup may see half of one, wherever the applier is.
func TestLookupSeesOneMoment(t *testing.T) {
	s := openFresh(t)
	const n = 3000
	fence := func(i int) string { return fmt.Sprintf("m%04d", i) }
	edit(t, s, func(e *EditTx) {
		e.Put(1, Entry{Low: []byte("a"), High: []byte(fence(0))})
		e.Put(1, Entry{Low: []byte(fence(0)), High: nil})
	})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range 3 {
		wg.Go(func() {
			w := s.NewWalk(1)
			defer w.Close()
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				key := []byte(fence(rng.IntN(n)))
				fn := func(k []byte) (Entry, bool, []byte, []byte, error) { return s.Lookup(1, k) }
				if g == 2 {
					fn = w.Lookup
				}
				en, ok, lo, hi, err := fn(key)
				if err != nil || !ok {
					t.Errorf("%s: hole %s %s, %v", key, show(lo), show(hi), err)
					return
				}
				if bytes.Compare(en.Low, key) > 0 || en.High != nil && bytes.Compare(en.High, key) <= 0 {
					t.Errorf("%s: entry %s %s", key, en.Low, show(en.High))
					return
				}
				s.ReleaseEntry(&en)
			}
		})
	}
	for i := 1; i < n; i++ {
		edit(t, s, func(e *EditTx) {
			e.Delete(1, []byte(fence(i-1)))
			e.Put(1, Entry{Low: []byte("a"), High: []byte(fence(i))})
			e.Put(1, Entry{Low: []byte(fence(i)), High: nil})
		})
		if i%500 == 0 {
			if _, err := s.Flush(); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// P7: an entry's epoch is that of its last edit.
func TestEntrySeq(t *testing.T) {
	s := openFresh(t)
	for _, flush := range []bool{false, true} {
		seq := edit(t, s, func(e *EditTx) {
			if e.Seq() == 0 {
				t.Error("no sequence number")
			}
			e.Put(1, Entry{Low: []byte("a"), Seq: 77})
		})
		if flush {
			if _, err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		en, ok, _, _, err := s.Lookup(1, []byte("b"))
		if !ok || err != nil || en.Seq != seq {
			t.Errorf("epoch %d, want %d (%t %v)", en.Seq, seq, ok, err)
		}
	}
}

// The sweep of a rolled back transaction asked for the first entry of a table from
// the empty key on, and was told that there is none: the entry was still in the
// overlay, with nil for its Low. Its frames stayed listed, the owner was
// forgotten, and who read the leaf met an unknown transaction.
func TestNextLowOfTheFirstEntry(t *testing.T) {
	s := openFresh(t)
	next := func(want string) {
		t.Helper()
		low, found, err := s.NextLow(1, nil, []byte("z"))
		if err != nil || !found || low == nil || string(low) != want {
			t.Fatalf("first entry at %q, %t, %v; want %q", low, found, err, want)
		}
	}
	edit(t, s, func(e *EditTx) { e.Put(1, Entry{Low: []byte("m")}) })
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	release := s.holdApplier(t)
	next("m")
	edit(t, s, func(e *EditTx) { e.Put(1, Entry{High: []byte("m")}) })
	next("")
	release()
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	next("")
}
