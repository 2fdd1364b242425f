package versionchain

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
)

func TestHorizonNeeds(t *testing.T) {
	h := Horizon{10, 25, 60}
	if h.Oldest() != 10 {
		t.Errorf("oldest %d", h.Oldest())
	}
	for _, c := range []struct {
		ts, newer base.CommitTS
		want      bool
	}{
		{5, base.MaxTS, true}, // the newest is always needed
		{100, base.MaxTS, true},
		{5, 8, false},
		{5, 10, false}, // who reads at 10 sees 10
		{5, 11, true},
		{10, 11, true},
		{11, 25, false},
		{11, 26, true},
		{20, 25, false},
		{25, 26, true},
		{26, 60, false},
		{30, 61, true},
		{60, 61, true},
		// Commits that the horizon does not know yet: somebody may have begun
		// between any two of them.
		{61, 70, true},
		{65, 66, true},
	} {
		if got := h.Needs(c.ts, c.newer); got != c.want {
			t.Errorf("Needs(%d, %d) = %v", c.ts, c.newer, got)
		}
	}
}

func TestSettle(t *testing.T) {
	for _, c := range []struct {
		name    string
		story   string
		h       Horizon
		covered bool
		want    string
		settled Settled
	}{
		{
			"the worked example", "t1 d, 50 c, 40 b, 20 a, 10 z",
			Horizon{25, 60},
			false,
			"t1 d, 50 c, 20 a",
			Settled{Live: 1, Unclean: 2, Kept: 3, Dropped: 2},
		},
		{"newest stays", "50 c", Horizon{60}, false, "50 c", Settled{Unclean: 1, Kept: 1}},
		{"clean is counted apart", "50 c, 40 b clean", Horizon{45, 60}, true, "50 c, 40 b clean", Settled{Unclean: 1, Kept: 2}},
		{"between two snapshots", "50 e, 40 d, 30 c, 20 b, 10 a", Horizon{15, 35, 60}, false, "50 e, 30 c, 10 a", Settled{Unclean: 3, Kept: 3, Dropped: 2}},
		{"aborted", "t5 d, 30 a", Horizon{60}, false, "30 a", Settled{Unclean: 1, Kept: 1, Dropped: 1}},
		{"dead epochs", "t2.4 e, t2.1 d, 30 a", Horizon{60}, false, "t2.1 d, 30 a", Settled{Live: 1, Unclean: 1, Kept: 2, Dropped: 1}},
		{"committing is live", "t3 d, 30 a", Horizon{60}, false, "t3 d, 30 a", Settled{Live: 1, Unclean: 1, Kept: 2}},
		{"committed is stamped", "t4 d, 30 a", Horizon{60}, false, "45 d", Settled{Unclean: 1, Kept: 1, Dropped: 1}},
		{"committed beyond an old horizon", "t4 d, 30 a", Horizon{40}, false, "45 d, 30 a", Settled{Unclean: 2, Kept: 2}},
		{"savepoints end with the commit", "t6.4 f, t6.3 e, t6.2 d, 30 a", Horizon{35, 60}, false, "45 f, 30 a", Settled{Unclean: 2, Kept: 2, Dropped: 2}},
		{"lock that all have seen", "50 lock, 30 a", Horizon{60}, false, "30 a", Settled{Unclean: 1, Kept: 1, Dropped: 1}},
		{"lock that somebody has not", "50 lock, 30 a", Horizon{45, 60}, false, "50 lock, 30 a", Settled{Unclean: 2, Kept: 2}},
		{"live lock", "t1 lock, 30 a", Horizon{60}, false, "t1 lock, 30 a", Settled{Live: 1, Unclean: 1, Kept: 2}},
		{"tombstone over nothing", "50 tomb", Horizon{60}, false, "", Settled{Dropped: 1}},
		{"tombstone over frames", "50 tomb", Horizon{60}, true, "50 tomb", Settled{Unclean: 1, Kept: 1}},
		{"tombstone over what somebody sees", "50 tomb, 30 a", Horizon{40, 60}, false, "50 tomb, 30 a", Settled{Unclean: 2, Kept: 2}},
		{"tombstone that somebody has not seen", "50 tomb", Horizon{40, 60}, false, "50 tomb", Settled{Unclean: 1, Kept: 1}},
		{"tombstone and its value", "50 tomb, 30 a", Horizon{60}, false, "", Settled{Dropped: 2}},
		{"value over a tombstone", "50 b, 30 tomb", Horizon{35, 60}, false, "50 b", Settled{Unclean: 1, Kept: 1, Dropped: 1}},
		{"live value over a tombstone", "t1 b, 30 tomb, 20 a", Horizon{60}, false, "t1 b", Settled{Live: 1, Kept: 1, Dropped: 2}},
		{"pinned stays", "50 c, 40 b pin, 30 a", Horizon{60}, false, "50 c, 40 b pin", Settled{Unclean: 2, Kept: 2, Dropped: 1, Pinned: 1}},
		{"pinned tombstone stays", "50 tomb pin", Horizon{60}, false, "50 tomb pin", Settled{Unclean: 1, Kept: 1, Pinned: 1}},
		{"stand-in", "50 standin clean, 30 a", Horizon{60}, true, "50 standin clean", Settled{Kept: 1, Dropped: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg, _ := world()
			p := storyOf(t, c.story)
			var s Settled
			if err := p.Settle(0, c.h, reg, c.covered, &s); err != nil {
				t.Fatal(err)
			}
			if got := tell(p); got != c.want {
				t.Errorf("%s becomes %q, want %q", c.story, got, c.want)
			}
			if s != c.settled {
				t.Errorf("%+v, want %+v", s, c.settled)
			}
			// A second time there is nothing to do.
			q := p.CopyTo(make([]byte, p.CopySize(0, p.Len())), 0, p.Len(), 0)
			if q.Len() > 0 {
				s.Dropped = 0
				var again Settled
				if err := q.Settle(0, c.h, reg, c.covered, &again); err != nil || again != s {
					t.Errorf("again: %+v, want %+v", again, s)
				}
			}
			if got := tell(q); got != c.want {
				t.Errorf("the copy is %q, want %q", got, c.want)
			}
		})
	}
}

// randomChain draws a chain as the store could have made it.
func randomChain(t *rapid.T) (story string, clock base.CommitTS) {
	var parts []string
	word := func(who string) string {
		kind := rapid.SampledFrom([]string{"v", "v", "v", "tomb", "lock"}).Draw(t, "kind")
		if kind == "v" {
			kind = fmt.Sprint("v", len(parts))
		}
		return who + " " + kind
	}
	switch rapid.IntRange(0, 5).Draw(t, "top") {
	case 0:
		parts = append(parts, word("t1.1"), word("t1"))
	case 1:
		parts = append(parts, word("t2.6"), word("t2.4"), word("t2.1"))
	case 2:
		parts = append(parts, word("t5"))
	case 3:
		parts = append(parts, word("t3"))
	}
	clock = 60
	if rapid.Bool().Draw(t, "unstamped") {
		parts = append(parts, word("t6.4"), word("t6.3"), word("t6.1"))
		clock = 45
	}
	ts := 44
	for range rapid.IntRange(0, 7).Draw(t, "committed") {
		ts -= rapid.IntRange(1, 6).Draw(t, "gap")
		parts = append(parts, word(fmt.Sprint(ts)))
	}
	if len(parts) == 0 {
		parts = append(parts, word("40"))
	}
	return strings.Join(parts, ", "), clock
}

// What a reader sees, and whether a writer may write, is the same before and after
// Settle, for everybody who reads or may begin to: pruning is never noticed (S2).
func TestSettleIsNeverNoticed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		story, clock := randomChain(t)
		h := Horizon{}
		for range rapid.IntRange(0, 4).Draw(t, "snapshots") {
			h = append(h, base.CommitTS(rapid.IntRange(1, int(clock)).Draw(t, "snapshot")))
		}
		h = append(h, base.CommitTS(rapid.IntRange(10, int(clock)).Draw(t, "clock of the horizon")))
		slices.Sort(h)
		covered := rapid.Bool().Draw(t, "covered")
		reg, out := world()
		before := storyOf(t, story)
		after := storyOf(t, story)
		var s Settled
		if err := after.Settle(0, h, reg, covered, &s); err != nil {
			t.Fatal(err)
		}
		after = after.CopyTo(make([]byte, after.CopySize(0, 1)), 0, 1, 0)
		readers := map[base.CommitTS]bool{}
		for _, ts := range h {
			readers[ts] = true
		}
		for ts := h[len(h)-1]; ts <= clock+1; ts++ {
			readers[ts] = true // who begins later
		}
		for ts := range readers {
			for _, self := range []int{0, 1, 2} {
				r := &Reader{Snapshot: ts, Reg: reg, Self: out[self]}
				if a, b := answer(t, before, r, covered), answer(t, after, r, covered); a != b {
					t.Fatalf("%s with %v, covered %v: becomes %s; at %d t%d saw %s, sees %s", story, h, covered, tell(after), ts, self, a, b)
				}
				if a, b := may(t, before, r), may(t, after, r); a != b {
					t.Fatalf("%s with %v, covered %v: becomes %s; at %d t%d: write %s, then %s", story, h, covered, tell(after), ts, self, a, b)
				}
			}
		}
	})
}

// answer is what r gets; if frames may lie below, nothing and a tombstone differ.
func answer(t *rapid.T, p Page, r *Reader, covered bool) string {
	if p.Len() == 0 {
		return "nothing"
	}
	f, err := p.Visible(0, r)
	switch {
	case err != nil:
		t.Fatal(err)
	case f.Off == 0:
		return "nothing"
	case f.Ver.Kind() == base.KindTombstone:
		if !covered {
			return "nothing"
		}
		return "tomb"
	}
	return string(p.Value(f.Off, &f.Ver))
}

func may(t *rapid.T, p Page, r *Reader) string {
	if p.Len() == 0 {
		return "yes"
	}
	v, on, _, err := p.CheckWrite(0, r)
	switch {
	case err != nil:
		t.Fatal(err)
	case v == Conflict:
		return "conflict"
	case v == Wait:
		return fmt.Sprint("wait for ", on.ID)
	}
	return "yes" // Unknown: nothing in memory forbids it
}
