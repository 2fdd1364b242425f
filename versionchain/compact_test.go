package versionchain

import (
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

func TestRetire(t *testing.T) {
	for _, c := range []struct {
		story, want string
		n           int
	}{
		{"50 c clean, 40 b clean", "", 2},
		{"50 c, 40 b clean, 30 a clean", "50 c", 2},
		{"50 c clean, 40 b, 30 a clean", "50 c clean, 40 b", 1}, // memory stays newer than frames
		{"t1 d, 50 c clean", "t1 d", 1},
		{"t1 d clean, 50 c", "t1 d clean, 50 c", 0},
		{"50 c clean pin, 40 b clean", "50 c clean pin", 1},
		{"50 c clean, 40 b clean pin", "50 c clean, 40 b clean pin", 0},
		{"50 standin clean, 40 b", "50 standin clean, 40 b", 0},
		{"50 standin clean, 40 b clean", "", 2},
		{"50 c", "50 c", 0},
	} {
		p := storyOf(t, c.story)
		if n := p.Retire(0); n != c.n || tell(p) != c.want {
			t.Errorf("%s: %d retired, becomes %q, want %q", c.story, n, tell(p), c.want)
		}
		if n := p.Retire(0); n != 0 {
			t.Errorf("%s: %d retired the second time", c.story, n)
		}
	}
}

// Mark and Confirm bracket the writing of frames.
func TestMarkAndConfirm(t *testing.T) {
	// A checkpoint: decided versions become clean when the frames are listed.
	p := storyOf(t, "t1 d, 50 c, 40 b clean")
	p.Mark(0, true)
	p.Confirm(true)
	if got, want := tell(p), "t1 d, 50 c clean, 40 b clean"; got != want {
		t.Errorf("checkpointed: %s, want %s", got, want)
	}
	// It failed: nothing has changed.
	p = storyOf(t, "t1 d, 50 c, 40 b clean")
	p.Mark(0, true)
	p.Confirm(false)
	if got, want := tell(p), "t1 d, 50 c, 40 b clean"; got != want {
		t.Errorf("failed checkpoint: %s, want %s", got, want)
	}
	// Backlogging: the whole chain goes.
	p = storyOf(t, "t1 d, 50 c, 40 b clean")
	p.Mark(0, false)
	if p.Kept() != 0 || p.CopySize(0, 1) != 0 {
		t.Errorf("marked chain: %d kept, %d bytes", p.Kept(), p.CopySize(0, 1))
	}
	p.Confirm(true)
	if q := p.CopyTo(nil, 0, 1, 0); q.Len() != 0 {
		t.Errorf("%d records after backlogging", q.Len())
	}
	p = storyOf(t, "t1 d, 50 c, 40 b clean")
	p.Mark(0, false)
	p.Confirm(false)
	if got, want := tell(p), "t1 d, 50 c, 40 b clean"; got != want || p.Kept() != 3 {
		t.Errorf("failed backlogging: %s, want %s", got, want)
	}
}

// What Settle dropped stays garbage when frames could not be listed. Confirm took
// that mark away with its own: a version of a transaction that nobody knew any more
// was back, and the next look at the leaf called it corruption.
func TestConfirmLeavesGarbageAlone(t *testing.T) {
	for _, committed := range []bool{false, true} {
		for _, ok := range []bool{false, true} {
			p := storyOf(t, "t1 d, 50 c, 40 b")
			p.Drop(p.Newest(0))
			head := p.Version(p.Newest(0))
			p.Drop(head.Prior)
			p.Mark(0, committed)
			p.Confirm(ok)
			want := "40 b"
			switch {
			case ok && committed:
				want = "40 b clean"
			case ok:
				want = ""
			}
			q := p.CopyTo(make([]byte, p.CopySize(0, 1)), 0, 1, 0)
			got := ""
			if q.Len() > 0 {
				got = tell(q)
			}
			if got != want {
				t.Errorf("committed %v, listed %v: %q, want %q", committed, ok, got, want)
			}
		}
	}
}

// CopyTo keeps order and chains when versions drop out anywhere.
func TestCopyToDropsAnywhere(t *testing.T) {
	story := "60 e, 50 d, 40 c, 30 b, 20 a"
	want := []string{"60 e", "50 d", "40 c", "30 b", "20 a"}
	for mask := range 1 << 5 {
		p := storyOf(t, story)
		off := p.Newest(0)
		expect := ""
		for i := range 5 {
			v := p.Version(off)
			if mask&(1<<i) != 0 {
				p.Drop(off)
			} else {
				if expect != "" {
					expect += ", "
				}
				expect += want[i]
			}
			off = v.Prior
		}
		q := p.CopyTo(make([]byte, p.CopySize(0, 1)), 0, 1, 0)
		if got := tell(q); got != expect {
			t.Errorf("mask %b: %s, want %s", mask, got, expect)
		}
		if q.Free() != 0 || q.Garbage() != 0 {
			t.Errorf("mask %b: free %d, garbage %d", mask, q.Free(), q.Garbage())
		}
	}
}

func TestUniform(t *testing.T) {
	none := func(base.Epoch) bool { return false }
	make3 := func(flags ...uint8) Page {
		p := MakePage(make([]byte, 4<<10))
		for i, f := range flags {
			v := Ver{Stamp: UndecidedStamp(7), Epoch: base.Epoch(i), Leave: 9, Flags: f}
			p.Insert(i, []byte{'a' + byte(i)}, []byte("value"), 0, &v)
		}
		return p
	}
	good := make3(FlagListed, FlagListed|FlagLogged, FlagListed|uint8(base.KindTombstone))
	rows, ok := good.Uniform(7, none, nil)
	if !ok || len(rows) != 3 {
		t.Fatalf("%d rows, %v", len(rows), ok)
	}
	if r := rows[1]; string(r.Key) != "b" || string(r.Value) != "value" || r.Epoch != 1 || r.Leave != 9 || r.Kind != base.KindValue || r.TS != 0 {
		t.Errorf("%+v", r)
	}
	if rows[2].Kind != base.KindTombstone {
		t.Errorf("%+v", rows[2])
	}
	for name, p := range map[string]Page{
		"a clean version": make3(FlagListed, FlagClean),
		"a stand-in":      make3(FlagListed, FlagClean|uint8(KindStandIn)),
		"two versions":    storyOf(t, "t7.1 b, t7 a"),
		"another owner":   storyOf(t, "t8 a"),
		"a decided one":   storyOf(t, "40 a"),
		"a pinned one":    storyOf(t, "t7 a pin"),
	} {
		if _, ok := p.Uniform(7, none, nil); ok {
			t.Errorf("a page with %s is uniform", name)
		}
	}
	half := make3(FlagListed, FlagListed)
	if _, ok := half.Uniform(7, func(e base.Epoch) bool { return e == 1 }, nil); ok {
		t.Error("a page with a dead version is uniform")
	}
}
