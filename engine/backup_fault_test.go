package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// backupSubject returns a store with a bit of everything in it and what a backup
// of it must contain.
func backupSubject(t *testing.T, o *Options) (db *DB, finish func(db *DB)) {
	t.Helper()
	db = mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 400, 100) })
	check(t, db.Checkpoint(ctx))
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 400, 500, 100) })
	live := mustBegin(t, db, TxOptions{})
	fillRows(t, live, tb, 600, 900, 100)
	backlogAll(t, db)
	return db, func(db *DB) {
		rollback(t, live)
		mustClose(t, db)
	}
}

// A failure at each write into the backup, links that become copies included:
// nothing is left of it, nothing is held, the store is not harmed.
func TestBackupFailureAtEveryWrite(t *testing.T) {
	for _, link := range []bool{true, false} {
		for n := int64(1); ; n++ {
			o := memOptions()
			o.LogSegmentSize = 64 << 10
			mem := o.FS
			var count atomic.Int64
			var armed, hit atomic.Bool
			o.FS = backupFS(mem, func(op errorfs.Op) error {
				if op.Kind == errorfs.OpLink && !link {
					return errors.New("file systems differ")
				}
				if armed.Load() && count.Add(1) == n {
					hit.Store(true)
					return errorfs.ErrInjected
				}
				return nil
			})
			db, finish := backupSubject(t, o)
			armed.Store(true)
			err := db.Backup(ctx, "backup")
			armed.Store(false)
			if !hit.Load() {
				check(t, err)
				if n < 20 {
					t.Fatalf("%d writes only: is this a backup?", n)
				}
				finish(db)
				break
			}
			if f := db.failed(); f != nil {
				t.Fatalf("write %d: the store is poisoned: %v", n, f)
			}
			if err != nil {
				wantErr(t, fmt.Sprint("write ", n), err, errorfs.ErrInjected)
				wantNothing(t, mem, "backup")
				check(t, db.Backup(ctx, "backup"))
			}
			if n%8 == 0 {
				wantReleased(t, db)
			}
			finish(db)
			o.FS = mem
			openBackup(t, o, "backup", func(b *DB) {
				inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 500, 100) })
			})
		}
	}
}

// Canceled, and closed, at each write: as above.
func TestBackupCanceledAtEveryWrite(t *testing.T) {
	for _, closing := range []bool{false, true} {
		for n, done := int64(1), false; !done; n += 3 {
			o := memOptions()
			o.LogSegmentSize = 64 << 10
			mem := o.FS
			var count atomic.Int64
			var db *DB
			var wg sync.WaitGroup
			cctx, cancel := context.WithCancel(ctx)
			o.FS = backupFS(mem, func(errorfs.Op) error {
				if count.Add(1) != n {
					return nil
				}
				if !closing {
					cancel()
					return nil
				}
				wg.Go(func() { _ = db.Close() })
				for shut := false; !shut; { // until Close waits for the backup
					db.gate.mu.Lock()
					shut = db.gate.shut
					db.gate.mu.Unlock()
				}
				return nil
			})
			var finish func(*DB)
			db, finish = backupSubject(t, o)
			err := db.Backup(cctx, "backup")
			cancel()
			wg.Wait()
			want := context.Canceled
			if closing {
				want = ErrClosed
			}
			if err == nil { // the last writes are those of FORMAT
				done = count.Load() < n
				if _, serr := mem.Stat("backup/FORMAT"); serr != nil {
					t.Fatalf("write %d: %v", n, serr)
				}
			} else {
				wantErr(t, fmt.Sprint("write ", n), err, want)
				wantNothing(t, mem, "backup")
			}
			if !closing || done {
				finish(db)
			}
		}
	}
}

// A crash at each write into the backup: the store opens as ever; what is in the
// directory of the backup opens as a complete store or not at all.
func TestBackupCrashAtEveryWrite(t *testing.T) {
	fs := newCrashFS(t)
	o := memOptions()
	o.LogSegmentSize = 64 << 10
	rng := rand.New(rand.NewPCG(3, 3))
	type point struct {
		fs *vfs.MemFS
		op string
	}
	var armed atomic.Bool
	var points []point
	take := func(op string) {
		for _, percent := range []int{0, 50, 100} {
			points = append(points, point{fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), op})
		}
	}
	o.FS = backupFS(fs, func(op errorfs.Op) error {
		if armed.Load() {
			take(fmt.Sprintf("%d %s", op.Kind, op.Path))
		}
		return nil
	})
	db, finish := backupSubject(t, o)
	armed.Store(true)
	check(t, db.Backup(ctx, "backup"))
	armed.Store(false)
	complete := len(points)
	take("end")
	finish(db)
	opened := 0
	for i, p := range points {
		c := *o
		c.FS = p.fs
		if i%5 == 0 || i >= complete {
			db := mustOpen(t, &c)
			inView(t, db, func(tx *Tx) { wantRows(t, tx, mustTable(t, db, "t"), 0, 500, 100) })
			mustClose(t, db)
		}
		if names, err := c.FS.List("backup"); err != nil || len(names) == 0 || len(names) == 1 && names[0] == lockName {
			continue // an empty directory is an empty store
		}
		b, err := Open("backup", &c)
		if err != nil {
			if ce := (*CorruptionError)(nil); i >= complete || !errors.As(err, &ce) || ce.File != formatName {
				t.Fatalf("crash before %s: %v", p.op, err)
			}
			continue
		}
		opened++
		checkStore(t, b)
		inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 500, 100) })
		mustClose(t, b)
	}
	if opened < 3 {
		t.Errorf("%d of %d copies opened", opened, len(points))
	}
}
