package recordcache

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// leavesAt makes a table whose leaves begin at the given fences.
func leavesAt(fences [][]byte) *Table {
	tb := newTable(nil, 1, "t")
	for i, low := range fences {
		l := &Leaf{table: tb}
		var high []byte
		if i+1 < len(fences) {
			high = fences[i+1]
		}
		l.setFences(low, high)
		tb.tree.ReplaceOrInsert(itemAt(low, l))
	}
	tb.changedLocked()
	return tb
}

// TestGuessNamesTheLeaf: with fences that their heads tell apart, below a common
// prefix, the guess is the leaf that the directory names.
func TestGuessNamesTheLeaf(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	key := func(x uint64) []byte { return binary.BigEndian.AppendUint64([]byte("user:"), x) }
	fences := [][]byte{nil}
	x := uint64(0)
	for range 1000 {
		x += 1 + rng.Uint64N(1<<40)
		fences = append(fences, key(x))
	}
	tb := leavesAt(fences)
	if l := tb.guess(key(1)); l != nil {
		t.Fatal("a guess without an index")
	}
	for tb.index.p.Load() == nil {
		tb.guess(key(1)) // the index is made after enough searches
	}
	for range 100_000 {
		k := key(rng.Uint64N(x + 1<<40))
		if got, want := tb.guess(k), floor(tb.directory(), k); got != want {
			t.Fatalf("key %x: guess %x, want %x", k, got.low, want.low)
		}
	}
	if l := tb.guess([]byte("zebra")); l != nil {
		t.Fatal("a guess for a key without the prefix")
	}
}

// TestIndexFollowsTheDirectory: an index does not keep leaves that are gone, and
// fences that their heads do not tell apart have none.
func TestIndexFollowsTheDirectory(t *testing.T) {
	var fences [][]byte
	for i := range 200 {
		fences = append(fences, []byte{byte(i), 1})
	}
	tb := leavesAt(fences)
	for tb.index.p.Load() == nil {
		tb.guess([]byte{7})
	}
	tb.mu.Lock()
	for range 100 {
		tb.removeLocked(floor(tb.tree, []byte{255, 255}))
	}
	tb.mu.Unlock()
	if tb.index.p.Load() != nil {
		t.Fatal("half the leaves are gone and the index still holds them")
	}

	fences = nil
	for i := range 200 {
		f := append([]byte{byte(i / 100)}, "the same eight bytes and more"...)
		fences = append(fences, append(f, byte(i)))
	}
	tb = leavesAt(fences)
	for range 1000 {
		if l := tb.guess(fences[3]); l != nil {
			t.Fatal("a guess among fences that look alike")
		}
	}
}

// TestSearchFollowsTheDirectory: whatever was searched before, a search after a
// change names the leaf of the tree as it is now, in its clone and under its lock
// alike, and the version tells a searcher that the tree has changed.
func TestSearchFollowsTheDirectory(t *testing.T) {
	tb := leavesAt([][]byte{nil})
	rng := rand.New(rand.NewPCG(5, 6))
	cloned := 0
	for range 2000 {
		k := []byte{byte(rng.Uint32()), byte(rng.Uint32())}
		l, version := tb.search(k)
		tb.mu.Lock()
		if p := floor(tb.tree, k); p != l {
			t.Fatalf("search for %x: leaf at %x, want %x", k, l.low, p.low)
		}
		if len(l.low) > 0 && rng.IntN(3) == 0 {
			tb.removeLocked(l)
		} else if string(l.low) != string(k) {
			n := &Leaf{table: tb}
			n.setFences(k, nil)
			tb.addLocked(n)
		}
		tb.mu.Unlock()
		if tb.version.Load() == version && string(l.low) != string(k) {
			t.Fatal("the directory has changed and its version has not")
		}
		for range rng.IntN(2 * cloneAfter) {
			tb.search(k)
		}
		if tb.dir.Load() != nil {
			cloned++
		}
	}
	if cloned == 0 || cloned == 2000 {
		t.Fatalf("%d of 2000 directories were cloned", cloned)
	}
}
