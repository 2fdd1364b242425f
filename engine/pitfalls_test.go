package engine

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// One test for each way in which the design goes wrong first (design §8).

// Collecting files before replay: the runs of a bulk transaction that only the
// commit record names survive two recoveries (L11).
func TestPitfallFilesCollectedBeforeReplay(t *testing.T) {
	o := tinyOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	check(t, db.Checkpoint(ctx))
	lost := mustBegin(t, db, TxOptions{}) // its runs are to go
	for i := range 3000 {
		put(t, lost, tb, fmt.Sprintf("x%06d", i), string(value(i, 100)))
	}
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 15000, 100)
	commit(t, tx)
	atEachCrash(t, o, fs, func(t *testing.T, db *DB, o *Options) {
		inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 15000, 100) })
		atEachCrash(t, o, memFS(o.FS), func(t *testing.T, db *DB, _ *Options) {
			inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 15000, 100) })
		})
		check(t, db.Checkpoint(ctx))
		files, err := o.FS.List("db/space/runs")
		check(t, err)
		if m := db.Metrics(); len(files) > 2*int(m.Runs)+2 {
			t.Errorf("%d run files for %d runs", len(files), m.Runs)
		}
	})
	rollback(t, lost)
	mustClose(t, db)
}

// Editing the map from several goroutines: leaves are split, framed, merged and
// collapsed side by side; any prefix of the edits is a map (L10).
func TestPitfallMapEditedFromSeveralGoroutines(t *testing.T) {
	o := tinyOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	c := newCrew()
	defer c.stop()
	var done [2]atomic.Int64
	for g := range 2 {
		c.repeat(func(i int) {
			tx := mustBegin(t, db, TxOptions{})
			for j := range 60 {
				put(t, tx, tb, fmt.Sprintf("k%06d", (i*61+j*17)%2000*2+g), fmt.Sprintf("%d %s", i, value(j, 80)))
			}
			put(t, tx, tb, fmt.Sprintf("n%d", g), fmt.Sprint(i))
			commit(t, tx)
			done[g].Store(int64(i))
		})
	}
	c.repeat(func(int) { evictAll(t, db) })
	c.repeat(func(i int) { mergeAt(t, db, tb, fmt.Appendf(nil, "k%06d", i*37%4000)) })
	c.repeat(func(int) { check(t, db.Checkpoint(ctx)) })
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range 9 {
		enough := done[0].Load() + done[1].Load() + 20
		eventually(t, "work", func() bool { return done[0].Load()+done[1].Load() >= enough })
		want := [2]int64{done[0].Load(), done[1].Load()}
		clone := *o
		clone.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: i % 3 * 50, RNG: rng})
		db2 := mustOpen(t, &clone)
		checkStore(t, db2)
		inView(t, db2, func(tx *Tx) {
			tb := mustTable(t, db2, "t")
			all(t, tx, tb)
			for g, n := range want {
				v, err := tx.Get(tb, fmt.Appendf(nil, "n%d", g))
				got := int64(-1)
				if err == nil {
					_, err = fmt.Sscan(string(v), &got)
					check(t, err)
				}
				if n > 0 && got < n {
					t.Errorf("writer %d: transaction %d is missing, have %d", g, n, got)
				}
			}
		})
		mustClose(t, db2)
	}
	c.stop()
	mustClose(t, db)
}

// Unlink at count zero before the flush: the map on disk still names the runs
// that merges emptied (L10).
func TestPitfallUnlinkBeforeFlush(t *testing.T) {
	o := tinyOptions()
	o.RunSize = 64 << 10
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 2000, 100) })
	check(t, db.Checkpoint(ctx)) // the map on disk names the runs of the fill
	runs := db.Metrics().Runs
	for round := range 6 {
		inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 2000, 100+round) })
		evictAll(t, db)
		for i := 0; i < 2000; i += 20 {
			mergeAt(t, db, tb, fmt.Appendf(nil, "k%06d", i))
		}
		atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
			inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 2000, 100+round) })
		})
	}
	check(t, db.Checkpoint(ctx))
	check(t, db.Checkpoint(ctx))
	if now := db.Metrics().Runs; now > 4*runs+8 {
		t.Errorf("%d runs grew to %d: emptied runs are not unlinked", runs, now)
	}
	mustClose(t, db)
}

// P read after the images: what is committed while a checkpoint writes is not
// covered by its position (L6). A leaf marked clean as of installing: what is
// written to a leaf between capture and installation is written by the next one.
func TestPitfallCommitDuringCheckpoint(t *testing.T) {
	for _, second := range []bool{false, true} {
		t.Run(fmt.Sprint("second checkpoint=", second), func(t *testing.T) {
			o := memOptions()
			o.LogLimit = 64 << 20 // nobody waits for the checkpoint
			fs := newCrashFS(t)
			h := &hookFS{FS: fs}
			o.FS = h
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 1000, 100) })
			// More than buffers hold, behind the rows that matter: the first frame
			// is written while the checkpoint still walks.
			more := mustTable(t, db, "more")
			inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, more, 0, 20000, 100) })
			during(t, h, db, func() {
				inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 1000, 50) })
			})
			if second {
				check(t, db.Checkpoint(ctx))
			}
			o.FS = fs
			atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
				inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 1000, 50) })
			})
			inView(t, db, func(tx *Tx) { wantRows(t, tx, tb, 0, 1000, 50) })
			mustClose(t, db)
		})
	}
}

// The first hit of a list returned: recovery may list frames of one transaction
// in any order; the newest version is the answer (P1).
func TestPitfallFirstHitOfAList(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	for _, v := range []string{"a", "b", "c", "d"} {
		_, err := tx.Savepoint()
		check(t, err)
		for i := range 20 {
			put(t, tx, tb, fmt.Sprintf("k%02d", i), v)
		}
		if v == "c" {
			del(t, tx, tb, "k07")
		}
		if v == "d" {
			del(t, tx, tb, "k08")
		}
		evictAll(t, db)
	}
	commit(t, tx)
	want := func(t *testing.T, tx *Tx, tb *Table) {
		t.Helper()
		gets(t, tx, tb, "k03", "d")
		gets(t, tx, tb, "k07", "d")
		gets(t, tx, tb, "k08", "")
		if n := len(all(t, tx, tb)); n != 19 {
			t.Fatalf("%d rows", n)
		}
	}
	inView(t, db, func(tx *Tx) { want(t, tx, tb) })
	atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
		tb := mustTable(t, db, "t")
		inView(t, db, func(tx *Tx) { want(t, tx, tb) })
		mergeAt(t, db, tb, []byte("k00"))
		inView(t, db, func(tx *Tx) { want(t, tx, tb) })
	})
	mustClose(t, db)
}

// Tombstones or locks dropped from images and filters (P5, S3).
func TestPitfallTombstonesAndLocksInFrames(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 100, 50) })
	evictAll(t, db)
	old := mustBegin(t, db, TxOptions{}) // keeps the rows alive below the tombstones
	inUpdate(t, db, func(tx *Tx) {
		for i := 0; i < 100; i += 2 {
			del(t, tx, tb, fmt.Sprintf("k%06d", i))
		}
	})
	evictAll(t, db)
	odd := func(what string) {
		t.Helper()
		inView(t, db, func(tx *Tx) {
			gets(t, tx, tb, "k000040", "")
			gets(t, tx, tb, "k000041", string(value(41, 50)))
			if n := len(all(t, tx, tb)); n != 50 {
				t.Fatalf("%s: %d rows", what, n)
			}
		})
	}
	odd("in frames")
	for range 3 {
		mergeAt(t, db, tb, []byte("k000000"))
		check(t, db.Checkpoint(ctx))
	}
	odd("merged")
	wantRows(t, old, tb, 0, 100, 50)
	wantErr(t, "insert over a newer tombstone", old.Insert(tb, []byte("k000040"), nil), ErrConflict)
	rollback(t, old)
	for range 3 {
		mergeAt(t, db, tb, []byte("k000000"))
		evictAll(t, db)
	}
	odd("merged without readers")

	// A lock in a frame holds, and conflicts once committed.
	older := mustBegin(t, db, TxOptions{})
	locker := mustBegin(t, db, TxOptions{})
	for i := range 20 {
		_, err := locker.GetForUpdate(tb, fmt.Appendf(nil, "k%06d", i))
		if err != nil && i%2 == 1 {
			t.Fatal(err)
		}
	}
	evictAll(t, db)
	c := &switchCtx{Context: ctx}
	waiter, err := db.Begin(c, TxOptions{})
	check(t, err)
	for _, key := range []string{"k000004", "k000005"} {
		err := c.impatiently(func() error { return waiter.Put(tb, []byte(key), nil) })
		wantErr(t, "put of a locked "+key, err, context.Canceled)
	}
	commit(t, locker)
	evictAll(t, db)
	mergeAt(t, db, tb, []byte("k000000"))
	for _, key := range []string{"k000004", "k000005"} {
		wantErr(t, "put after a newer lock of "+key, older.Put(tb, []byte(key), nil), ErrConflict)
	}
	odd("after locks")
	rollback(t, older)
	rollback(t, waiter)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k000004", "free") })
	mustClose(t, db)
}

// Only the newest row kept when merging under savepoints (P8).
func TestPitfallMergeUnderSavepoints(t *testing.T) {
	for _, merge := range []bool{false, true} {
		t.Run(fmt.Sprint("merge=", merge), func(t *testing.T) {
			o := memOptions()
			o.ChillThreshold = 1
			fs := newCrashFS(t)
			o.FS = fs
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			tx := mustBegin(t, db, TxOptions{})
			var sps []Savepoint
			const depth = 12 // more than a leaf lists without a merge
			set := func(v string) {
				for i := range 10 {
					put(t, tx, tb, fmt.Sprintf("k%d", i), v)
				}
				evictAll(t, db)
				if merge {
					mergeAt(t, db, tb, []byte("k0"))
				}
			}
			for d := range depth {
				set(fmt.Sprint(d))
				set(fmt.Sprint(d, " again"))
				sp, err := tx.Savepoint()
				check(t, err)
				sps = append(sps, sp)
			}
			for d := depth - 1; d >= 3; d-- {
				check(t, tx.RollbackTo(sps[d]))
				gets(t, tx, tb, "k4", fmt.Sprint(d, " again"))
				if d%3 == 0 {
					set("tried and undone")
					check(t, tx.RollbackTo(sps[d]))
					gets(t, tx, tb, "k4", fmt.Sprint(d, " again"))
				}
				if d%4 == 1 {
					check(t, tx.Release(sps[d]))
				}
			}
			commit(t, tx)
			atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
				inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "k4", "3 again") })
			})
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k4", "3 again") })
			mustClose(t, db)
		})
	}
}

// A shared frame's rows returned by both halves of a split (P4).
func TestPitfallSharedFrame(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range 60 {
			put(t, tx, tb, fmt.Sprintf("k%05d", i*100), "shared")
		}
	})
	evictAll(t, db)
	n := 60
	want := func(what string) {
		t.Helper()
		inView(t, db, func(tx *Tx) {
			if got := len(all(t, tx, tb)); got != n {
				t.Fatalf("%s: %d rows, want %d", what, got, n)
			}
			for i := 0; i < 6000; i += 700 {
				from := fmt.Sprintf("k%05d", i)
				k := 0
				for row, err := range tx.Scan(tb, Range{From: []byte(from), Limit: 5}) {
					check(t, err)
					if k++; string(row.Key) < from {
						t.Fatalf("%s: scan from %s found %s", what, from, row.Key)
					}
				}
			}
		})
	}
	for round := range 4 {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 400 {
				put(t, tx, tb, fmt.Sprintf("k%05d", i*13+round+1), string(value(i, 200)))
			}
		})
		inView(t, db, func(tx *Tx) { n = len(all(t, tx, tb)) })
		keys := map[string]bool{}
		for i := range 60 {
			keys[fmt.Sprintf("k%05d", i*100)] = true
		}
		for r := range round + 1 {
			for i := range 400 {
				keys[fmt.Sprintf("k%05d", i*13+r+1)] = true
			}
		}
		n = len(keys)
		want("split")
		evictAll(t, db)
		want("evicted")
		for i := 0; i < 6000; i += 50 {
			mergeAt(t, db, tb, fmt.Appendf(nil, "k%05d", i))
		}
		want("merged")
		collapseAll(db)
		want("collapsed")
	}
	if db.Metrics().LeafSplits == 0 {
		t.Fatal("no leaf was split")
	}
	mustClose(t, db)
}

// A recycled buffer that a reader still holds: frames are read while they are
// written out and their chunks go back to the pool.
func TestPitfallRecycledBuffer(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	var committed atomic.Int64
	c := newCrew()
	defer c.stop()
	for g := range 2 {
		rng := rand.New(rand.NewPCG(uint64(g), 1))
		c.repeat(func(int) {
			n := int(committed.Load())
			if n == 0 {
				return
			}
			inView(t, db, func(tx *Tx) {
				for range 50 {
					i := n - 1 - rng.IntN(min(n, 600))
					v, err := tx.Get(tb, fmt.Appendf(nil, "k%06d", i))
					if err != nil || !bytes.Equal(v, value(i, 150)) {
						t.Errorf("row %d: %.40q %v", i, v, err)
						return
					}
				}
			})
		})
	}
	for n := 0; n < 12000; n += 200 {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		fillRows(t, tx, tb, n, n+200, 150)
		commit(t, tx)
		committed.Store(int64(n + 200))
	}
	c.stop()
	mustClose(t, db)
}

// A cold row trusted after a bulk commit (P7).
func TestPitfallColdRowAfterBulkCommit(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 1
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 2000, 60) })
	evictAll(t, db)
	read := func(tx *Tx, v int) {
		t.Helper()
		for range 4 { // offers the row to the cache, finds it there
			for i := 0; i < 2000; i += 490 { // few of a leaf, or its frame becomes resident
				want := value(i, 60)
				if v > 0 {
					want = fmt.Appendf(nil, "version %d", v)
				}
				got, err := tx.Get(tb, fmt.Appendf(nil, "k%06d", i))
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("row %d: %.40q %v, want %.40q", i, got, err, want)
				}
			}
			db.cache.SettleCold()
		}
	}
	inView(t, db, func(tx *Tx) { read(tx, 0) })
	var olds []*Tx
	for v := 1; v <= 3; v++ {
		olds = append(olds, mustBegin(t, db, TxOptions{ReadOnly: true}))
		tx := mustBegin(t, db, TxOptions{})
		for i := range 2000 {
			put(t, tx, tb, fmt.Sprintf("k%06d", i), fmt.Sprintf("version %d", v))
		}
		evictAll(t, db)
		read(tx, v)
		inView(t, db, func(tx *Tx) { read(tx, v-1) })
		commit(t, tx)
		inView(t, db, func(tx *Tx) { read(tx, v) })
		for i, old := range olds {
			read(old, i)
		}
	}
	if db.Metrics().ColdRowHits == 0 {
		t.Error("no cold row was found")
	}
	for _, old := range olds {
		rollback(t, old)
	}
	mustClose(t, db)
}

// A gap installed from a stale map read: leaves come and go while they are read
// and written.
func TestPitfallStaleGap(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 0
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const keys = 400
	inUpdate(t, db, func(tx *Tx) {
		for i := range keys {
			put(t, tx, tb, fmt.Sprintf("k%06d", i), "0")
		}
	})
	var total, scans atomic.Int64
	c := newCrew()
	defer c.stop()
	for range 2 {
		rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
		c.repeat(func(int) { // increments are never lost
			check(t, db.Update(ctx, func(tx *Tx) error {
				for range 5 {
					key := fmt.Appendf(nil, "k%06d", rng.IntN(keys))
					v, err := tx.GetForUpdate(tb, key)
					if err != nil {
						return err
					}
					var n int
					if _, err := fmt.Sscan(string(v), &n); err != nil {
						return err
					}
					if err := tx.Put(tb, key, fmt.Append(nil, n+1)); err != nil {
						return err
					}
				}
				return nil
			}))
			total.Add(5)
		})
	}
	c.repeat(func(int) {
		inView(t, db, func(tx *Tx) {
			if n := len(all(t, tx, tb)); n != keys {
				t.Errorf("%d rows", n)
			}
		})
		scans.Add(1)
	})
	c.repeat(func(int) { evictAll(t, db) })
	c.repeat(func(i int) { mergeAt(t, db, tb, fmt.Appendf(nil, "k%06d", i*37%keys)) })
	eventually(t, "work", func() bool { return total.Load() >= 20000 && scans.Load() >= 200 })
	c.stop()
	sum := 0
	inView(t, db, func(tx *Tx) {
		for row, err := range tx.Scan(tb, Range{}) {
			check(t, err)
			var n int
			_, err := fmt.Sscan(string(row.Value), &n)
			check(t, err)
			sum += n
		}
	})
	if int64(sum) != total.Load() {
		t.Fatalf("the sum is %d, %d increments were committed", sum, total.Load())
	}
	mustClose(t, db)
}

// Pebble closed without Flush: after a clean close everything is in the files.
func TestPitfallCloseWithoutFlush(t *testing.T) {
	o := memOptions()
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 3000, 100) })
	mustClose(t, db)
	var info RecoveryInfo
	o.Events = &EventListener{Recovered: func(i RecoveryInfo) { info = i }}
	atEachCrash(t, o, fs, func(t *testing.T, db *DB, _ *Options) {
		if info.Rows != 0 || info.Transactions != 0 {
			t.Errorf("recovery replayed %+v", info)
		}
		inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 3000, 100) })
	})
}
