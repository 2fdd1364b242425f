package recordcache

import (
	"testing"

	"pgregory.net/rapid"
)

// A walk sees every leaf that was there when it began and stays, and whatever
// splits off from a leaf that it has yet to see; it sees none twice. The clock
// hand goes round fairly.
func TestRingWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring
		r.init()
		var leaves []*Leaf // in the ring
		for range rapid.IntRange(0, 12).Draw(t, "leaves") {
			l := &Leaf{}
			r.add(l)
			leaves = append(leaves, l)
		}
		must := map[*Leaf]bool{} // has to be seen
		for _, l := range leaves {
			must[l] = true
		}
		seen := map[*Leaf]bool{}
		remove := func(i int) {
			l := leaves[i]
			r.remove(l)
			r.remove(l) // once is enough
			leaves = append(leaves[:i], leaves[i+1:]...)
			if !seen[l] {
				delete(must, l)
			}
		}
		change := func() {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				op := rapid.SampledFrom([]string{"add", "split", "remove", "tick", "inner"}).Draw(t, "op")
				if len(leaves) == 0 && op != "add" {
					continue
				}
				switch op {
				case "add":
					l := &Leaf{}
					r.add(l)
					leaves = append(leaves, l)
				case "split":
					at := leaves[rapid.IntRange(0, len(leaves)-1).Draw(t, "origin")]
					l := &Leaf{}
					r.addAfter(at, l)
					leaves = append(leaves, l)
					if must[at] && !seen[at] {
						must[l] = true
					}
				case "remove":
					remove(rapid.IntRange(0, len(leaves)-1).Draw(t, "leaf"))
				case "tick":
					if got := r.tick(make([]*Leaf, 0, 3)); len(got) != min(3, len(leaves)) {
						t.Fatalf("%d leaves of %d", len(got), len(leaves))
					}
				case "inner":
					n := 0
					r.walk(func(*Leaf) bool { n++; return true })
					if n != len(leaves) {
						t.Fatalf("an undisturbed walk saw %d of %d leaves", n, len(leaves))
					}
				}
			}
		}
		stop := rapid.IntRange(0, 30).Draw(t, "stop")
		r.walk(func(l *Leaf) bool {
			if seen[l] {
				t.Fatal("a leaf is seen twice")
			}
			seen[l] = true
			change()
			stop--
			return stop != 0
		})
		if stop > 0 {
			for l := range must {
				if !seen[l] {
					t.Fatal("a leaf is missed")
				}
			}
		}
		if r.len() != len(leaves) {
			t.Fatalf("%d in the ring, want %d", r.len(), len(leaves))
		}
		// The hand visits all before it visits one again.
		again := map[*Leaf]bool{}
		for range leaves {
			for _, l := range r.tick(make([]*Leaf, 0, 1)) {
				if again[l] {
					t.Fatal("the hand visits a leaf twice in one round")
				}
				again[l] = true
			}
		}
		if len(again) != len(leaves) {
			t.Fatalf("the hand visited %d of %d leaves", len(again), len(leaves))
		}
		for len(leaves) > 0 {
			remove(0)
		}
		if got := r.tick(make([]*Leaf, 0, 1)); len(got) != 0 {
			t.Fatal("a leaf in an empty ring")
		}
	})
}
