package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// A rolled back transaction's list entries are counted down when they go, even
// if the leaf came back from the map without them (L10).
func TestRefsOfRolledBackFrames(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range 300 {
		put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i, 100)))
	}
	evictAll(t, db)
	rollback(t, tx)
	waitSwept(t, db)
	check(t, db.Checkpoint(ctx))
	checkStore(t, db)
	mustClose(t, db)
}

// The same for frames of a transaction that a crash ended.
func TestRefsOfFramesLostInCrash(t *testing.T) {
	o := tinyOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range 300 {
		put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i, 100)))
	}
	evictAll(t, db)
	check(t, db.Checkpoint(ctx)) // the edits survive
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	rollback(t, tx)
	mustClose(t, db)

	o.FS = crashed
	db = mustOpen(t, o)
	tb = mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range 300 {
			put(t, tx, tb, fmt.Sprintf("k%05d", i), "new")
		}
	})
	check(t, db.Checkpoint(ctx))
	checkStore(t, db)
	mustClose(t, db)
}

// A version that was newer than the clock when the horizon was taken may be what
// a snapshot reads that began since (S1).
func TestPruneWithOldHorizon(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "a") })
	h := db.snaps.Horizon()
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "b") })
	s := mustBegin(t, db, TxOptions{ReadOnly: true})
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "c") })
	check(t, db.cache.Settle(ctx, h))
	db.cache.Walk(func(l *recordcache.Leaf) bool {
		_, err := db.cache.Relieve(ctx, l, &recordcache.Request{Action: recordcache.Prune, Horizon: h})
		check(t, err)
		return true
	})
	gets(t, s, tb, "k", "b")
	rollback(t, s)
	mustClose(t, db)
}

// Both halves of a split leaf list the frames of a transaction; when it rolls
// back, its frames leave both.
func TestRollbackOfSharedFrame(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	big := mustBegin(t, db, TxOptions{})
	for i := range 50 {
		put(t, big, tb, fmt.Sprintf("k%05d", i*10), string(value(i, 20)))
	}
	backlogAll(t, db)
	inUpdate(t, db, func(tx *Tx) { // fills the leaf until it splits
		for i := range 500 {
			if i%10 != 0 {
				put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i, 200)))
			}
		}
	})
	if db.Metrics().LeafSplits == 0 {
		t.Fatal("no leaf was split")
	}
	rollback(t, big)
	waitSwept(t, db)
	check(t, db.Checkpoint(ctx))
	check(t, db.Checkpoint(ctx))
	evictAll(t, db)
	inView(t, db, func(tx *Tx) {
		for i := range 500 {
			want := ""
			if i%10 != 0 {
				want = string(value(i, 200))
			}
			gets(t, tx, tb, fmt.Sprintf("k%05d", i), want)
		}
	})
	mustClose(t, db)
}

// Segments that hold groups of a transaction that recovery replayed stay until a
// checkpoint covers it (L5).
func TestGroupsSurviveTwoCrashes(t *testing.T) {
	o := memOptions()
	o.LogSegmentSize = 64 << 10
	o.LogLimit = 1 << 30 // no checkpoint but ours
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{}) // small, but with groups in the log
	for i := range 4000 {
		put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i, 100)))
	}
	check(t, db.Checkpoint(ctx))
	inUpdate(t, db, func(tx *Tx) {
		for i := range 3000 {
			put(t, tx, tb, fmt.Sprintf("m%05d", i), string(value(i, 100)))
		}
	})
	check(t, db.Checkpoint(ctx))
	commit(t, tx)
	for life := range 3 {
		o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
		fs = memFS(o.FS)
		db2 := mustOpen(t, o)
		tb2 := mustTable(t, db2, "t")
		inView(t, db2, func(tx *Tx) {
			if n := len(all(t, tx, tb2)); n != 7000 {
				t.Fatalf("crash %d: %d rows", life, n)
			}
		})
		// Something that gives log segments back.
		for range 3 {
			tx := mustBegin(t, db2, TxOptions{})
			for i := range 8000 {
				put(t, tx, tb2, fmt.Sprintf("z%05d", i), string(value(i, 100)))
			}
			rollback(t, tx)
			waitSwept(t, db2)
		}
		defer func() { check(t, db2.Close()) }()
	}
	mustClose(t, db)
}

// Any number of dead intervals fits into a commit (M5).
func TestManyDeadIntervals(t *testing.T) {
	intervals := 25000
	if testing.Short() {
		intervals = 6000
	}
	for _, large := range []bool{false, true} {
		t.Run(fmt.Sprint("large=", large), func(t *testing.T) {
			o := memOptions()
			o.LogSegmentSize = 64 << 10
			if large {
				o.ChillThreshold = 1
			}
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			tx := mustBegin(t, db, TxOptions{})
			for i := range intervals {
				sp, err := tx.Savepoint()
				check(t, err)
				put(t, tx, tb, "dead", "x")
				check(t, tx.RollbackTo(sp))
				check(t, tx.Release(sp))
				put(t, tx, tb, fmt.Sprintf("k%05d", i%100), "y")
			}
			commit(t, tx)
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "dead", "") })
			db = reopen(t, db, o)
			inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "dead", "") })
			mustClose(t, db)
		})
	}
}

// A commit fits into the log whatever the size of its last rows.
func TestCommitOfAnySizeFits(t *testing.T) {
	o := memOptions()
	o.LogSegmentSize = 64 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	for total := 64500; total < 65700; total += 16 {
		tx := mustBegin(t, db, TxOptions{})
		left := total
		for i := 0; left > 0; i++ {
			n := min(left, 8000)
			check(t, tx.Put(tb, fmt.Appendf(nil, "k%d", i), value(i, n)))
			left -= n
		}
		if err := tx.Commit(); err != nil {
			t.Fatalf("%d bytes: %v", total, err)
		}
	}
	mustClose(t, db)
}

// Table ids never repeat (L7).
func TestTableIDsNeverRepeat(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	a, err := db.CreateTable(ctx, "a")
	check(t, err)
	check(t, db.DropTable(ctx, "a"))
	db = reopen(t, db, o)
	b, err := db.CreateTable(ctx, "b")
	check(t, err)
	if a.ID == b.ID {
		t.Fatalf("id %d was given twice", a.ID)
	}
	mustClose(t, db)
}

// The directory of a new store survives a crash as soon as something in it is
// acknowledged.
func TestOpenSyncsParentDirectory(t *testing.T) {
	o := memOptions()
	fs := vfs.NewCrashableMem()
	o.FS = fs
	db, err := Open("a/b/db", o)
	check(t, err)
	mustTable(t, db, "t")
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	db2, err := Open("a/b/db", o)
	check(t, err)
	if got := db2.Tables(); len(got) != 1 {
		t.Fatalf("tables %v", got)
	}
	mustClose(t, db2)
	mustClose(t, db)
}

// Versions that Settle has dropped and no copy has left out yet are no versions
// to the checker.
func TestCheckPassesOverDroppedVersions(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	_, err := tx.GetForUpdate(tb, []byte("lock"))
	wantErr(t, "lock of an absent record", err, ErrNotFound)
	commit(t, tx)
	tx = mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", string(value(1, 8000)))
	put(t, tx, tb, "l", string(value(1, 8000)))
	checkStore(t, db)
	rollback(t, tx)
	mustClose(t, db)
}

// Versions that were rolled back to a savepoint, seen by a settling of their
// leaf, and written again are live versions: the commit takes them along (P6).
func TestRewriteAfterRollbackToIsCommitted(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 5000
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "first", string(value(0, 6000))) // makes it large
	backlogAll(t, db)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "l", "small") })
	sp, err := tx.Savepoint()
	check(t, err)
	for i := range 40 {
		put(t, tx, tb, fmt.Sprintf("k%02d", i), "dead")
	}
	check(t, tx.RollbackTo(sp))
	other := mustBegin(t, db, TxOptions{})
	put(t, other, tb, "x", string(value(0, 4000))) // the page grows, so it is settled
	rollback(t, other)
	for i := range 40 {
		put(t, tx, tb, fmt.Sprintf("k%02d", i), string(value(i, 30)))
	}
	commit(t, tx)
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k07", string(value(7, 30))) })
	mustClose(t, db)
	db = mustOpen(t, o)
	inView(t, db, func(tx *Tx) {
		tb := mustTable(t, db, "t")
		for i := range 40 {
			gets(t, tx, tb, fmt.Sprintf("k%02d", i), string(value(i, 30)))
		}
	})
	mustClose(t, db)
}

// What a doomed run had not written yet gives its buffer room back even while
// somebody holds the run: the holder may be the one who waits for room (M7).
func TestDoomedRunGivesBufferBack(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for i := range 20 {
		put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i, 100)))
	}
	backlogAll(t, db)
	run := db.temps.Lookup(txnOf(t, db)).Runs()[0]
	if !db.space.Acquire(run) { // as Merge does while it waits
		t.Fatal("the run is gone")
	}
	rollback(t, tx)
	waitSwept(t, db)
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := db.space.ReserveBuffer(short, 1<<20); err != nil {
		t.Errorf("room for a merge: %v", err)
	} else {
		db.space.UnreserveBuffer(1 << 20)
	}
	db.space.Release(run)
	mustClose(t, db)
}

// However often a leaf is backlogged, its list of frames stays within record
// memory (M1), and so does recovery.
func TestListOfFramesIsBounded(t *testing.T) {
	o := tinyOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	patience, cancel := context.WithTimeout(ctx, 5*time.Minute) // against hanging, not against being slow
	defer cancel()
	for i := range 3000 {
		tx, err := db.Begin(patience, TxOptions{NoSync: true})
		check(t, err)
		for j := range 10 {
			put(t, tx, tb, fmt.Sprintf("k%06d", (i*10+j)*7919%4000), string(value(i, 80)))
		}
		commit(t, tx)
		evictAll(t, db)
	}
	t.Log("\n" + db.Metrics().String())
	checkStore(t, db)
	check(t, db.Sync())
	atEachCrash(t, o, fs, func(*testing.T, *DB, *Options) {})
	mustClose(t, db)
}

// Dead intervals that do not fit into the commit record survive a crash, even if
// a checkpoint passes the groups that hold them before the commit is written.
func TestSpilledDeadIntervalsSurvive(t *testing.T) {
	for _, checkpoint := range []bool{false, true} {
		t.Run(fmt.Sprint("checkpoint=", checkpoint), func(t *testing.T) {
			o := memOptions()
			o.LogSegmentSize, o.ChillThreshold = 64<<10, 1
			fs := newCrashFS(t)
			h := &hookFS{FS: fs}
			o.FS = h
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			tx := mustBegin(t, db, TxOptions{})
			for i := range 3000 {
				sp, err := tx.Savepoint()
				check(t, err)
				put(t, tx, tb, fmt.Sprintf("dead%04d", i), "x")
				put(t, tx, tb, "k", "dead")
				if i%500 == 0 {
					evictAll(t, db)
				}
				check(t, tx.RollbackTo(sp))
				check(t, tx.Release(sp))
				put(t, tx, tb, "k", "live")
			}
			backlogAll(t, db)
			put(t, tx, tb, "last", "y")
			if checkpoint {
				hook := func() { // between the groups and the commit record
					done := make(chan struct{})
					go func() {
						defer close(done)
						for i := range 3 {
							other, err := db.Begin(ctx, TxOptions{})
							check2(t, err)
							check2(t, other.Put(tb, []byte("other"), value(i, 100)))
							check2(t, other.Commit())
							check2(t, db.Checkpoint(ctx))
						}
					}()
					<-done
				}
				h.hook.Store(&hook)
			}
			commit(t, tx)
			if h.hook.Load() != nil {
				t.Fatal("the hook was not called")
			}
			o.FS = fs
			atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
				inView(t, db, func(tx *Tx) {
					tb := mustTable(t, db, "t")
					want := []string{"k", "live", "last", "y"}
					if checkpoint {
						want = append(want, "other", string(value(2, 100)))
					}
					wantKV(t, tx, tb, want...)
				})
			})
			mustClose(t, db)
		})
	}
}

// A reader looks an entry of the leaf map up, and before it asks for the owners in
// it one of them is rolled back, swept and forgotten. The reader found an owner
// that nobody knew and reported corruption. Now it asks again.
func TestOwnerForgottenUnderLookup(t *testing.T) {
	for _, how := range []string{"get", "scan", "put"} {
		t.Run(how, func(t *testing.T) {
			db := mustOpen(t, tinyOptions())
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 300, 100) })
			tx := mustBegin(t, db, TxOptions{})
			for i := range 300 {
				put(t, tx, tb, fmt.Sprintf("k%06d", i), "temporary")
			}
			evictAll(t, db)
			done := false
			db.cache.AfterLookup = func() {
				if done {
					return
				}
				done = true
				rollback(t, tx)
				waitSwept(t, db)
				check(t, db.Checkpoint(ctx))
				check(t, db.Checkpoint(ctx))
			}
			inUpdate(t, db, func(tx *Tx) {
				switch how {
				case "get":
					if v, err := tx.Get(tb, []byte("k000007")); err != nil || string(v) != string(value(7, 100)) {
						t.Errorf("get: %.20q, %v", v, err)
					}
				case "scan":
					wantRows(t, tx, tb, 0, 300, 100)
				case "put":
					put(t, tx, tb, "k000007", string(value(7, 100)))
				}
			})
			if !done {
				t.Error("nothing was looked up")
			}
			db.cache.AfterLookup = nil
			inView(t, db, func(tx *Tx) { wantRows(t, tx, tb, 0, 300, 100) })
			mustClose(t, db)
		})
	}
}
