package main

import (
	"errors"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/crashdisk"
)

// many is more states than record memory holds in these tests.
const many = 1500

// fork returns two blocks that share all states between the head and themselves.
func (s *testStore) fork(slots uint64) (a, b *Block) {
	s.t.Helper()
	parent, _ := s.head()
	return s.on(parent, slots, Transfer{From: 1, To: 2, Amount: 3}), s.on(parent, slots+1)
}

// Race 1, as the seed tells it. Block a looks for a shared state and finds none. b
// does the same, stores it, proves valid, and the state is permanent. Then a goes
// on to store the state it missed, temporary, and proves invalid: there the
// permanent state was lost. Here a's store is a conflict; it runs again, adopts,
// and takes nothing along when it fails.
func TestRace1FirstLooksSecondCommits(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	a, b := s.fork(many)
	s.refuse(a)
	missing, verifying := s.stopAt(StepMissing, a), s.stopAt(StepVerifying, a)
	done := s.start(a)
	<-missing.reached
	s.mustImport(b)
	before := s.dump()
	close(missing.goOn)
	<-verifying.reached // the second attempt: all adopted, a's own state stored
	crash := fs.CrashClone(vfs.CrashCloneCfg{})
	close(verifying.goOn)
	if d := <-done; !errors.Is(d.err, ErrInvalid) || d.res.Attempts != 2 || d.res.Permanent != 0 {
		t.Fatalf("%+v", d)
	}
	s.read(func(r *Reader) { s.sees(r, b, true) })
	s.sameAs(before, "after the invalid block")
	s.mustCheck()
	mustClose(t, s)
	// The seed's step 4a: the process is killed instead of a's failure.
	for what, fs := range map[string]vfs.FS{"restart": fs, "crash": crash} {
		s, _ := openStore(t, fs)
		s.read(func(r *Reader) { s.sees(r, b, true) })
		s.sameAs(before, what)
		s.mustCheck()
		mustClose(t, s)
	}
}

// The first stores, the second waits for the same state, the first fails: the
// second stores it itself and needs nobody.
func TestRace1FirstFailsSecondWaits(t *testing.T) {
	s := newStore(t)
	a, b := s.fork(many)
	s.refuse(a)
	stop := s.stopAt(StepVerifying, a)
	first := s.start(a)
	<-stop.reached
	second := s.startWaiting(b)
	close(stop.goOn)
	if d := <-first; !errors.Is(d.err, ErrInvalid) {
		t.Fatalf("first: %+v", d)
	}
	if d := <-second; d.err != nil || d.res.Permanent != 1 || d.res.Adopted != 0 || d.res.Attempts != 1 {
		t.Fatalf("second: %+v", d)
	}
	s.read(func(r *Reader) { s.sees(r, b, true) })
	s.mustCheck()
}

// The first stores, the second waits, the first is committed: the second runs
// again and adopts every state.
func TestRace1FirstCommitsSecondWaits(t *testing.T) {
	s := newStore(t)
	a, b := s.fork(200)
	stop := s.stopAt(StepVerifying, a)
	first := s.start(a)
	<-stop.reached
	second := s.startWaiting(b)
	close(stop.goOn)
	if d := <-first; d.err != nil || d.res.Stored != 201 {
		t.Fatalf("first: %+v", d)
	}
	if d := <-second; d.err != nil || d.res.Adopted != 200 || d.res.Stored != 2 || d.res.Attempts != 2 {
		t.Fatalf("second: %+v", d)
	}
	s.mustCheck()
}

// The first's block is rolled back to its savepoint while the first goes on with
// what it has: the second need not wait any longer.
func TestRace1FirstRollsBackAPart(t *testing.T) {
	s := newStore(t)
	q, b := s.fork(3)
	s.mustImport(q)
	good := s.on(q.ID(), 5)       // on a branch of its own
	bad := s.on(b.Parent, 2*many) // shares states with other
	other := s.on(b.Parent, 2*many+1)
	s.refuse(bad)
	verifying, finishing := s.stopAt(StepVerifying, bad), s.stopWhen(func(e Event) bool { return e.Step == StepFinishing })
	first := s.start(good, bad)
	<-verifying.reached
	second := s.startWaiting(other)
	close(verifying.goOn)
	<-finishing.reached // the first is about to commit good, bad's states are dead
	if d := <-second; d.err != nil || d.res.Permanent != 1 || d.res.Attempts != 1 {
		t.Fatalf("second: %+v", d)
	}
	close(finishing.goOn)
	if d := <-first; !errors.Is(d.err, ErrInvalid) || d.res.Permanent != 1 {
		t.Fatalf("first: %+v", d)
	}
	s.read(func(r *Reader) {
		s.sees(r, good, true)
		s.sees(r, other, true)
		if _, err := r.Block(bad.ID()); !errors.Is(err, ErrNotFound) {
			t.Fatalf("the invalid block: %v", err)
		}
	})
	s.mustCheck()
}

// The same block comes from two peers at once: it is stored once.
func TestRace1SameBlock(t *testing.T) {
	s := newStore(t)
	a, _ := s.fork(50)
	stop := s.stopAt(StepFinishing, nil)
	first := s.start(a)
	<-stop.reached
	second := s.startWaiting(a)
	close(stop.goOn)
	if d := <-first; d.err != nil || d.res.Stored != 51 {
		t.Fatalf("first: %+v", d)
	}
	if d := <-second; d.err != nil || d.res.Stored != 0 || d.res.Permanent != 1 {
		t.Fatalf("second: %+v", d)
	}
	s.mustCheck()
}

// Race 2: a reader finds no mark on a state, the state is stored temporarily, the
// reader finds the state and takes it for permanent. Here a reader has one
// snapshot, and what is undecided is in no snapshot: not in memory, not on disk,
// where most of it is; neither for a reader from before nor for a new one, nor for
// a transaction that writes.
func TestRace2ReaderMeetsTemporaryStates(t *testing.T) {
	for _, valid := range []bool{false, true} {
		s := newStore(t)
		a, _ := s.fork(many)
		if !valid {
			s.refuse(a)
		}
		n := s.mustCheck()
		stops := []*stop{
			s.stopWhen(func(e Event) bool { return e.Step == StepStored && e.State.Slot == many/2 }),
			s.stopAt(StepVerifying, a),
		}
		s.read(func(old *Reader) {
			s.sees(old, a, false) // it looks for the mark
			done := s.start(a)
			for _, stop := range stops {
				<-stop.reached
				s.sees(old, a, false) // and reads the state
				s.read(func(r *Reader) { s.sees(r, a, false) })
				err := s.db.Update(ctx, func(tx *engine.Tx) error {
					s.sees(&Reader{s: s.Store, tx: tx}, a, false)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := s.mustCheck(); got != n {
					t.Fatalf("%+v are seen, were %+v", got, n)
				}
				if m := s.Metrics(); m.BackloggedChains+m.SealedLeaves == 0 || m.TempTables != 1 {
					t.Fatalf("nothing temporary is on disk:\n%v", m)
				}
				close(stop.goOn)
			}
			if d := <-done; valid != (d.err == nil) {
				t.Fatalf("%+v", d)
			}
			s.sees(old, a, false)
			s.read(func(r *Reader) {
				if valid {
					s.sees(r, a, true)
				} else {
					s.sees(r, a, false)
				}
			})
		})
		s.mustCheck()
	}
}

// The reader's two reads with a whole import between them, nothing undecided in
// sight: still one moment.
func TestRace2ImportBetweenTwoReads(t *testing.T) {
	s := newStore(t)
	a, _ := s.fork(20)
	s.read(func(r *Reader) {
		if _, err := r.Block(a.ID()); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		s.mustImport(a)
		s.sees(r, a, false)
	})
	s.read(func(r *Reader) { s.sees(r, a, true) })
}

// Finalize deletes a fork while a block is imported on it: the two write no record
// of the chain in common. Whoever is second runs again and learns of the other.
func TestFinalizeAgainstImport(t *testing.T) {
	setup := func(t *testing.T) (s *testStore, keep, drop, late *Block) {
		s = newStore(t)
		keep, drop = s.fork(10)
		s.mustImport(keep)
		s.mustImport(drop)
		return s, keep, drop, s.on(drop.ID(), 30)
	}
	t.Run("finalize first", func(t *testing.T) {
		s, keep, drop, late := setup(t)
		stop := s.stopAt(StepVerifying, late)
		done := s.start(late)
		<-stop.reached
		if p, err := s.Finalize(ctx, keep.ID()); err != nil || p.Blocks != 1 {
			t.Fatalf("%+v %v", p, err)
		}
		close(stop.goOn)
		if d := <-done; !errors.Is(d.err, ErrUnknownParent) || d.res.Attempts != 2 {
			t.Fatalf("a block on a fork that is gone: %+v", d)
		}
		s.read(func(r *Reader) { s.sees(r, late, false) })
		if _, err := s.Import(ctx, drop); !errors.Is(err, ErrFinalized) {
			t.Fatalf("the fork itself again: %v", err)
		}
		s.mustCheck()
	})
	t.Run("import first", func(t *testing.T) {
		s, keep, _, late := setup(t)
		stop := s.stopAt(StepFinishing, nil)
		done := s.start(late)
		<-stop.reached
		waits := s.Metrics().Waits
		pruned := make(chan finalization, 1)
		go func() { p, err := s.Finalize(ctx, keep.ID()); pruned <- finalization{p, err} }()
		untilWaits(s, waits, pruned)
		close(stop.goOn)
		if d := <-done; d.err != nil {
			t.Fatalf("import: %+v", d)
		}
		if p := <-pruned; p.err != nil || p.p.Blocks != 2 {
			t.Fatalf("both blocks of the fork go: %+v", p)
		}
		s.read(func(r *Reader) { s.sees(r, late, false) })
		s.mustCheck()
	})
}

// finalization is a Finalize in another goroutine.
type finalization struct {
	p   Pruned
	err error
}

// Many imports, of forks that share states and are invalid now and then, with
// readers and finalization beside them: whatever happened, the records agree.
func TestManyImports(t *testing.T) {
	s := newStore(t)
	s.mu.Lock()
	s.verify = func(b *Block) error {
		if len(b.Transfers) > 0 && b.Transfers[0].Amount%3 == 0 {
			return errors.New("refused by the test")
		}
		return nil
	}
	s.mu.Unlock()
	for round := range 5 {
		parent, _ := s.head()
		var wg sync.WaitGroup
		for i := range uint64(4) {
			b := s.on(parent, 60+10*i, Transfer{From: 1, To: 2, Amount: uint64(round) + i})
			wg.Go(func() {
				if res, err := s.Import(ctx, b); err != nil && !errors.Is(err, ErrInvalid) {
					t.Errorf("%+v %v", res, err)
				}
			})
		}
		wg.Go(func() {
			if _, err := s.Finalize(ctx, parent); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for range 5 {
				s.read(func(r *Reader) {
					if _, err := r.Check(); err != nil {
						t.Error(err)
					}
				})
			}
		})
		wg.Wait()
		s.mustCheck()
	}
}
