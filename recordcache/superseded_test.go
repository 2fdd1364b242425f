package recordcache

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// newestOf returns the index of the newest value of those that see lets through.
func newestOf(values []largeFrame, drop []int, see func(*largeFrame) bool) int {
	newest := -1
	var best largeFrame
	for _, v := range values {
		if slices.Contains(drop, v.i) || !see(&v) {
			continue
		}
		if newest < 0 || v.ts > best.ts || v.ts == best.ts && v.leave > best.leave {
			newest, best = v.i, v
		}
	}
	return newest
}

// Taking superseded large values off a list is not noticed by any reader of the
// horizon, nor by a live owner, whatever it rolls back to (P5, P8). No more stay than
// somebody may see.
func TestSupersededIsNotNoticed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rv := recordValues{live: map[*versionchain.Outcome]*liveValues{}}
		n := rapid.IntRange(0, 10).Draw(t, "committed")
		for i := range n {
			rv.committed = append(rv.committed, largeFrame{
				i: i, ts: base.CommitTS(rapid.IntRange(1, 8).Draw(t, "ts")), leave: base.Leave(i + 1),
			})
		}
		h := versionchain.Horizon{}
		for s := range base.CommitTS(9) {
			if s == 8 || rapid.Bool().Draw(t, "read") {
				h = append(h, s)
			}
		}
		lv := &liveValues{}
		epoch := base.Epoch(0)
		for i := range rapid.IntRange(0, 10).Draw(t, "live") {
			epoch += base.Epoch(rapid.IntRange(0, 3).Draw(t, "epochs"))
			lv.values = append(lv.values, largeFrame{i: 100 + i, epoch: epoch, leave: base.Leave(i + 1)})
		}
		for range rapid.IntRange(0, 4).Draw(t, "savepoints") {
			lv.starts = append(lv.starts, base.Epoch(rapid.IntRange(1, 30).Draw(t, "start")))
		}
		slices.Sort(lv.starts)
		rv.live[versionchain.NewOutcome(1)] = lv
		drop := rv.superseded(h)
		for _, s := range h {
			see := func(v *largeFrame) bool { return v.ts <= s }
			if was, is := newestOf(rv.committed, nil, see), newestOf(rv.committed, drop, see); was != is {
				t.Fatalf("as of %d: %d, was %d; %v of %v dropped", s, is, was, drop, rv.committed)
			}
		}
		for _, dead := range append(lv.starts, ^base.Epoch(0)) {
			see := func(v *largeFrame) bool { return v.epoch < dead }
			if was, is := newestOf(lv.values, nil, see), newestOf(lv.values, drop, see); was != is {
				t.Fatalf("rolled back to %d: %d, was %d; %v of %v dropped", dead, is, was, drop, lv.values)
			}
		}
		if left := n + len(lv.values) - len(drop); left > len(h)+len(lv.starts)+1 {
			t.Fatalf("%d stay, for %d snapshots and %d savepoints", left, len(h), len(lv.starts))
		}
	})
}
