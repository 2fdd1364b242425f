package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The hazards on which Falcon ran aground, by their numbers in its story. Each is
// tried with everything that may move a version at the point where it hurts.

// moves are the ways in which versions leave memory.
var moves = []struct {
	name string
	fn   func(t tester, db *DB)
}{
	{"stay", func(tester, *DB) {}},
	{"chill", chillAll},
	{"backlog", backlogAll},
	{"chill and backlog", func(t tester, db *DB) { t.Helper(); chillAll(t, db); backlogAll(t, db) }},
	{"evict", evictAll},
	{"checkpoint", func(t tester, db *DB) {
		t.Helper()
		if err := db.Checkpoint(ctx); err != nil {
			t.Fatalf("checkpoint: %v", err)
		}
	}},
}

// story is a store for one hazard, and how versions move in it.
type story struct {
	*testing.T
	o    *Options
	fs   *vfs.MemFS
	db   *DB
	tb   *Table
	move func()
}

// eachMove runs fn with small and large transactions and each way to move.
func eachMove(t *testing.T, fn func(s *story)) {
	for _, threshold := range []int64{0, 1} {
		for _, m := range moves {
			t.Run(fmt.Sprintf("%s, large=%v", m.name, threshold == 1), func(t *testing.T) {
				s := &story{T: t, o: memOptions(), fs: newCrashFS(t)}
				s.o.FS, s.o.ChillThreshold = s.fs, threshold
				s.db = mustOpen(t, s.o)
				s.tb = mustTable(t, s.db, "t")
				s.move = func() { t.Helper(); m.fn(t, s.db) }
				fn(s)
				mustClose(t, s.db)
			})
		}
	}
}

func (s *story) begin() *Tx { s.Helper(); return mustBegin(s, s.db, TxOptions{}) }

func (s *story) savepoint(tx *Tx) Savepoint {
	s.Helper()
	sp, err := tx.Savepoint()
	check(s, err)
	return sp
}

func (s *story) rollbackTo(tx *Tx, sp Savepoint) { s.Helper(); check(s, tx.RollbackTo(sp)) }

// seed commits rows and moves them.
func (s *story) seed(kv ...string) {
	s.Helper()
	inUpdate(s, s.db, func(tx *Tx) {
		for i := 0; i < len(kv); i += 2 {
			put(s, tx, s.tb, kv[i], kv[i+1])
		}
	})
	s.move()
}

// want checks rows, and that there are no others, for tx and every access path.
func (s *story) want(tx *Tx, kv ...string) {
	s.Helper()
	wantKV(s, tx, s.tb, kv...)
}

func wantKV(t tester, tx *Tx, tb *Table, kv ...string) {
	t.Helper()
	for i := 0; i < len(kv); i += 2 {
		gets(t, tx, tb, kv[i], kv[i+1])
	}
	if got := all(t, tx, tb); len(got) != len(kv)/2 {
		t.Fatalf("rows %.200q, want %.200q", got, kv)
	}
}

// wantCommitted checks what is committed, now and after a crash that leaves only
// what was synced.
func (s *story) wantCommitted(kv ...string) {
	s.Helper()
	inView(s, s.db, func(tx *Tx) { s.want(tx, kv...) })
	o := *s.o
	o.FS = s.fs.CrashClone(vfs.CrashCloneCfg{})
	db := mustOpen(s, &o)
	inView(s, db, func(tx *Tx) { wantKV(s, tx, mustTable(s, db, "t"), kv...) })
	mustClose(s, db)
}

// 1. A chain removed from the tree but left on the transaction's list while a
// savepoint is open.
func TestHazard01BackloggedUnderSavepoint(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0", "d", "0")
		tx := s.begin()
		put(s, tx, s.tb, "a", "1")
		sp := s.savepoint(tx)
		put(s, tx, s.tb, "a", "2")
		put(s, tx, s.tb, "b", "2")
		put(s, tx, s.tb, "c", "2")
		del(s, tx, s.tb, "d")
		s.move()
		s.want(tx, "a", "2", "b", "2", "c", "2")
		s.rollbackTo(tx, sp)
		s.want(tx, "a", "1", "b", "0", "d", "0")
		s.move()
		s.want(tx, "a", "1", "b", "0", "d", "0")
		put(s, tx, s.tb, "c", "3")
		s.move()
		commit(s, tx)
		s.wantCommitted("a", "1", "b", "0", "c", "3", "d", "0")
	})
}

// 2. A record with two versions by one transaction, visited twice.
func TestHazard02TwoVersionsOfOneRecord(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		var sps []Savepoint
		for i := range 5 {
			put(s, tx, s.tb, "k", fmt.Sprint("v", i))
			put(s, tx, s.tb, "l", fmt.Sprint("v", i))
			sps = append(sps, s.savepoint(tx))
		}
		s.move()
		s.move()
		s.want(tx, "k", "v4", "l", "v4")
		s.rollbackTo(tx, sps[2])
		s.want(tx, "k", "v2", "l", "v2")
		s.rollbackTo(tx, sps[0])
		s.want(tx, "k", "v0", "l", "v0")
		commit(s, tx)
		s.wantCommitted("k", "v0", "l", "v0")
	})
}

// 3. The mapping not cleared on restore: restore, update, commit, retire, fetch.
func TestHazard03RestoreUpdateFetch(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "old", "l", "old")
		tx := s.begin()
		put(s, tx, s.tb, "k", "mine")
		s.move()
		check(s, tx.Update(s.tb, []byte("k"), []byte("again"))) // restores the chain
		s.move()
		commit(s, tx)
		s.move()
		pruneAll(s, s.db)
		s.wantCommitted("k", "again", "l", "old")
		evictAll(s, s.db)
		s.wantCommitted("k", "again", "l", "old")
	})
}

// 4. Full rollback with savepoints that were backlogged.
func TestHazard04RollbackOfBackloggedSavepoints(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0")
		tx := s.begin()
		for i := range 4 {
			s.savepoint(tx)
			put(s, tx, s.tb, "a", fmt.Sprint(i))
			put(s, tx, s.tb, fmt.Sprint("new", i), "x")
			s.move()
		}
		del(s, tx, s.tb, "b")
		rollback(s, tx)
		inView(s, s.db, func(tx *Tx) { s.want(tx, "a", "0", "b", "0") })
		waitSwept(s, s.db)
		s.move()
		s.wantCommitted("a", "0", "b", "0")
		inUpdate(s, s.db, func(tx *Tx) { check(s, tx.Insert(s.tb, []byte("new2"), []byte("y"))) })
		s.wantCommitted("a", "0", "b", "0", "new2", "y")
	})
}

// 5. What was backlogged keeps its owner and epoch: when the owner is gone the
// restored version can be retired.
func TestHazard05RestoredVersionIsRetired(t *testing.T) {
	eachMove(t, func(s *story) {
		owner := s.begin()
		for i := range 50 {
			put(s, owner, s.tb, fmt.Sprintf("k%02d", i), string(value(i, 100)))
		}
		s.move()
		commit(s, owner)
		evictAll(s, s.db)
		tx := s.begin()
		for i := range 50 {
			_, err := tx.GetForUpdate(s.tb, fmt.Appendf(nil, "k%02d", i))
			check(s, err)
			check(s, tx.Update(s.tb, fmt.Appendf(nil, "k%02d", i), []byte("x")))
		}
		rollback(s, tx)
		waitSwept(s, s.db)
		check(s, s.db.Checkpoint(ctx))
		evictAll(s, s.db)
		if n := s.db.arena.Blocks(); n != 0 {
			s.Errorf("%d bytes of record memory are not given back", n)
		}
		inView(s, s.db, func(tx *Tx) { gets(s, tx, s.tb, "k07", string(value(7, 100))) })
	})
}

// 6. Savepoints a, b, a statement, chill, rollback to a: after a crash nothing of
// b comes back.
func TestHazard06NestedSavepointsAndCrash(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0")
		tx := s.begin()
		put(s, tx, s.tb, "kept", "1")
		a := s.savepoint(tx)
		put(s, tx, s.tb, "in a", "x")
		s.move()
		s.savepoint(tx)
		put(s, tx, s.tb, "in b", "x")
		put(s, tx, s.tb, "k", "b")
		s.move()
		s.rollbackTo(tx, a)
		put(s, tx, s.tb, "after", "1")
		s.move()
		commit(s, tx)
		s.wantCommitted("after", "1", "k", "0", "kept", "1")
	})
}

// 7. The flag rises under pressure and falls when it is over, for transactions
// that were there and for new ones.
func TestHazard07FlagIsCleared(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20 // only pressure makes anything leave
	var rose, fell atomic.Int64
	o.Events = &EventListener{LowMemory: func(low bool) {
		if low {
			rose.Add(1)
		} else {
			fell.Add(1)
		}
	}}
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range 20000 {
		put(t, tx, tb, fmt.Sprintf("k%07d", i*7919%100003), string(value(i, 100)))
	}
	if rose.Load() == 0 || db.Metrics().LowMemoryEpisodes == 0 {
		t.Fatalf("no low memory in %d MiB of writes:\n%s", 20000*100>>20, db.Metrics())
	}
	// The last write may have passed the mark a moment ago: the scavenger has yet to
	// see it. At rest the flag is down and there is memory.
	eventually(t, "rest", func() bool {
		return !db.Metrics().LowMemory && fell.Load() == rose.Load() && db.Metrics().RecordMemoryUsed <= db.arena.Cap()*90/100
	})
	commit(t, tx)
	episodes := db.Metrics().LowMemoryEpisodes
	for i := range 1000 {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, fmt.Sprint(i%7), "x") })
	}
	if n := db.Metrics().LowMemoryEpisodes; n > episodes+3 {
		t.Errorf("%d episodes while nothing grows", n-episodes)
	}
	mustClose(t, db)
}

// 8. Accounting counts reserved bytes, metadata included: rows of one byte fill
// memory no further than rows of a hundred.
func TestHazard08MetadataIsBounded(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 0
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	before := liveHeap(t)
	tx := mustBegin(t, db, TxOptions{})
	for i := range 60000 {
		check(t, tx.Put(tb, u64(uint64(i)*0x9e3779b97f4a7c15), []byte("x")))
		if i%1000 == 0 {
			checkCap(t, db)
		}
	}
	st := db.space.Stats()
	disk := st.RunBytes + int64(st.MapBytes) // the file system is in memory
	if grown := liveHeap(t) - before - disk; grown > 4<<20 {
		t.Errorf("the Go heap grew by %d KiB, %d KiB of files apart, with a budget of 4 MiB", grown>>10, disk>>10)
	}
	commit(t, tx)
	checkStore(t, db)
	inView(t, db, func(tx *Tx) {
		n := 0
		for _, err := range tx.Scan(tb, Range{}) {
			check(t, err)
			n++
		}
		if n != 60000 {
			t.Fatalf("%d rows", n)
		}
	})
	mustClose(t, db)
}

func checkCap(t tester, db *DB) {
	t.Helper()
	if peak := db.arena.Peak(); peak > db.arena.Cap() {
		t.Fatalf("M1: %d bytes were reserved of %d", peak, db.arena.Cap())
	}
}

// 9. The scavenger works when there is no memory at all, and so do dozens of
// blocked writers and a change of the catalog. Small transactions had two ways to
// starve each other here: their buffers, which nobody could take from them, and
// leaves that became present, waited for a page and were gone again when it was
// their turn, all of them, over and over.
func TestHazard09NoMemoryForTheScavenger(t *testing.T) {
	for _, c := range []struct{ writers, rows, size int }{
		{40, 250, 150},  // long lists of small frames
		{100, 25, 2000}, // more owners than leaves, and chilling pays
		{300, 20, 10},   // so many that a leaf's list is most of memory
	} {
		t.Run(fmt.Sprintf("%d writers, %d bytes", c.writers, c.size), func(t *testing.T) {
			crowd(t, c.writers, c.rows, c.size)
		})
	}
}

// crowd lets writers of interleaved rows go through a record memory of 1 MiB.
func crowd(t *testing.T, writers, rows, size int) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 5*time.Minute) // against hanging, not against being slow
	defer cancel()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			tx, err := db.Begin(limit, TxOptions{})
			check2(t, err)
			for i := range rows {
				key := fmt.Appendf(nil, "k%05d/%03d", i*7919%rows, w)
				if err := tx.Put(tb, key, value(i, size)); err != nil {
					t.Errorf("writer %d, row %d: %v", w, i, err)
					return
				}
			}
			check2(t, tx.Commit())
		})
	}
	for i := range 3 {
		_, err := db.CreateTable(limit, fmt.Sprint("during ", i))
		check(t, err)
	}
	wg.Wait()
	if t.Failed() {
		describeMap(t, db, tb)
		t.Fatal(db.Metrics())
	}
	inView(t, db, func(tx *Tx) {
		if n := len(all(t, tx, tb)); n != writers*rows {
			t.Fatalf("%d rows", n)
		}
	})
	checkStore(t, db)
	mustClose(t, db)
}

func check2(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// 10. A record number is handed out once, whatever becomes of its transaction.
func TestHazard10RecordNumbers(t *testing.T) {
	eachMove(t, func(s *story) {
		last := ""
		next := func(tx *Tx, tb *Table) {
			s.Helper()
			key, err := tx.Append(tb, []byte("row"))
			check(s, err)
			if string(key) <= last {
				s.Fatalf("number %x after %x", key, last)
			}
			last = string(key)
		}
		for range 3 {
			tx := s.begin()
			next(tx, s.tb)
			sp := s.savepoint(tx)
			next(tx, s.tb)
			s.move()
			s.rollbackTo(tx, sp)
			next(tx, s.tb)
			rollback(s, tx)
			tx = s.begin()
			next(tx, s.tb)
			s.move()
			commit(s, tx)
		}
		o := *s.o
		o.FS = s.fs.CrashClone(vfs.CrashCloneCfg{})
		db := mustOpen(s, &o)
		inUpdate(s, db, func(tx *Tx) { next(tx, mustTable(s, db, "t")) })
		db = reopen(s.T, db, &o)
		inUpdate(s, db, func(tx *Tx) { next(tx, mustTable(s, db, "t")) })
		mustClose(s, db)
	})
}

// 11. Deletions and locks have no data and are not mistaken for chilled records.
func TestHazard11DeletionsAndLocksAreNotChilled(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "a value that can be chilled", "b", "a value that can be chilled", "c", "short")
		tx := s.begin()
		_, err := tx.GetForUpdate(s.tb, []byte("a"))
		check(s, err)
		_, err = tx.GetForUpdate(s.tb, []byte("absent"))
		wantErr(s, "lock of an absent record", err, ErrNotFound)
		del(s, tx, s.tb, "b")
		before := s.db.Metrics().ChilledRecords
		s.move()
		if n := s.db.Metrics().ChilledRecords; n != before {
			s.Errorf("%d records without data were chilled", n-before)
		}
		s.want(tx, "a", "a value that can be chilled", "c", "short")
		c := &switchCtx{Context: ctx}
		other, err := s.db.Begin(c, TxOptions{})
		check(s, err)
		for _, key := range []string{"a", "b", "absent"} {
			wantErr(s, "put of "+key, c.impatiently(func() error { return other.Put(s.tb, []byte(key), nil) }), context.Canceled)
		}
		rollback(s, other)
		check(s, tx.Insert(s.tb, []byte("b"), []byte("again")))
		s.move()
		commit(s, tx)
		s.wantCommitted("a", "a value that can be chilled", "b", "again", "c", "short")
	})
}

// 12. Values without bytes; and a record that moves under a cursor.
func TestHazard12EmptyValuesAndCursors(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("e0", "")
		tx := s.begin()
		for i := range 30 {
			put(s, tx, s.tb, fmt.Sprintf("e%02d", i), "")
			put(s, tx, s.tb, fmt.Sprintf("v%02d", i), string(value(i, 50)))
		}
		s.move()
		v, err := tx.Get(s.tb, []byte("e07"))
		if err != nil || v == nil || len(v) != 0 {
			s.Fatalf("empty value: %q %v", v, err)
		}
		for _, forward := range []bool{true, false} {
			c := tx.Cursor(s.tb, Range{From: []byte("v")})
			n := 0
			step := c.Next
			if !forward {
				step = c.Prev
			}
			for ; step(); n++ {
				i := n
				if !forward {
					i = 29 - n
				}
				key, val := string(c.Key()), string(c.Value())
				s.move()
				pruneAll(s, s.db)
				if string(c.Key()) != key || string(c.Value()) != val {
					s.Fatalf("row %s changed under the cursor", key)
				}
				if key != fmt.Sprintf("v%02d", i) || val != string(value(i, 50)) {
					s.Fatalf("row %d: %s=%s", i, key, val)
				}
				if n%5 == 0 {
					put(s, tx, s.tb, "e00", fmt.Sprint(n))
				}
			}
			check(s, c.Err())
			if n != 30 {
				s.Fatalf("%d rows", n)
			}
			check(s, c.Close())
		}
		del(s, tx, s.tb, "e00")
		s.move()
		commit(s, tx)
		inView(s, s.db, func(tx *Tx) {
			if n := len(all(s, tx, s.tb)); n != 60 {
				s.Fatalf("%d rows", n)
			}
		})
	})
}

// 13. Releasing a savepoint renumbers nothing: what it did lives and dies with
// what lies around it.
func TestHazard13Release(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0")
		tx := s.begin()
		dead := s.savepoint(tx)
		put(s, tx, s.tb, "dead", "x")
		s.move()
		s.rollbackTo(tx, dead)
		check(s, tx.Release(dead))
		a := s.savepoint(tx)
		put(s, tx, s.tb, "k", "a")
		b := s.savepoint(tx)
		put(s, tx, s.tb, "k", "b")
		put(s, tx, s.tb, "in b", "1")
		s.move()
		check(s, tx.Release(b)) // b's work is a's
		s.want(tx, "in b", "1", "k", "b")
		c := s.savepoint(tx)
		put(s, tx, s.tb, "k", "c")
		s.move()
		s.rollbackTo(tx, c)
		s.want(tx, "in b", "1", "k", "b")
		check(s, tx.Release(a)) // the transaction's now
		d := s.savepoint(tx)
		del(s, tx, s.tb, "k")
		s.move()
		s.rollbackTo(tx, d)
		s.want(tx, "in b", "1", "k", "b")
		for _, gone := range []Savepoint{dead, a, b, c} {
			wantErr(s, "rollback to a savepoint that is gone", tx.RollbackTo(gone), ErrSavepointNotFound)
		}
		commit(s, tx)
		s.wantCommitted("in b", "1", "k", "b")
	})
}
