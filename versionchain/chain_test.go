package versionchain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/savepoint"
)

// teller is what *testing.T and *rapid.T have in common.
type teller interface {
	Helper()
	Fatal(args ...any)
}

// storyOf builds a page with one record from a story, newest version first, as in
// the package's worked examples:
//
//	40 b          committed at 40        t9 d     undecided, of transaction 9
//	40 tomb       a tombstone            t9.3 d   in savepoint epoch 3
//	40 lock       a lock                 … clean  a frame has it
//	40 standin    a large value          … pin    somebody holds it
func storyOf(t teller, story string) Page {
	t.Helper()
	p := MakePage(make([]byte, 8<<10))
	parts := strings.Split(story, ",")
	for _, part := range slices.Backward(parts) {
		words := strings.Fields(part)
		v := Ver{}
		var id uint64
		if who, ok := strings.CutPrefix(words[0], "t"); ok {
			txn, epoch, _ := strings.Cut(who, ".")
			if epoch == "" {
				epoch = "0"
			}
			if _, err := fmt.Sscan(txn, &id); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscan(epoch, (*uint32)(&v.Epoch)); err != nil {
				t.Fatal(err)
			}
			v.Stamp, v.Flags = UndecidedStamp(base.TxnID(id)), FlagListed
		} else if _, err := fmt.Sscan(words[0], &v.Stamp); err != nil {
			t.Fatal(err)
		}
		val, pin := "", false
		for _, w := range words[1:] {
			switch w {
			case "tomb":
				v.Flags |= uint8(base.KindTombstone)
			case "lock":
				v.Flags |= uint8(base.KindLock)
			case "standin":
				v.Flags |= uint8(KindStandIn)
			case "clean":
				v.Flags = v.Flags&^FlagListed | FlagClean
			case "pin":
				pin = true
			default:
				val = w
			}
		}
		ok := p.Len() == 0 && p.Insert(0, []byte("k"), []byte(val), 0, &v) || p.Push(0, []byte(val), &v)
		if !ok {
			t.Fatal("no room")
		}
		if pin {
			v = p.Version(p.Newest(0))
			v.Uses++
			p.putVersion(int(p.Newest(0)), &v)
		}
	}
	return p
}

// tell is the story of record 0.
func tell(p Page) string {
	var out []string
	if p.Len() == 0 {
		return ""
	}
	for off := p.Newest(0); off != 0; {
		v := p.Version(off)
		s := fmt.Sprint(v.Stamp)
		if v.Undecided() {
			s = fmt.Sprintf("t%d", uint64(v.Txn()))
			if v.Epoch != 0 {
				s += fmt.Sprintf(".%d", v.Epoch)
			}
		}
		switch v.Kind() {
		case base.KindTombstone:
			s += " tomb"
		case base.KindLock:
			s += " lock"
		case KindStandIn:
			s += " standin"
		default:
			s += " " + string(p.Value(off, &v))
		}
		if v.Flags&FlagClean != 0 {
			s += " clean"
		}
		if v.Pinned() {
			s += " pin"
		}
		if !v.Dropped() {
			out = append(out, s)
		}
		off = v.Prior
	}
	return strings.Join(out, ", ")
}

// world is the outcomes that the stories name: t1 active, t2 active with dead
// epochs 3 to 5, t3 committing, t4 committed at 45, t5 aborted, t6 committed at 45
// with dead epoch 3.
func world() (*Registry, map[int]*Outcome) {
	reg := &Registry{}
	out := map[int]*Outcome{}
	for i := 1; i <= 6; i++ {
		out[i] = NewOutcome(base.TxnID(i))
		reg.Add(out[i])
	}
	out[2].SetDead(savepoint.Intervals{{From: 3, To: 5}})
	out[3].SetCommitting(70)
	out[4].SetCommitted(45)
	out[5].Prepare(true)
	out[6].SetDead(savepoint.Intervals{{From: 3, To: 3}})
	out[6].SetCommitted(45)
	return reg, out
}

func TestVisible(t *testing.T) {
	reg, out := world()
	for _, c := range []struct {
		story    string
		snapshot base.CommitTS
		self     int
		want     string // value, "tomb", or "" for nothing
	}{
		// The worked example.
		{"t1 d, 40 tomb, 30 b, 20 a", 100, 1, "d"},
		{"t1 d, 40 tomb, 30 b, 20 a", 45, 0, "tomb"},
		{"t1 d, 40 tomb, 30 b, 20 a", 35, 0, "b"},
		{"t1 d, 40 tomb, 30 b, 20 a", 10, 0, ""},
		// At the edges of a timestamp.
		{"40 b, 30 a", 40, 0, "b"},
		{"40 b, 30 a", 39, 0, "a"},
		{"40 b, 30 a", 30, 0, "a"},
		{"40 b, 30 a", 29, 0, ""},
		// Others, undecided.
		{"t1 d, 30 a", 100, 0, "a"},
		{"t1 d, 30 a", 100, 2, "a"},
		{"t3 d, 30 a", 100, 0, "a"},
		{"t5 d, 30 a", 100, 0, "a"},
		// Committed and not stamped yet.
		{"t4 d, 30 a", 45, 0, "d"},
		{"t4 d, 30 a", 44, 0, "a"},
		{"t6.3 e, t6.2 d, 30 a", 45, 0, "d"},
		// Own savepoints: dead epochs are passed over, also by oneself.
		{"t2.6 f, t2.4 e, t2.1 d, 30 a", 100, 2, "f"},
		{"t2.4 e, t2.1 d, 30 a", 100, 2, "d"},
		{"t2.4 e, t2.3 d, 30 a", 100, 2, "a"},
		{"t2.4 tomb, t2.1 d", 100, 2, "d"},
		{"t2.1 tomb, 30 a", 100, 2, "tomb"},
		// Own versions are seen whatever the snapshot.
		{"t1 d, 30 a", 5, 1, "d"},
		// Locks are passed over.
		{"t1 lock, 30 a", 100, 1, "a"},
		{"50 lock, 30 a", 100, 0, "a"},
		{"50 lock", 100, 0, ""},
		{"t1.2 lock, t1.1 d, 30 a", 100, 1, "d"},
		// A stand-in's value is in a frame: nothing in memory is the answer.
		{"50 standin clean, 30 a", 100, 0, ""},
		{"50 standin clean, 30 a", 40, 0, "a"},
		{"t1 standin clean, 30 a", 100, 1, ""},
		{"t1 standin clean, 30 a", 100, 0, "a"},
		{"t2.4 standin clean, t2.1 d", 100, 2, "d"},
		{"60 b, 50 standin clean", 100, 0, "b"},
	} {
		r := &Reader{Snapshot: c.snapshot, Reg: reg, Self: out[c.self]}
		p := storyOf(t, c.story)
		f, err := p.Visible(0, r)
		if err != nil {
			t.Errorf("%s: %v", c.story, err)
			continue
		}
		got := ""
		if f.Off != 0 {
			if got = string(p.Value(f.Off, &f.Ver)); f.Ver.Kind() == base.KindTombstone {
				got = "tomb"
			}
			own := c.self != 0 && f.Ver.Undecided() && f.Ver.Txn() == base.TxnID(c.self)
			if own != (f.TS == base.MaxTS) || !own && f.TS > c.snapshot {
				t.Errorf("%s at %d by t%d: timestamp %d", c.story, c.snapshot, c.self, f.TS)
			}
		}
		if got != c.want {
			t.Errorf("%s at %d by t%d: sees %q, want %q", c.story, c.snapshot, c.self, got, c.want)
		}
	}
}

func TestCheckWrite(t *testing.T) {
	reg, out := world()
	for _, c := range []struct {
		story    string
		snapshot base.CommitTS
		self     int
		want     Verdict
		on       int
		epoch    base.Epoch
	}{
		{"40 b, 30 a", 40, 1, Go, 0, 0},
		{"40 b, 30 a", 39, 1, Conflict, 0, 0},
		{"40 tomb", 39, 1, Conflict, 0, 0},
		{"40 lock, 30 a", 39, 1, Conflict, 0, 0},
		{"40 lock, 30 a", 40, 1, Go, 0, 0},
		{"40 standin clean", 39, 1, Conflict, 0, 0},
		{"t1 d", 5, 1, Go, 0, 0},
		{"t1 lock, 30 a", 30, 1, Go, 0, 0},
		{"t2.1 d, 30 a", 100, 1, Wait, 2, 1},
		{"t2.1 lock, 30 a", 100, 1, Wait, 2, 1},
		{"t3 d", 100, 1, Wait, 3, 0},
		{"t3 d", 60, 1, Wait, 3, 0},
		{"t2.4 e, t2.1 d", 100, 1, Wait, 2, 1}, // e is rolled back, d is in the way
		{"t2.4 e, 30 a", 100, 1, Go, 0, 0},
		{"t2.4 e, 30 a", 20, 1, Conflict, 0, 0},
		{"t2.4 e", 100, 1, Unknown, 0, 0},
		{"t4 d", 44, 1, Conflict, 0, 0},
		{"t4 d", 45, 1, Go, 0, 0},
		{"t6.3 d", 44, 1, Unknown, 0, 0},
		{"t5 d, 30 a", 40, 1, Go, 0, 0},
		{"t5 d, 30 a", 20, 1, Conflict, 0, 0},
		{"t5 d", 40, 1, Unknown, 0, 0},
		{"t2.4 e, t2.1 d", 5, 2, Go, 0, 0},
		// Whatever becomes of t2, what was committed below it is a conflict.
		{"t2.1 d, 30 a", 29, 1, Conflict, 0, 0},
		{"t2.1 d, 30 a", 30, 1, Wait, 2, 1},
		{"t2.2 e, t2.1 d, 30 lock", 29, 1, Conflict, 0, 0},
		{"t2.2 e, t2.1 d, 30 lock", 30, 1, Wait, 2, 2},
		{"t2.1 d, t4 x", 44, 1, Conflict, 0, 0},
		{"t2.1 d, t4 x", 45, 1, Wait, 2, 1},
		{"t2.1 d, t5 x", 45, 1, Wait, 2, 1},
	} {
		r := &Reader{Snapshot: c.snapshot, Reg: reg, Self: out[c.self]}
		p := storyOf(t, c.story)
		v, on, epoch, err := p.CheckWrite(0, r)
		if err != nil || v != c.want {
			t.Errorf("%s at %d by t%d: %d %v, want %d", c.story, c.snapshot, c.self, v, err, c.want)
		}
		if v == Wait && (on != out[c.on] || epoch != c.epoch) {
			t.Errorf("%s at %d by t%d: waits for %v epoch %d, want t%d epoch %d", c.story, c.snapshot, c.self, on.ID, epoch, c.on, c.epoch)
		}
	}
}

// An unknown transaction is corruption, never a default (L7).
func TestUnknownTransaction(t *testing.T) {
	reg, _ := world()
	p := storyOf(t, "t77 d, 30 a")
	r := &Reader{Snapshot: 100, Reg: reg}
	var ce *base.CorruptionError
	if _, err := p.Visible(0, r); !errors.As(err, &ce) {
		t.Errorf("Visible: %v", err)
	}
	if _, _, _, err := p.CheckWrite(0, r); !errors.As(err, &ce) {
		t.Errorf("CheckWrite: %v", err)
	}
	if err := p.Settle(0, Horizon{50}, reg, false, &Settled{}); !errors.As(err, &ce) {
		t.Errorf("Settle: %v", err)
	}
}

func TestStampAllAndHolds(t *testing.T) {
	p := storyOf(t, "t1.5 e, t1.2 d clean, t2 x, 30 a")
	for _, c := range []struct {
		id   base.TxnID
		from base.Epoch
		want bool
	}{{1, 0, true}, {1, 5, true}, {1, 6, false}, {2, 0, true}, {2, 1, false}, {3, 0, false}} {
		if got := p.Holds(0, c.id, c.from); got != c.want {
			t.Errorf("Holds(%d, %d) = %v", c.id, c.from, got)
		}
	}
	if n := p.StampAll(0, 1, 60); n != 2 {
		t.Errorf("%d stamped", n)
	}
	if got, want := tell(p), "60 e, 60 d clean, t2 x, 30 a"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for off := p.Newest(0); off != 0; {
		v := p.Version(off)
		if v.Uses != v.Expected() {
			t.Errorf("use count %d, expected %d", v.Uses, v.Expected())
		}
		off = v.Prior
	}
}
