package versionchain

import (
	"bytes"
	"sort"
	"testing"

	"pgregory.net/rapid"
)

// Find must agree with a plain binary search however heads are spread, with
// equal heads and with common prefixes.
func TestFindAgainstSortedKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"", "a", "long common prefix/"}).Draw(t, "prefix")
		gen := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 'b', 0xff}), 1, 7)
		if rapid.Bool().Draw(t, "spread") {
			gen = rapid.SliceOfN(rapid.Byte(), 1, 9)
		}
		keys := map[string]bool{}
		for range rapid.IntRange(1, 120).Draw(t, "n") {
			keys[prefix+string(gen.Draw(t, "key"))] = true
		}
		p := MakePage(make([]byte, 16<<10))
		var sorted []string
		for k := range keys {
			i, exact := p.Find([]byte(k), len(prefix))
			if exact {
				t.Fatalf("found %q before it was inserted", k)
			}
			if !p.Insert(i, []byte(k), []byte(k), len(prefix), &Ver{}) {
				t.Fatal("full")
			}
			sorted = append(sorted, k)
		}
		sort.Strings(sorted)
		probe := func(k string) {
			i, exact := p.Find([]byte(k), len(prefix))
			want := sort.SearchStrings(sorted, k)
			if i != want || exact != keys[k] {
				t.Fatalf("Find(%q) = %d, %v; want %d, %v", k, i, exact, want, keys[k])
			}
		}
		for _, k := range sorted {
			probe(k)
			probe(k + "\x00")
		}
		for range 50 {
			probe(prefix + string(gen.Draw(t, "probe")))
		}
		for i, k := range sorted {
			if !bytes.Equal(p.Key(i), []byte(k)) {
				t.Fatalf("slot %d holds %q, want %q", i, p.Key(i), k)
			}
		}
	})
}
