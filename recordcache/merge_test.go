package recordcache

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// ownedChain draws the versions of one record by one transaction, newest first.
func ownedChain(t *rapid.T) []versionchain.Row {
	n := rapid.IntRange(1, 12).Draw(t, "versions")
	var chain []versionchain.Row
	epoch, leave := base.Epoch(0), base.Leave(0)
	for i := range n {
		epoch += base.Epoch(rapid.IntRange(0, 3).Draw(t, "epochs"))
		leave += base.Leave(rapid.IntRange(1, 2).Draw(t, "leaves"))
		r := versionchain.Row{Key: []byte("k"), Order: base.Order{Epoch: epoch, Leave: leave}}
		r.Kind = rapid.SampledFrom([]base.Kind{base.KindValue, base.KindValue, base.KindTombstone, base.KindLock}).Draw(t, "kind")
		if r.Kind == base.KindValue {
			r.Value = fmt.Append(nil, i)
		}
		chain = append(chain, r)
	}
	slices.Reverse(chain)
	return chain
}

// asOf is what the owner has of the record when everything from epoch dead on is
// rolled back.
func asOf(chain []versionchain.Row, dead base.Epoch) string {
	locked := "free"
	for i := range chain {
		r := &chain[i]
		switch {
		case r.Epoch >= dead:
		case r.Kind == base.KindLock:
			locked = "locked"
		default:
			return fmt.Sprintf("%v %s", r.Kind, r.Value)
		}
	}
	return locked
}

// Merging frames of a live owner is not noticed, whatever it rolls back to (P8);
// and no stretch keeps more than one version.
func TestKeepStretches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chain := ownedChain(t)
		var starts []base.Epoch
		for range rapid.IntRange(0, 5).Draw(t, "savepoints") {
			starts = append(starts, base.Epoch(rapid.IntRange(1, 30).Draw(t, "start")))
		}
		slices.Sort(starts)
		starts = slices.Compact(starts)
		kept := keepStretches(nil, chain, starts)
		if !sort.SliceIsSorted(kept, func(a, b int) bool { return kept[a].Newer(kept[b].Order) }) {
			t.Fatalf("%v is not sorted", kept)
		}
		for _, dead := range append(starts, ^base.Epoch(0)) {
			if a, b := asOf(chain, dead), asOf(kept, dead); a != b {
				t.Fatalf("%v with savepoints at %v: rolled back to %d it is %q, and %q after the merge", chain, starts, dead, a, b)
			}
		}
		if len(kept) > len(starts)+1 {
			t.Fatalf("%d versions are kept in %d stretches", len(kept), len(starts)+1)
		}
	})
}

// Merging committed frames is not noticed by anybody who reads, or begins to (P5).
func TestKeepNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var chain []versionchain.Row
		ts := base.CommitTS(60)
		for i := range rapid.IntRange(1, 10).Draw(t, "versions") {
			r := versionchain.Row{Key: []byte("k"), Order: base.Order{TS: ts}}
			r.Kind = rapid.SampledFrom([]base.Kind{base.KindValue, base.KindValue, base.KindTombstone, base.KindLock}).Draw(t, "kind")
			if r.Kind == base.KindValue {
				r.Value = fmt.Append(nil, i)
			}
			chain = append(chain, r)
			if ts -= base.CommitTS(rapid.IntRange(0, 9).Draw(t, "gap")); ts < 1 {
				break
			}
		}
		h := versionchain.Horizon{}
		for range rapid.IntRange(1, 5).Draw(t, "readers") {
			h = append(h, base.CommitTS(rapid.IntRange(1, 65).Draw(t, "reader")))
		}
		slices.Sort(h)
		rules := mergeRules{
			complete: rapid.Bool().Draw(t, "complete"),
			replayed: base.CommitTS(rapid.IntRange(0, 70).Draw(t, "replayed")),
		}
		kept := keepNeeded(nil, chain, h, rules)
		see := func(rows []versionchain.Row, at base.CommitTS) string {
			for i := range rows {
				if r := &rows[i]; r.TS <= at && r.Kind != base.KindLock {
					if r.Kind == base.KindTombstone && rules.complete {
						return "nothing"
					}
					return fmt.Sprintf("%v %s", r.Kind, r.Value)
				}
			}
			return "nothing"
		}
		conflict := func(rows []versionchain.Row, at base.CommitTS) bool {
			return slices.ContainsFunc(rows, func(r versionchain.Row) bool { return r.TS > at })
		}
		readers := append(versionchain.Horizon{}, h...)
		for at := h[len(h)-1]; at <= 70; at++ {
			readers = append(readers, at)
		}
		for _, at := range readers {
			if a, b := see(chain, at), see(kept, at); a != b {
				t.Fatalf("%v with readers %v, %+v: at %d it was %q, is %q", chain, h, rules, at, a, b)
			}
			if a, b := conflict(chain, at), conflict(kept, at); a != b {
				t.Fatalf("%v with readers %v, %+v: conflict at %d was %v, is %v", chain, h, rules, at, a, b)
			}
		}
		// A tombstone that recovery needs stays: the log still has what it deleted.
		if last := chain[0]; last.Kind == base.KindTombstone && last.TS > rules.replayed && (len(kept) == 0 || kept[0].TS != last.TS) {
			t.Fatalf("%v, %+v: the tombstone is gone", chain, rules)
		}
	})
}

func TestCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rows []versionchain.Row
		for k := range rapid.IntRange(0, 40).Draw(t, "records") {
			for range rapid.IntRange(1, 4).Draw(t, "versions") {
				rows = append(rows, versionchain.Row{
					Key: fmt.Appendf(nil, "k%03d", k), Value: make([]byte, rapid.SampledFrom([]int{0, 10, 300, 2000}).Draw(t, "size")),
				})
			}
		}
		size := rapid.SampledFrom([]int{1, 500, 9 << 10}).Draw(t, "piece")
		pieces := cut(rows, size)
		n := 0
		for i, p := range pieces {
			if len(p) == 0 {
				t.Fatal("an empty piece")
			}
			bytesIn := 0
			for j := range p {
				if !bytes.Equal(p[j].Key, rows[n].Key) {
					t.Fatalf("row %d is %s, want %s", n, p[j].Key, rows[n].Key)
				}
				n++
				bytesIn += len(p[j].Key) + len(p[j].Value) + 12
			}
			if i > 0 && bytes.Equal(p[0].Key, pieces[i-1][len(pieces[i-1])-1].Key) {
				t.Fatal("a record is broken")
			}
			if i+1 < len(pieces) && bytesIn < size {
				t.Fatalf("piece %d has %d bytes of %d", i, bytesIn, size)
			}
		}
		if n != len(rows) {
			t.Fatalf("%d rows of %d", n, len(rows))
		}
	})
}

func TestDirHeadKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 0xff}), 0, 12)
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		x, y := itemAt(a, nil), itemAt(b, nil)
		if dirLess(x, y) != (bytes.Compare(a, b) < 0) {
			t.Fatalf("%x and %x", a, b)
		}
		n := commonPrefix(a, b)
		for _, k := range [][]byte{a, b} {
			if bytes.Compare(a, k) <= 0 && bytes.Compare(k, b) < 0 && !bytes.HasPrefix(k, a[:min(n, len(a))]) {
				t.Fatalf("%x within [%x, %x) does not have their prefix of %d", k, a, b, n)
			}
		}
	})
}

// The oldest tombstone goes if nothing lies below it, nobody reads from before it
// and the log does not bring back what it deleted; a lock if nobody does (P5).
func TestKeepNeededTombstonesAndLocks(t *testing.T) {
	row := func(ts base.CommitTS, k base.Kind) versionchain.Row {
		return versionchain.Row{Key: []byte("k"), Kind: k, Order: base.Order{TS: ts}}
	}
	tomb := []versionchain.Row{row(30, base.KindTombstone), row(20, base.KindValue)}
	lock := []versionchain.Row{row(30, base.KindLock), row(20, base.KindValue)}
	for _, c := range []struct {
		name  string
		chain []versionchain.Row
		h     versionchain.Horizon
		rules mergeRules
		want  int
	}{
		{"nothing needs it", tomb, versionchain.Horizon{40}, mergeRules{complete: true, replayed: 30}, 0},
		{"older frames stay listed", tomb, versionchain.Horizon{40}, mergeRules{replayed: 30}, 1},
		{"recovery would replay what it deleted", tomb, versionchain.Horizon{40}, mergeRules{complete: true, replayed: 29}, 1},
		{"a snapshot is older", tomb, versionchain.Horizon{25, 40}, mergeRules{complete: true, replayed: 30}, 2},
		{"a lock that nobody began before", lock, versionchain.Horizon{40}, mergeRules{complete: true, replayed: 30}, 1},
		{"a lock that conflicts with a snapshot", lock, versionchain.Horizon{25, 40}, mergeRules{complete: true, replayed: 30}, 2},
	} {
		if got := keepNeeded(nil, c.chain, c.h, c.rules); len(got) != c.want {
			t.Errorf("%s: %d versions are kept, want %d: %v", c.name, len(got), c.want, got)
		}
	}
}
