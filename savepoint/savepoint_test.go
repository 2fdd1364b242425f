package savepoint

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
)

func TestIntervalsAgainstSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var iv Intervals
		dead := map[base.Epoch]bool{}
		for range rapid.IntRange(1, 12).Draw(t, "n") {
			from := base.Epoch(rapid.IntRange(0, 40).Draw(t, "from"))
			to := from + base.Epoch(rapid.IntRange(0, 8).Draw(t, "len"))
			before := append(Intervals(nil), iv...)
			next := iv.Add(base.EpochRange{From: from, To: to})
			if diff := cmp.Diff(before, append(Intervals(nil), iv...)); diff != "" {
				t.Fatalf("Add changed its receiver: %s", diff)
			}
			iv = next
			for e := from; e <= to; e++ {
				dead[e] = true
			}
		}
		for e := range base.Epoch(60) {
			if iv.Contains(e) != dead[e] {
				t.Fatalf("epoch %d: Contains=%v, want %v in %v", e, iv.Contains(e), dead[e], iv)
			}
		}
		for i := 1; i < len(iv); i++ {
			if iv[i].From <= iv[i-1].To+1 {
				t.Fatalf("not disjoint and merged: %v", iv)
			}
		}
	})
}

// Scenario 18 of falcon-lessons: ROLLBACK TO the same savepoint twice, S6.
func TestStackRollbackKeepsSavepoint(t *testing.T) {
	var s Stack
	a, _ := s.Push(Mark{})
	b, _ := s.Push(Mark{})
	if got := s.RollbackTo(a); got != (base.EpochRange{From: a, To: b}) {
		t.Fatalf("dead %v", got)
	}
	if _, ok := s.Find(b); ok {
		t.Fatal("inner savepoint survived a rollback around it")
	}
	if _, ok := s.Find(a); !ok {
		t.Fatal("savepoint not usable after rollback to it")
	}
	now := s.Now()
	if now <= b {
		t.Fatal("epoch did not advance: rolled back versions would look live")
	}
	if got := s.RollbackTo(a); got.From != a || got.To != now {
		t.Fatalf("second rollback: dead %v", got)
	}
}

// Hazard 13: Falcon's release renumbered versions to an id already rolled back.
func TestStackReleaseMerges(t *testing.T) {
	var s Stack
	a, _ := s.Push(Mark{})
	b, _ := s.Push(Mark{})
	s.Release(b)
	if s.Stretch() != a || s.Now() <= b {
		t.Fatalf("stretch %d now %d", s.Stretch(), s.Now())
	}
	s.Release(a)
	if s.Stretch() != 0 || len(s.marks) != 0 {
		t.Fatal("released savepoints remain")
	}
}

// At its end the counter stops. It had gone on with each rollback and release, to
// zero: dead epochs would have come to life, and live ones died.
func TestStackEndsWithItsCounter(t *testing.T) {
	s := Stack{now: lastEpoch - 3}
	var starts []base.Epoch
	for {
		start, ok := s.Push(Mark{})
		if !ok {
			break
		}
		starts = append(starts, start)
	}
	if len(starts) != 3 || !s.Full() {
		t.Fatalf("%d savepoints below the end, full %v", len(starts), s.Full())
	}
	for i, start := range slices.Backward(starts) {
		s.Release(start)
		if s.Now() != lastEpoch || len(s.marks) != i {
			t.Fatalf("epoch %d at depth %d", s.Now(), len(s.marks))
		}
	}
}

// A stretch begins with the newest live savepoint at or before the epoch; a release
// merges it into the one around it.
func TestStretchOf(t *testing.T) {
	var s Stack
	a, _ := s.Push(Mark{}) // 1
	b, _ := s.Push(Mark{}) // 2
	s.RollbackTo(b)        // now 3
	c, _ := s.Push(Mark{}) // 4
	check := func(want ...base.Epoch) {
		t.Helper()
		for e, start := range want {
			if got := s.StretchOf(base.Epoch(e)); got != start {
				t.Errorf("epoch %d is of the stretch from %d, want %d", e, got, start)
			}
		}
	}
	check(0, a, b, b, c, c)
	s.Release(c)
	check(0, a, b, b, b, b)
	s.Release(a)
	check(0, 0, 0, 0, 0, 0)
}
