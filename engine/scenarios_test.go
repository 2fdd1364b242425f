package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Scenarios of Falcon's test suite, by their numbers in its story, scaled down;
// -saker.scale brings some of the size back.

// flat calls step n times and fails if record memory grows with it: the least
// use in the last quarter must not exceed that in the second by much.
func flat(t *testing.T, db *DB, n int, step func(i int)) {
	t.Helper()
	var early, late int64
	for i := range n {
		step(i)
		used := db.arena.Reserved()
		switch i * 4 / n {
		case 1:
			if early == 0 || used < early {
				early = used
			}
		case 3:
			if late == 0 || used < late {
				late = used
			}
		}
	}
	if late > early+early/4+256<<10 {
		t.Errorf("record memory grew from %d to %d bytes\n%s", early, late, db.Metrics())
	}
	checkStore(t, db)
}

func threeRows(t *testing.T, o *Options) (*DB, *Table) {
	t.Helper()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range 3 {
			put(t, tx, tb, fmt.Sprint("row", i), string(value(0, 100)))
		}
	})
	return db, tb
}

// 1. Three rows, one transaction, thousands of full updates.
func TestScenario01ManyUpdatesInOneTransaction(t *testing.T) {
	for _, threshold := range []int64{1, 64 << 10, 512 << 10} {
		t.Run(fmt.Sprint("threshold=", threshold), func(t *testing.T) {
			o := memOptions()
			o.ChillThreshold = threshold
			db, tb := threeRows(t, o)
			tx := mustBegin(t, db, TxOptions{})
			n := 5000 * *scale
			flat(t, db, n, func(i int) {
				for range 2 {
					for r := range 3 {
						check(t, tx.Update(tb, fmt.Appendf(nil, "row%d", r), value(i, 100)))
					}
				}
			})
			commit(t, tx)
			inView(t, db, func(tx *Tx) {
				v := string(value(n-1, 100))
				wantKV(t, tx, tb, "row0", v, "row1", v, "row2", v)
			})
			mustClose(t, db)
		})
	}
}

// 2. Thousands of transactions with eight updates of three rows each.
func TestScenario02ManyTransactions(t *testing.T) {
	for _, o := range []*Options{memOptions(), tinyOptions()} {
		db, tb := threeRows(t, o)
		flat(t, db, 1000**scale, func(i int) {
			tx := mustBegin(t, db, TxOptions{NoSync: true})
			for u := range 8 {
				for r := range 3 {
					check(t, tx.Update(tb, fmt.Appendf(nil, "row%d", r), value(i*8+u, 100)))
				}
			}
			commit(t, tx)
		})
		mustClose(t, db)
	}
}

// 3. Transactions of ten updates with scans between.
func TestScenario03UpdatesAndScans(t *testing.T) {
	for _, o := range []*Options{memOptions(), tinyOptions()} {
		db, tb := threeRows(t, o)
		flat(t, db, 10*25**scale, func(i int) {
			tx := mustBegin(t, db, TxOptions{NoSync: true})
			for u := range 10 {
				for r := range 3 {
					check(t, tx.Update(tb, fmt.Appendf(nil, "row%d", r), value(i*10+u, 100)))
				}
			}
			v := string(value(i*10+9, 100))
			want := []string{"row0=" + v, "row1=" + v, "row2=" + v}
			if d := cmp.Diff(want, all(t, tx, tb)); d != "" {
				t.Fatal(d)
			}
			commit(t, tx)
			inView(t, db, func(tx *Tx) {
				if d := cmp.Diff(want, all(t, tx, tb)); d != "" {
					t.Fatal(d)
				}
			})
		})
		mustClose(t, db)
	}
}

// 7. A bulk insert and then one statement that updates a tenth of it.
func TestScenario07BulkInsertAndUpdate(t *testing.T) {
	for _, random := range []bool{false, true} {
		t.Run(fmt.Sprint("random=", random), func(t *testing.T) {
			o := tinyOptions()
			fs := newCrashFS(t)
			o.FS, o.ChillThreshold = fs, 256<<10
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			n := 20000 * *scale
			key := func(i int) []byte {
				if random {
					return u64(uint64(i) * 0x9e3779b97f4a7c15)
				}
				return u64(uint64(i))
			}
			tx := mustBegin(t, db, TxOptions{})
			for i := range n {
				check(t, tx.Insert(tb, key(i), value(i, 100)))
			}
			for i := 0; i < n; i += 10 {
				check(t, tx.Update(tb, key(i), value(-i, 60)))
			}
			want := func(tx *Tx, tb *Table) {
				t.Helper()
				rows := 0
				for _, err := range tx.Scan(tb, Range{}) {
					check(t, err)
					rows++
				}
				if rows != n {
					t.Fatalf("%d rows of %d", rows, n)
				}
				for i := 0; i < n; i += 5 {
					v := value(i, 100)
					if i%10 == 0 {
						v = value(-i, 60)
					}
					got, err := tx.Get(tb, key(i))
					if err != nil || string(got) != string(v) {
						t.Fatalf("row %d: %.40q %v, want %.40q", i, got, err, v)
					}
				}
			}
			want(tx, tb)
			commit(t, tx)
			inView(t, db, func(tx *Tx) { want(tx, tb) })
			atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
				inView(t, db, func(tx *Tx) { want(tx, mustTable(t, db, "t")) })
			})
			checkStore(t, db)
			mustClose(t, db)
		})
	}
}

// 10. Four rows, a savepoint, doubling past a megabyte, rollback to it, commit,
// restart: four rows.
func TestScenario10DoublingRolledBack(t *testing.T) {
	o := tinyOptions()
	fs := newCrashFS(t)
	o.FS, o.ChillThreshold = fs, 64<<10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range 4 {
		check(t, tx.Put(tb, u64(uint64(i)), value(i, 1000)))
	}
	sp, err := tx.Savepoint()
	check(t, err)
	next := uint64(4)
	for round := 0; next < 4096; round++ {
		limit := next
		for row, err := range tx.Scan(tb, Range{To: u64(limit)}) { // INSERT … SELECT
			check(t, err)
			check(t, tx.Insert(tb, u64(next), row.Value))
			next++
		}
		if round%3 == 1 {
			inner, err := tx.Savepoint()
			check(t, err)
			check(t, tx.Put(tb, u64(1), []byte("inner")))
			check(t, tx.RollbackTo(inner))
		}
	}
	if next != 4096 {
		t.Fatalf("doubled to %d rows", next)
	}
	check(t, tx.RollbackTo(sp))
	four := func(tx *Tx, tb *Table) {
		t.Helper()
		rows := all(t, tx, tb)
		if len(rows) != 4 {
			t.Fatalf("%d rows", len(rows))
		}
		for i, row := range rows {
			if row != string(u64(uint64(i)))+"="+string(value(i, 1000)) {
				t.Fatalf("row %d: %.40q", i, row)
			}
		}
	}
	four(tx, tb)
	commit(t, tx)
	inView(t, db, func(tx *Tx) { four(tx, tb) })
	atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
		inView(t, db, func(tx *Tx) { four(tx, mustTable(t, db, "t")) })
	})
	db = reopen(t, db, o)
	inView(t, db, func(tx *Tx) { four(tx, mustTable(t, db, "t")) })
	mustClose(t, db)
}

// stream is a stream of operations that depends on its seed alone, and everything
// that it was answered.
func stream(t *testing.T, o *Options, seed uint64, rows, n int) (answers []string) {
	t.Helper()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	rng := rand.New(rand.NewPCG(seed, 1))
	say := func(format string, args ...any) { answers = append(answers, fmt.Sprintf(format, args...)) }
	key := func() []byte { return fmt.Appendf(nil, "k%04d", rng.IntN(rows)) }
	for i := range n {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		var sps []Savepoint
		for range rng.IntN(30) + 1 {
			switch rng.IntN(12) {
			case 0, 1, 2:
				say("put %v", tx.Put(tb, key(), value(i, rng.IntN(400))))
			case 3:
				say("insert %v", tx.Insert(tb, key(), value(i, 40)))
			case 4, 5:
				say("update %v", tx.Update(tb, key(), value(i, rng.IntN(200))))
			case 6:
				say("delete %v", tx.Delete(tb, key()))
			case 7:
				v, err := tx.GetForUpdate(tb, key())
				say("lock %q %v", v, err)
			case 8:
				from := key()
				for row, err := range tx.Scan(tb, Range{From: from, Limit: 10, Reverse: rng.IntN(2) == 0}) {
					say("row %q=%q %v", row.Key, row.Value, err)
				}
			case 9:
				v, err := tx.Get(tb, key())
				say("get %q %v", v, err)
			case 10:
				sp, err := tx.Savepoint()
				check(t, err)
				sps = append(sps, sp)
			case 11:
				if len(sps) > 0 {
					at := rng.IntN(len(sps))
					check(t, tx.RollbackTo(sps[at]))
					sps = sps[:at+1]
				}
			}
		}
		if rng.IntN(3) == 0 {
			rollback(t, tx)
		} else {
			commit(t, tx)
		}
	}
	inView(t, db, func(tx *Tx) { answers = append(answers, all(t, tx, tb)...) })
	mustClose(t, db)
	return answers
}

// 11. Chill at 4 KiB, 100 and 1000 rows, random work with commit or rollback.
// 12. The same stream on stores that chill at 1 KiB and on a default one.
func TestScenario11And12EqualAnswers(t *testing.T) {
	for seed, rows := range []int{20, 100, 1000} {
		n := 300 * *scale
		want := stream(t, memOptions(), uint64(seed), rows, n)
		for _, threshold := range []int64{1, 1 << 10, 4 << 10} {
			o := tinyOptions()
			o.ChillThreshold = threshold
			got := stream(t, o, uint64(seed), rows, n)
			if !slices.Equal(got, want) {
				for i := range want {
					if i >= len(got) || got[i] != want[i] {
						t.Fatalf("%d rows, threshold %d: answer %d is %.60q, want %.60q", rows, threshold, i, got[i:min(i+1, len(got))], want[i])
					}
				}
				t.Fatalf("%d answers, want %d", len(got), len(want))
			}
		}
	}
}

// 13. An old snapshot, updates, chill, commit, prune; then a lookup of the old value.
func TestScenario13OldValueAfterPrune(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "old", "l", "old")
		old := mustBegin(s, s.db, TxOptions{ReadOnly: true})
		for i := range 5 {
			tx := s.begin()
			put(s, tx, s.tb, "k", fmt.Sprint("new", i))
			s.move()
			commit(s, tx)
			pruneAll(s, s.db)
		}
		inUpdate(s, s.db, func(tx *Tx) { del(s, tx, s.tb, "l") })
		s.move()
		pruneAll(s, s.db)
		s.want(old, "k", "old", "l", "old")
		rollback(s, old)
		s.wantCommitted("k", "new4")
	})
}

// 14. A statement is rolled back under low memory; a table is made right after
// memory was exhausted.
func TestScenario14StatementRollbackUnderLowMemory(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 1000, 100)
	for round := range 3 {
		sp, err := tx.Savepoint()
		check(t, err)
		for i := range 12000 {
			put(t, tx, tb, fmt.Sprintf("k%06d", (i*7919+round)%20000), "of the statement")
		}
		if db.Metrics().LowMemoryEpisodes == 0 {
			t.Fatal("memory was not low")
		}
		check(t, tx.RollbackTo(sp))
		wantRows(t, tx, tb, 0, 1000, 100)
	}
	if _, err := db.CreateTable(ctx, "after"); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	inView(t, db, func(tx *Tx) { wantRows(t, tx, tb, 0, 1000, 100) })
	mustClose(t, db)
}

// 15. Many commits that update one large value: disk growth is bounded.
func TestScenario15LargeValueUpdates(t *testing.T) {
	for _, size := range []int{4 << 10, 100 << 10, 1 << 20} {
		t.Run(fmt.Sprint("size=", size), func(t *testing.T) {
			o := memOptions()
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			n := max(40, (8<<20)/size) * *scale
			for i := range n {
				tx := mustBegin(t, db, TxOptions{NoSync: true})
				check(t, tx.Put(tb, []byte("k"), value(i, size)))
				commit(t, tx)
			}
			for range 3 {
				check(t, db.Checkpoint(ctx))
			}
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", string(value(n-1, size))) })
			mergeAt(t, db, tb, []byte("k"))
			for range 2 {
				check(t, db.Checkpoint(ctx))
			}
			if m := db.Metrics(); m.RunBytes > int64(8*size)+4<<20 {
				t.Errorf("%d KiB in runs for one value of %d KiB after %d updates\n%s", m.RunBytes>>10, size>>10, n, m)
			}
			mustClose(t, db)
		})
	}
}

// 16. Three snapshots over values D, A, C; filler forces pruning; each still
// reads its own value by point read and by scan.
func TestScenario16ThreeSnapshots(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 0
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	filler := mustTable(t, db, "filler")
	set := func(v string) {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 40 {
				put(t, tx, tb, fmt.Sprintf("%02d", i), v)
			}
		})
	}
	vals := []string{"D", "A", "C"}
	var snaps []*Tx
	for _, v := range vals {
		set("between")
		set(v)
		snaps = append(snaps, mustBegin(t, db, TxOptions{ReadOnly: true}))
		set("between")
	}
	for round := range 4 {
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, filler, round*5000, (round+1)*5000, 400) })
		evictAll(t, db)
		check(t, db.Checkpoint(ctx))
		mergeAt(t, db, tb, []byte("00"))
		set(fmt.Sprint("later", round))
		for i, tx := range snaps {
			gets(t, tx, tb, "17", vals[i])
			for _, row := range all(t, tx, tb) {
				if row[2:] != "="+vals[i] {
					t.Fatalf("snapshot %d sees %s", i, row)
				}
			}
		}
	}
	for _, tx := range snaps {
		rollback(t, tx)
	}
	mustClose(t, db)
}

// 17. Insert, updates, delete over sp1–sp3; rollback to sp1; the name again.
func TestScenario17ThreeSavepoints(t *testing.T) {
	eachMove(t, func(s *story) {
		tx := s.begin()
		sp1 := s.savepoint(tx)
		check(s, tx.Insert(s.tb, []byte("k"), []byte("1")))
		s.move()
		sp2 := s.savepoint(tx)
		check(s, tx.Update(s.tb, []byte("k"), []byte("2")))
		check(s, tx.Update(s.tb, []byte("k"), []byte("3")))
		s.move()
		s.savepoint(tx)
		del(s, tx, s.tb, "k")
		s.move()
		s.want(tx)
		s.rollbackTo(tx, sp1)
		s.want(tx)
		wantErr(s, "rollback to sp2", tx.RollbackTo(sp2), ErrSavepointNotFound)
		sp2 = s.savepoint(tx)
		check(s, tx.Insert(s.tb, []byte("k"), []byte("4")))
		s.move()
		s.rollbackTo(tx, sp2)
		s.want(tx)
		wantErr(s, "update", tx.Update(s.tb, []byte("k"), nil), ErrNotFound)
		check(s, tx.Insert(s.tb, []byte("k"), []byte("5")))
		s.want(tx, "k", "5")
		rollback(s, tx)
		s.wantCommitted()
	})
}

// 18. Rollback to after a delete; insert, savepoint, update, rollback to, read;
// the same rollback twice.
func TestScenario18RollbackToTwice(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("k", "0", "l", "0")
		tx := s.begin()
		del(s, tx, s.tb, "k")
		sp := s.savepoint(tx)
		check(s, tx.Insert(s.tb, []byte("k"), []byte("1")))
		s.move()
		s.rollbackTo(tx, sp)
		s.want(tx, "l", "0")
		s.rollbackTo(tx, sp)
		s.want(tx, "l", "0")
		check(s, tx.Insert(s.tb, []byte("m"), []byte("1")))
		sp2 := s.savepoint(tx)
		check(s, tx.Update(s.tb, []byte("m"), []byte("2")))
		s.move()
		s.rollbackTo(tx, sp2)
		s.rollbackTo(tx, sp2)
		s.want(tx, "l", "0", "m", "1")
		check(s, tx.Update(s.tb, []byte("m"), []byte("3")))
		commit(s, tx)
		s.wantCommitted("l", "0", "m", "3")
	})
}

// 19. Locks taken in nested savepoints survive updates; a rollback frees only
// later ones.
func TestScenario19LocksAndSavepoints(t *testing.T) {
	eachMove(t, func(s *story) {
		s.seed("a", "0", "b", "0", "c", "0")
		lock := func(tx *Tx, key string) {
			s.Helper()
			_, err := tx.GetForUpdate(s.tb, []byte(key))
			check(s, err)
		}
		tx := s.begin()
		lock(tx, "a")
		sp1 := s.savepoint(tx)
		lock(tx, "b")
		put(s, tx, s.tb, "a", "1")
		s.move()
		s.savepoint(tx)
		lock(tx, "c")
		put(s, tx, s.tb, "b", "2")
		s.move()
		locked := func(keys string) {
			s.Helper()
			for _, k := range []string{"a", "b", "c"} {
				c := &switchCtx{Context: ctx}
				other, err := s.db.Begin(c, TxOptions{})
				check(s, err)
				err = c.impatiently(func() error { return other.Put(s.tb, []byte(k), []byte("other")) })
				if want := slices.Contains([]byte(keys), k[0]); want != errors.Is(err, context.Canceled) || !want && err != nil {
					s.Fatalf("put of %s: %v, locked are %q", k, err, keys)
				}
				rollback(s, other)
				waitSwept(s, s.db)
			}
		}
		locked("abc")
		s.rollbackTo(tx, sp1)
		s.move()
		locked("a")
		s.want(tx, "a", "0", "b", "0", "c", "0")
		commit(s, tx)
		locked("")
		s.wantCommitted("a", "0", "b", "0", "c", "0")
	})
}
