package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// wholeStore is a store whose rows stay in memory while checkpoints write them again
// and again, beside what they should be now and at open snapshots.
type wholeStore struct {
	*testing.T
	rng   *rand.Rand
	o     *Options
	db    *DB
	tb    *Table
	rows  map[string]string
	views []wholeView
	live  *Tx // has written a few rows of its own
	n     int
}

type wholeView struct {
	tx   *Tx
	rows map[string]string
}

func (s *wholeStore) change(n int) {
	next := maps.Clone(s.rows)
	inUpdate(s.T, s.db, func(tx *Tx) {
		for range n {
			s.n++
			key := fmt.Sprintf("k%05d", s.rng.IntN(3000))
			switch _, ok := next[key]; {
			case ok && s.rng.IntN(20) == 0:
				check(s.T, tx.Delete(s.tb, []byte(key)))
				delete(next, key)
			case s.rng.IntN(40) == 0:
				sp, err := tx.Savepoint()
				check(s.T, err)
				put(s.T, tx, s.tb, key, "undone")
				check(s.T, tx.RollbackTo(sp))
			default:
				next[key] = string(value(s.n, 60))
				put(s.T, tx, s.tb, key, next[key])
			}
		}
	})
	s.rows = next
}

func (s *wholeStore) check() {
	s.Helper()
	for i, v := range s.views {
		matchRows(s.T, fmt.Sprintf("snapshot %d", i), v.tx, s.tb, v.rows)
	}
	inView(s.T, s.db, func(tx *Tx) { matchRows(s.T, "now", tx, s.tb, s.rows) })
	checkStore(s.T, s.db)
}

func matchRows(t *testing.T, when string, tx *Tx, tb *Table, want map[string]string) {
	t.Helper()
	n := 0
	for row, err := range tx.Scan(tb, Range{}) {
		check(t, err)
		if w, ok := want[string(row.Key)]; !ok || w != string(row.Value) {
			t.Fatalf("%s: %q is %q, want %q (%v)", when, row.Key, row.Value, w, ok)
		}
		n++
	}
	if n != len(want) {
		t.Fatalf("%s: %d rows, want %d", when, n, len(want))
	}
}

func (s *wholeStore) endLive() {
	if s.live != nil {
		check(s.T, s.live.Rollback())
		s.live = nil
	}
}

// step does one thing that decides what is in memory and what in frames.
func (s *wholeStore) step() {
	switch op := s.rng.IntN(20); {
	case op == 0 && len(s.views) < 3:
		s.views = append(s.views, wholeView{mustBegin(s.T, s.db, TxOptions{ReadOnly: true}), s.rows})
	case op == 1 && len(s.views) > 0:
		i := s.rng.IntN(len(s.views))
		check(s.T, s.views[i].tx.Rollback())
		s.views = append(s.views[:i], s.views[i+1:]...)
	case op < 4:
		maintain(s.T, s.db, []string{"prune", "backlog", "chill", "evict", "merge"}[s.rng.IntN(5)], s.tb, []byte("k01500"))
	case op < 9:
		check(s.T, s.db.Checkpoint(ctx))
	case op == 9:
		check(s.T, s.db.CollectSpace(ctx))
	case op == 10 && s.live == nil:
		s.live = mustBegin(s.T, s.db, TxOptions{})
		for i := range 3 {
			put(s.T, s.live, s.tb, fmt.Sprintf("l%d", i), "live")
		}
	case op == 10:
		s.endLive()
	default:
		s.change(1 + s.rng.IntN(400))
	}
}

// P9: a checkpoint that lists nothing but what the page has loses nothing that
// somebody sees, whatever left the page before, for the frames that it no longer
// lists are gone. Verify compares pages with frames.
//
// The story: clean rows left the page with the step that backlogs chains, although
// there was nothing to write but a few live rows, which stayed; so the list did not
// change, and the leaf passed for whole. TestModel found it.
func TestCheckpointOfWholeLeaves(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if *crashSeed != 0 {
		seed = *crashSeed
	}
	for i := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			o := memOptions()
			o.RunSize = 64 << 10
			s := &wholeStore{T: t, rng: rand.New(rand.NewPCG(seed+i, 0)), o: o, rows: map[string]string{}}
			s.db = mustOpen(t, o)
			s.tb = mustTable(t, s.db, "t")
			for j := range 120 * *scale {
				s.step()
				if j%10 == 0 {
					s.check()
				}
			}
			s.check()
			s.endLive()
			for _, v := range s.views {
				check(t, v.tx.Rollback())
			}
			s.views = nil
			evictAll(t, s.db)
			s.check()
			s.db = reopen(t, s.db, o)
			s.tb = mustTableOf(t, s.db)
			s.check()
			mustClose(t, s.db)
		})
	}
}

// Rows that stay in memory and are updated at random are written whole by
// checkpoints: nothing is left to collect or to merge, and nothing is read.
//
// The story: each checkpoint wrote what had changed, a third of the rows. Merges and
// the collector then read and wrote all of them once more, which took as long as the
// transactions themselves: 218 000 a second instead of 340 000.
func TestCheckpointLeavesNothingToCollect(t *testing.T) {
	o := memOptions()
	o.RunSize = 64 << 10
	db := mustOpen(t, o)
	s := &wholeStore{T: t, rng: rand.New(rand.NewPCG(1, 2)), o: o, db: db, tb: mustTable(t, db, "t"), rows: map[string]string{}}
	inUpdate(t, db, func(tx *Tx) {
		for i := range 3000 {
			key := fmt.Sprintf("k%05d", i)
			s.rows[key] = string(value(i, 60))
			put(t, tx, s.tb, key, s.rows[key])
		}
	})
	check(t, db.Checkpoint(ctx))
	live := int64(3000 * 66)
	for range 10 {
		inUpdate(t, db, func(tx *Tx) {
			for range 1500 {
				s.n++
				key := fmt.Sprintf("k%05d", s.rng.IntN(3000))
				s.rows[key] = string(value(s.n, 60))
				put(t, tx, s.tb, key, s.rows[key])
			}
		})
		check(t, db.Checkpoint(ctx))
	}
	m := db.Metrics()
	if m.FrameMerges+m.CollectedRuns+m.ColdReads != 0 {
		t.Errorf("something was merged, collected or read\n%v", m)
	}
	if m.RunBytes > 2*live {
		t.Errorf("%d bytes in runs for %d of rows\n%v", m.RunBytes, live, m)
	}
	s.check()
	mustClose(t, db)
}
