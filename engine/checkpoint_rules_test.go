package engine

import (
	"fmt"
	"maps"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// wholeLeaf is a table of one leaf, and the rows that it has.
type wholeLeaf struct {
	*testing.T
	o    *Options
	db   *DB
	tb   *Table
	rows map[string]string
	n    int
}

func (s *wholeLeaf) put(from, to int) {
	s.Helper()
	s.n++
	inUpdate(s.T, s.db, func(tx *Tx) {
		for i := from; i < to; i++ {
			key := fmt.Sprintf("k%02d", i)
			s.rows[key] = string(value(s.n, 60))
			put(s.T, tx, s.tb, key, s.rows[key])
		}
	})
}

// frames returns how many frames the leaf lists.
func (s *wholeLeaf) frames() int {
	s.Helper()
	en, found, _, _, err := s.db.space.Lookup(s.tb.ID, []byte("k00"))
	check(s.T, err)
	if !found {
		return 0
	}
	defer s.db.space.ReleaseEntry(&en)
	return len(en.Frames)
}

// age changes half of the rows before each of some checkpoints, so that each would
// write a leaf whole that passes for it.
func (s *wholeLeaf) age() {
	s.Helper()
	for range 4 {
		s.put(0, 20)
		check(s.T, s.db.Checkpoint(ctx))
	}
}

// whole is age for a leaf that is to be written whole.
func (s *wholeLeaf) whole() {
	s.Helper()
	for range 4 {
		s.put(0, 20)
		check(s.T, s.db.Checkpoint(ctx))
		if s.frames() == 1 {
			return
		}
	}
	s.Fatalf("the leaf lists %d frames", s.frames())
}

func (s *wholeLeaf) begin() *Tx { return mustBegin(s.T, s.db, TxOptions{}) }

// view opens a snapshot; the result checks that it still sees what it does now.
func (s *wholeLeaf) view() (stable func()) {
	tx, rows := mustBegin(s.T, s.db, TxOptions{ReadOnly: true}), maps.Clone(s.rows)
	return func() {
		s.Helper()
		matchRows(s.T, "older snapshot", tx, s.tb, rows)
		check(s.T, tx.Rollback())
	}
}

// P9, rule by rule: what a checkpoint that writes a whole leaf takes along, and what
// keeps it from writing one whole. Each story ends with the leaf out of memory, where
// only its frames tell; what it returns is checked then, while its transactions live.
var wholeStories = map[string]func(s *wholeLeaf) (after func()){
	"older versions go along": func(s *wholeLeaf) func() {
		stable := s.view()
		s.put(0, 40)
		s.whole()
		return stable
	},
	"tombstones go along, above what a snapshot sees": func(s *wholeLeaf) func() {
		stable := s.view()
		inUpdate(s.T, s.db, func(tx *Tx) {
			for i := 30; i < 36; i++ {
				key := fmt.Sprintf("k%02d", i)
				del(s.T, tx, s.tb, key)
				delete(s.rows, key)
			}
		})
		check(s.T, s.db.Checkpoint(ctx)) // then they are clean
		s.whole()
		return stable
	},
	"committed locks go along": func(s *wholeLeaf) func() {
		older := s.begin()
		inUpdate(s.T, s.db, func(tx *Tx) {
			_, err := tx.GetForUpdate(s.tb, []byte("k31"))
			check(s.T, err)
			_, err = tx.GetForUpdate(s.tb, []byte("k99"))
			wantErr(s.T, "lock of nothing", err, ErrNotFound)
		})
		check(s.T, s.db.Checkpoint(ctx))
		s.whole()
		return func() {
			for _, key := range []string{"k31", "k99"} {
				wantErr(s.T, "put of "+key, older.Put(s.tb, []byte(key), []byte("lost update")), ErrConflict)
			}
			check(s.T, older.Rollback())
		}
	},
	"what lies below a version that is rolled back goes along": func(s *wholeLeaf) func() {
		tx := s.begin()
		fillWith(s, tx, "k%02d", 30, 40)
		s.whole()
		check(s.T, tx.Rollback())
		return nil
	},
	"what lies below a version that is committed goes along": func(s *wholeLeaf) func() {
		stable := s.view()
		tx := s.begin()
		fillWith(s, tx, "k%02d", 30, 40)
		s.whole()
		commit(s.T, tx)
		for i := 30; i < 40; i++ {
			s.rows[fmt.Sprintf("k%02d", i)] = "other"
		}
		return stable
	},
	// Once a frame holds it the page lets go of it: its data is in the log, where a
	// checkpoint does not look for what is clean.
	"a chilled version was written": func(s *wholeLeaf) func() {
		chilled := s.begin()
		for i := 30; i < 34; i++ {
			key := fmt.Sprintf("k%02d", i)
			s.rows[key] = string(value(i, 100))
			put(s.T, chilled, s.tb, key, s.rows[key])
		}
		chillAll(s.T, s.db)
		if s.db.Metrics().ChilledRecords != 4 {
			s.Fatalf("nothing was chilled\n%v", s.db.Metrics())
		}
		commit(s.T, chilled)
		tx := s.begin()
		fillWith(s, tx, "k%02d", 30, 34)
		s.age()
		check(s.T, tx.Rollback())
		return nil
	},
	// The step that backlogs chains took the clean rows and had nothing to write: a
	// few live rows stayed. So the list did not change, and the leaf passed for whole.
	"clean rows left with nothing written": func(s *wholeLeaf) func() {
		tx := s.begin()
		fillWith(s, tx, "l%02d", 0, 3)
		if rep := relieveAll(s.T, s.db, recordcache.Backlog); rep.Few == 0 || rep.Rows != 0 {
			s.Fatalf("not the step that the story needs: %+v", rep)
		}
		s.age()
		check(s.T, tx.Rollback())
		return nil
	},
	"clean rows were retired": func(s *wholeLeaf) func() {
		pruneAll(s.T, s.db)
		s.age()
		return nil
	},
	"rows left before a frame was listed": func(s *wholeLeaf) func() {
		s.tb = mustTableNamed(s, "fresh")
		s.put(0, 40)
		backlogAll(s.T, s.db)
		s.age()
		return nil
	},
	"the list came from the map": func(s *wholeLeaf) func() {
		evictAll(s.T, s.db)
		s.age()
		return nil
	},
	"a large value is in its frame only": func(s *wholeLeaf) func() {
		inUpdate(s.T, s.db, func(tx *Tx) {
			s.rows["k35"] = string(value(1, 20<<10))
			put(s.T, tx, s.tb, "k35", s.rows["k35"])
		})
		s.age()
		return nil
	},
}

func fillWith(s *wholeLeaf, tx *Tx, format string, from, to int) {
	s.Helper()
	for i := from; i < to; i++ {
		put(s.T, tx, s.tb, fmt.Sprintf(format, i), "other")
	}
}

func mustTableNamed(s *wholeLeaf, name string) *Table {
	s.Helper()
	tb, err := s.db.CreateTable(ctx, name)
	check(s.T, err)
	s.rows = map[string]string{}
	return tb
}

func TestWholeLeafRules(t *testing.T) {
	for name, story := range wholeStories {
		t.Run(name, func(t *testing.T) {
			s := &wholeLeaf{T: t, o: crashOptions(t), rows: map[string]string{}}
			s.db = mustOpen(t, s.o)
			s.tb = mustTable(t, s.db, "t")
			s.put(0, 40)
			check(t, s.db.Checkpoint(ctx))
			after := story(s)
			match := func(db *DB, when string) {
				tb, err := db.Table(s.tb.Name)
				check(t, err)
				inView(t, db, func(tx *Tx) { matchRows(t, when, tx, tb, s.rows) })
				checkStore(t, db)
			}
			match(s.db, "in memory")
			evictAll(t, s.db)
			match(s.db, "in frames")
			if after != nil {
				after()
			}
			// The log has what came after the last checkpoint, frames the rest.
			db := mustOpen(t, crashed(s.o, 0))
			match(db, "after a crash")
			evictAll(t, db)
			match(db, "after a crash, in frames")
			mustClose(t, db)
			mustClose(t, s.db)
		})
	}
}
