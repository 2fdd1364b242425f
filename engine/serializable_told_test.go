package engine

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What commits between looking through a read set and taking the timestamp is told
// to the reader: by key, or, by whoever has no list of keys, that it must look again.

// told is a store in which a serializable transaction has read b to d and e, and
// written; between runs while it commits, each time it has looked.
type told struct {
	*testing.T
	db    *DB
	tb    *Table
	looks int
}

func (s *told) commit(between func()) error {
	s.looks = 0
	t1 := serial(s, s.db)
	scanAll(s, t1, s.tb, Range{From: []byte("b"), To: []byte("d")})
	gets(s, t1, s.tb, "e", "1")
	put(s, t1, s.tb, "z", "read")
	s.db.m.Validated = func() { s.looks++; between() }
	defer func() { s.db.m.Validated = nil }()
	return t1.Commit()
}

// others commits writes of another transaction.
func (s *told) others(fn func(tx *Tx)) {
	s.Helper()
	hook := s.db.m.Validated // a serializable one would call it, too
	s.db.m.Validated = nil
	inUpdate(s, s.db, fn)
	s.db.m.Validated = hook
}

func eachTold(t *testing.T, fn func(s *told, large bool)) {
	for _, large := range []bool{false, true} {
		t.Run(fmt.Sprintf("large=%v", large), func(t *testing.T) {
			o := memOptions()
			if large {
				o.ChillThreshold = 1
			}
			db := mustOpen(t, o)
			s := &told{T: t, db: db, tb: mustTable(t, db, "t")}
			inUpdate(t, db, func(tx *Tx) {
				for _, k := range []string{"a", "b", "c", "e", "f", "z"} {
					put(t, tx, s.tb, k, "1")
				}
			})
			fn(s, large)
			mustClose(t, db)
		})
	}
}

// A change of what was read, the last moment before the timestamp.
func TestSerializableToldOfChange(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		for _, change := range []func(tx *Tx){
			func(tx *Tx) { put(s, tx, s.tb, "b", "2") },
			func(tx *Tx) { put(s, tx, s.tb, "bb", "2") },
			func(tx *Tx) { del(s, tx, s.tb, "c") },
			func(tx *Tx) { put(s, tx, s.tb, "a", "2"); put(s, tx, s.tb, "c\xff", "2") },
			func(tx *Tx) {
				sp, err := tx.Savepoint()
				check(s, err)
				put(s, tx, s.tb, "f", "rolled back")
				check(s, tx.RollbackTo(sp))
				put(s, tx, s.tb, "e", "2")
			},
		} {
			wantErr(s, "commit", s.commit(func() { s.others(change) }), ErrConflict)
			s.others(func(tx *Tx) { put(s, tx, s.tb, "e", "1") })
			if s.looks != 1 {
				s.Fatalf("looked %d times and then went on", s.looks)
			}
		}
		if n := s.db.Metrics().MaybeSerializable; n != 0 {
			s.Fatalf("%d aborts are said to be doubtful", n)
		}
	})
}

// Changes beside it, locks, and what was rolled back: no conflict. A small
// transaction tells by key, a large one makes the reader look once more.
func TestSerializableToldOfOthers(t *testing.T) {
	eachTold(t, func(s *told, large bool) {
		for _, change := range []func(tx *Tx){
			func(tx *Tx) { put(s, tx, s.tb, "a", "2"); put(s, tx, s.tb, "d", "2"); put(s, tx, s.tb, "e\x00", "2") },
			func(tx *Tx) {
				_, err := tx.GetForUpdate(s.tb, []byte("e"))
				check(s, err)
			},
			func(tx *Tx) {
				put(s, tx, s.tb, "f", "2")
				sp, err := tx.Savepoint()
				check(s, err)
				put(s, tx, s.tb, "b", "rolled back")
				check(s, tx.RollbackTo(sp))
			},
		} {
			once := func() {
				if s.looks == 1 {
					s.others(change)
				}
			}
			check(s, s.commit(once))
			if want := map[bool]int{false: 1, true: 2}[large]; s.looks != want {
				s.Fatalf("looked %d times, want %d", s.looks, want)
			}
		}
	})
}

// Who is made to look again and again gives up, and says that it may have been for
// nothing. A large transaction that writes other tables does not disturb it.
func TestSerializableLooksAgain(t *testing.T) {
	eachTold(t, func(s *told, large bool) {
		if !large {
			return
		}
		other := mustTable(s, s.db, "other")
		check(s, s.commit(func() { s.others(func(tx *Tx) { put(s, tx, other, "b", "2") }) }))
		if s.looks != 1 {
			s.Fatalf("looked %d times because of another table", s.looks)
		}
		before := s.db.Metrics()
		wantErr(s, "commit", s.commit(func() { s.others(func(tx *Tx) { put(s, tx, s.tb, "f", "2") }) }), ErrConflict)
		m := s.db.Metrics()
		if m.Unserializable != before.Unserializable+1 || m.MaybeSerializable != before.MaybeSerializable+1 || s.looks < 2 {
			s.Fatalf("looked %d times\n%v", s.looks, m)
		}
		// The last look counts: a change that the second one finds is no doubtful one.
		wantErr(s, "commit", s.commit(func() {
			s.others(func(tx *Tx) { put(s, tx, s.tb, "b", "2") })
		}), ErrConflict)
		if n := s.db.Metrics().MaybeSerializable; n != m.MaybeSerializable || s.looks != 1 {
			s.Fatalf("%d looks, %d doubtful", s.looks, n)
		}
	})
}

// A small transaction with more keys than are compared under the committer's mutex
// makes the reader look again, too.
func TestSerializableToldOfMany(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		many := func(hit string) func() {
			return func() {
				if s.looks > 1 {
					return
				}
				s.others(func(tx *Tx) {
					for i := range 1000 {
						put(s, tx, s.tb, fmt.Sprintf("m%d", i), "2")
					}
					put(s, tx, s.tb, hit, "2")
				})
			}
		}
		check(s, s.commit(many("a")))
		if s.looks != 2 {
			s.Fatalf("looked %d times", s.looks)
		}
		wantErr(s, "commit", s.commit(many("b")), ErrConflict)
	})
}

// Two readers look at the same time: who takes its timestamp first dooms the other.
func TestSerializableBothLook(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		done := false
		err := s.commit(func() {
			if done {
				return
			}
			done = true
			t2 := serial(s, s.db)
			gets(s, t2, s.tb, "z", "1") // which the first one writes
			put(s, t2, s.tb, "bb", "2") // what the first one has read
			hook := s.db.m.Validated
			s.db.m.Validated = nil
			commit(s, t2)
			s.db.m.Validated = hook
		})
		wantErr(s, "commit", err, ErrConflict)
	})
}

// A drop that begins and ends between looking and the timestamp.
func TestSerializableToldOfDrop(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		other := mustTable(s, s.db, "other")
		t1 := serial(s, s.db)
		gets(s, t1, other, "a", "")
		put(s, t1, s.tb, "z", "a is absent")
		s.db.m.Validated = func() { check(s, s.db.DropTable(ctx, "other")) }
		wantSkew(s, t1)
		s.db.m.Validated = nil
	})
}

// A table that was read and written, too, is dropped after the transaction: the drop
// waits for it.
func TestSerializableDropWaits(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		done := make(chan error, 1)
		check(s, s.commit(func() {
			go func() { done <- s.db.DropTable(ctx, "t") }()
			eventually(s, "drop", func() bool { return s.tb.Dropped.Load() != 0 })
		}))
		check(s, <-done)
	})
}

// A drop that waits for nobody, as that of an index: once it is published others do
// not write the table any more, and what was read in it cannot be validated, not even
// by a transaction that has written it.
func TestSerializableDropThatDoesNotWait(t *testing.T) {
	eachTold(t, func(s *told, _ bool) {
		err := s.commit(func() { s.tb.Dropped.Store(uint64(s.db.m.Clock())) })
		s.tb.Dropped.Store(0)
		wantErr(s, "commit", err, ErrConflict)
	})
}

// What was read changes while it is being looked at: a frame is read that cannot know
// it. Registered since before the look, the reader is told.
func TestSerializableChangeWhileLooking(t *testing.T) {
	for _, threshold := range []int64{0, 1} {
		o := memOptions()
		h := &hookFS{FS: vfs.NewMem()}
		o.FS, o.ChillThreshold = h, threshold
		db := mustOpen(t, o)
		tb, mine := mustTable(t, db, "t"), mustTable(t, db, "mine")
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "1") })
		t1 := serial(t, db)
		gets(t, t1, tb, "a", "1")
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "other", "newer than the snapshot") })
		evictAll(t, db) // one frame, or two, of which one is read for its age
		mergeAt(t, db, tb, []byte("a"))
		evictAll(t, db)
		eventually(t, "flush", func() bool { return db.space.Stats().BufferUsed <= 0 })
		put(t, t1, mine, "k", "a is 1")
		changed := func() { inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "2") }) }
		h.read.Store(&changed)
		wantSkew(t, t1)
		if h.read.Load() != nil {
			t.Fatal("no frame was read")
		}
		mustClose(t, db)
	}
}
