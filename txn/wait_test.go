package txn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/savepoint"
	"github.com/sakerdb/saker/versionchain"
)

// sleeper is a statement that waits in a goroutine of its own.
type sleeper struct {
	w    *waits
	s    *waiter
	done chan error
}

// stmt returns a statement of transaction me that wants record k.
func stmt(me base.TxnID, k string) *waiter {
	return &waiter{me: me, rec: record{1, k}, snapshot: base.MaxTS}
}

// at is the obstacle that o's version of epoch e is now.
func at(o *versionchain.Outcome, e base.Epoch) obstacle { return obstacle{o, e, o.Undone()} }

// begin lets s wait and returns when it sleeps.
func begin(ctx context.Context, t *testing.T, w *waits, s *waiter, o obstacle) *sleeper {
	t.Helper()
	return beginUntil(ctx, t, w, make(chan struct{}), s, o)
}

// beginUntil is begin with the channel that ends all waits.
func beginUntil(ctx context.Context, t *testing.T, w *waits, closing chan struct{}, s *waiter, o obstacle) *sleeper {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- w.wait(ctx, closing, s, o) }()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		w.mu.Lock()
		on := w.at[s.me] == s
		w.mu.Unlock()
		if on {
			return &sleeper{w, s, done}
		}
		if time.Now().After(until) {
			t.Fatal("it does not sleep")
		}
	}
}

// ends waits for the end of the wait.
func (s *sleeper) ends(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-s.done:
		if !errors.Is(err, want) {
			t.Fatalf("the wait ended with %v, want %v", err, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the wait does not end")
	}
}

// sleeps checks that nobody has woken it: it would not be in waits.at any more.
func (s *sleeper) sleeps(t *testing.T) {
	t.Helper()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.at[s.s.me] != s.s {
		t.Fatalf("transaction %v was woken", s.s.me)
	}
}

func (w *waits) empty(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.at) != 0 || len(w.queues) != 0 || len(w.owned) != 0 || w.n.Load() != 0 {
		t.Errorf("%d sleepers, %d queues, %d owners, %d statements are left", len(w.at), len(w.queues), len(w.owned), w.n.Load())
	}
}

var bg = context.Background()

func committed(o *versionchain.Outcome) { o.SetCommitting(5); o.SetCommitted(5) }

func aborted(o *versionchain.Outcome) { o.Prepare(true) }

// An owner's end lets in the first of each queue. The others follow one by one, as
// the statements before them end. A commit ends, besides, all that it fails.
func TestWaitsForOutcome(t *testing.T) {
	for name, decide := range map[string]func(*versionchain.Outcome){"commit": committed, "rollback": aborted} {
		t.Run(name, func(t *testing.T) {
			w := newWaits()
			o := versionchain.NewOutcome(1)
			var k []*sleeper
			for i := range 6 {
				s := stmt(base.TxnID(10+i), "k")
				switch i {
				case 1, 4:
					s.snapshot = 4
				case 2:
					s.snapshot = 5 // sees the commit: it is no conflict
				}
				k = append(k, begin(bg, t, w, s, at(o, 0)))
			}
			other := begin(bg, t, w, stmt(3, "other"), at(o, 0))
			decide(o)
			w.wake(o, 0)
			other.ends(t, nil)
			w.leave(other.s, nil, 0)
			if name == "commit" {
				for _, i := range []int{4, 1} {
					k[i].ends(t, base.ErrConflict)
					w.leave(k[i].s, nil, 0)
					k = append(k[:i], k[i+1:]...)
				}
			}
			for i, s := range k {
				s.ends(t, nil)
				for _, behind := range k[i+1:] {
					behind.sleeps(t)
				}
				w.leave(s.s, nil, 0)
			}
			if woken := w.woken.Load(); woken != 7 {
				t.Errorf("%d wake-ups for 7 statements", woken)
			}
			// Decided already: no sleep.
			late := stmt(4, "k")
			if err := w.wait(bg, nil, late, at(o, 0)); err != nil {
				t.Error(err)
			}
			w.leave(late, nil, 0)
			w.empty(t)
		})
	}
}

// A statement that gets the record hands its queue to itself: who waits behind it
// sleeps on until it ends, and is let in once.
func TestWaitsForTheNextOwner(t *testing.T) {
	w := newWaits()
	first := versionchain.NewOutcome(1)
	a := begin(bg, t, w, stmt(2, "k"), at(first, 0))
	b := begin(bg, t, w, stmt(3, "k"), at(first, 0))
	c := begin(bg, t, w, stmt(4, "k"), at(first, 0))
	aborted(first)
	w.wake(first, 0)
	a.ends(t, nil)
	second := versionchain.NewOutcome(2)
	w.leave(a.s, second, 7)
	b.sleeps(t)
	w.wake(first, 0)
	w.wake(second, 8) // a rollback to a savepoint that leaves epoch 7 alone
	b.sleeps(t)
	committed(second)
	w.wake(second, 0)
	b.ends(t, nil)
	c.sleeps(t)
	// Somebody came in between and has the record: the first waits again, in its place.
	third := versionchain.NewOutcome(5)
	b = begin(bg, t, w, b.s, at(third, 0))
	c.sleeps(t)
	aborted(third)
	w.wake(third, 0)
	b.ends(t, nil)
	c.sleeps(t)
	w.leave(b.s, nil, 0)
	c.ends(t, nil)
	w.leave(c.s, versionchain.NewOutcome(4), 0)
	w.empty(t)
	if slept, woken := w.slept.Load(), w.woken.Load(); slept != 4 || woken != 4 {
		t.Errorf("%d sleeps, %d wake-ups", slept, woken)
	}
}

// A dead epoch wakes those who wait for it, and nobody else (S5).
func TestWaitsForEpoch(t *testing.T) {
	w := newWaits()
	o := versionchain.NewOutcome(1)
	low := begin(bg, t, w, stmt(2, "low"), at(o, 1))
	high := begin(bg, t, w, stmt(3, "high"), at(o, 5))
	o.SetDead(savepoint.Intervals{{From: 4, To: 6}})
	w.wake(o, 4)
	high.ends(t, nil)
	w.leave(high.s, nil, 0)
	low.sleeps(t)
	aborted(o)
	w.wake(o, 0)
	low.ends(t, nil)
	w.leave(low.s, nil, 0)
	w.empty(t)
}

// A version that a rollback to a savepoint takes out of its page leaves no dead
// epoch. Whoever saw it before, and comes to wait after the rollback has looked for
// waiters, must not sleep: nobody wakes it before the owner ends. It slept, once.
func TestWaitsNotForWhatWasUndone(t *testing.T) {
	w := newWaits()
	o := versionchain.NewOutcome(1)
	seen := at(o, 3)
	o.CountUndone()
	w.wake(o, 2)
	s := stmt(2, "k")
	ctx, cancel := context.WithTimeout(bg, 30*time.Second)
	defer cancel()
	if err := w.wait(ctx, nil, s, seen); err != nil {
		t.Fatal(err)
	}
	w.leave(s, nil, 0)
	w.empty(t)
}

// However the wait of one statement ends, the next in its queue takes its place.
func TestWaitsEndWithContextCloseAndTimeout(t *testing.T) {
	for name, want := range map[string]error{"context": context.Canceled, "close": base.ErrClosed, "timeout": base.ErrLockTimeout} {
		t.Run(name, func(t *testing.T) {
			w := newWaits()
			o := versionchain.NewOutcome(1)
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			closing := make(chan struct{})
			s := stmt(2, "k")
			if name == "timeout" {
				s.limit = time.Millisecond
			}
			done := make(chan error, 1)
			go func() { done <- w.wait(ctx, closing, s, at(o, 0)) }()
			for w.slept.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			b := begin(bg, t, w, stmt(3, "k"), at(o, 0))
			c := begin(bg, t, w, stmt(4, "k"), at(o, 0))
			switch name {
			case "context":
				cancel()
			case "close":
				close(closing)
			}
			(&sleeper{w, s, done}).ends(t, want)
			w.leave(s, nil, 0)
			b.sleeps(t)
			aborted(o)
			w.wake(o, 0)
			b.ends(t, nil)
			c.sleeps(t)
			w.leave(b.s, nil, 0)
			c.ends(t, nil)
			w.leave(c.s, nil, 0)
			w.empty(t)
		})
	}
}

// One that was let in and gives up at the same moment lets in the next.
func TestWaitsLetInAndCancelled(t *testing.T) {
	for range 200 {
		w := newWaits()
		o := versionchain.NewOutcome(1)
		ctx, cancel := context.WithCancel(bg)
		a := begin(ctx, t, w, stmt(2, "k"), at(o, 0))
		b := begin(bg, t, w, stmt(3, "k"), at(o, 0))
		aborted(o)
		go cancel()
		w.wake(o, 0)
		if err := <-a.done; err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		w.leave(a.s, nil, 0)
		b.ends(t, nil)
		w.leave(b.s, nil, 0)
		w.empty(t)
	}
}

// Below zero a statement does not wait; if there is nothing to wait for it goes on.
func TestNoWait(t *testing.T) {
	w := newWaits()
	o := versionchain.NewOutcome(1)
	s := stmt(2, "k")
	s.limit = -1
	if err := w.wait(bg, nil, s, at(o, 0)); !errors.Is(err, base.ErrLockTimeout) {
		t.Errorf("a statement that does not wait: %v", err)
	}
	aborted(o)
	if err := w.wait(bg, nil, s, at(o, 0)); err != nil {
		t.Error(err)
	}
	w.leave(s, nil, 0)
	w.empty(t)
}

// The requester whose wait would close a cycle is the victim; the others go on.
func TestDeadlocks(t *testing.T) {
	w := newWaits()
	var o [7]*versionchain.Outcome
	for i := range o {
		o[i] = versionchain.NewOutcome(base.TxnID(i))
	}
	key := func(owner int) string { return string(rune('a' + owner)) } // one record each
	wait := func(me, on int) *sleeper { return begin(bg, t, w, stmt(base.TxnID(me), key(on)), at(o[on], 0)) }
	refused := func(me, on int, k string) {
		t.Helper()
		s := stmt(base.TxnID(me), k)
		if err := w.wait(bg, nil, s, at(o[on], 0)); !errors.Is(err, base.ErrDeadlock) {
			t.Fatalf("%d waits for %d: %v", me, on, err)
		}
		w.leave(s, nil, 0)
	}
	d12 := wait(1, 2)
	d23 := wait(2, 3)
	d53 := wait(5, 3) // a tree is no cycle; behind 2 in the queue
	refused(3, 1, "free")
	refused(3, 2, "free")
	refused(3, 5, "free") // through the queue
	d34 := wait(3, 4)
	refused(4, 5, "free") // 5 is behind 2, 2 waits for 3, 3 for 4
	refused(4, 1, "free")
	aborted(o[4])
	w.wake(o[4], 0)
	d34.ends(t, nil)
	w.leave(d34.s, nil, 0)
	d23.sleeps(t)
	// 2 is cancelled, as it were; 5 is now the first and waits for 3 itself.
	aborted(o[3])
	w.wake(o[3], 0)
	d23.ends(t, nil)
	d53.sleeps(t)
	// 2 gets the record, and 5 waits for 2 from now on, without having woken.
	w.leave(d23.s, o[2], 0)
	refused(2, 5, "free")
	// 1 waits for 2, 2 for 6, which 5 would close.
	d26 := wait(2, 6)
	refused(6, 5, "free")
	refused(6, 1, "free")
	aborted(o[6])
	w.wake(o[6], 0)
	d26.ends(t, nil)
	w.leave(d26.s, nil, 0)
	aborted(o[2])
	w.wake(o[2], 0)
	d12.ends(t, nil)
	d53.ends(t, nil)
	w.leave(d12.s, nil, 0)
	w.leave(d53.s, nil, 0)
	w.empty(t)
}

// Who was let in, finds another owner and waits again may close a cycle through
// those that wait behind it.
func TestDeadlockOfTheFirst(t *testing.T) {
	w := newWaits()
	o := [6]*versionchain.Outcome{}
	for i := range o {
		o[i] = versionchain.NewOutcome(base.TxnID(i))
	}
	a := begin(bg, t, w, stmt(2, "k"), at(o[1], 0))
	b := begin(bg, t, w, stmt(3, "k"), at(o[1], 0))
	c := begin(bg, t, w, stmt(4, "x"), at(o[3], 0)) // has taken the record meanwhile
	aborted(o[1])
	w.wake(o[1], 0)
	a.ends(t, nil)
	// a waits for c, c for b, b behind a: a is the victim, then b.
	if err := w.wait(bg, nil, a.s, at(o[4], 0)); !errors.Is(err, base.ErrDeadlock) {
		t.Fatalf("the first: %v", err)
	}
	w.leave(a.s, nil, 0)
	b.ends(t, nil)
	if err := w.wait(bg, nil, b.s, at(o[4], 0)); !errors.Is(err, base.ErrDeadlock) {
		t.Fatalf("the second: %v", err)
	}
	w.leave(b.s, nil, 0)
	aborted(o[3])
	w.wake(o[3], 0)
	c.ends(t, nil)
	w.leave(c.s, o[4], 0)
	w.empty(t)
}
