package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// backupFS calls fn before each operation that writes into a backup, links
// included. What fn returns is injected.
func backupFS(fs vfs.FS, fn func(op errorfs.Op) error) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		ours := strings.HasPrefix(op.Path, "backup") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
		if ours && op.Kind != errorfs.OpFileClose || op.Kind == errorfs.OpLink {
			return fn(op)
		}
		return nil
	}))
}

// openBackup opens the copy, checks it, and gives it to fn.
func openBackup(t *testing.T, o *Options, dir string, fn func(db *DB)) {
	t.Helper()
	db, err := Open(dir, o)
	if err != nil {
		t.Fatalf("open backup: %v", err)
	}
	checkStore(t, db)
	fn(db)
	mustClose(t, db)
}

// wantNothing fails if the directory has anything in it.
func wantNothing(t *testing.T, fs vfs.FS, dir string) {
	t.Helper()
	if names, err := fs.List(dir); err == nil && len(names) > 0 {
		t.Fatalf("%s holds %v", dir, names)
	}
}

// wantReleased fails if a backup still holds files back: a run that nothing
// lists goes, and log segments are reused.
func wantReleased(t *testing.T, db *DB) {
	t.Helper()
	tx := mustBegin(t, db, TxOptions{})
	tb := mustTable(t, db, "released")
	for i := range 300 {
		put(t, tx, tb, fmt.Sprintf("k%03d", i), string(value(i, 100)))
	}
	backlogAll(t, db)
	var newest base.TxnID
	db.reg.Each(func(o *versionchain.Outcome) { newest = max(newest, o.ID) })
	runs := db.temps.Lookup(newest).Runs()
	rollback(t, tx)
	waitSwept(t, db)
	if len(runs) == 0 || db.space.Find(runs[0]) != nil {
		t.Fatal("the run of a rolled back transaction is not unlinked: a hold was left")
	}
	first := db.log.Files()[0]
	for range 3 {
		for i := range 300 {
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", string(value(i, 1000))) })
		}
		check(t, db.Checkpoint(ctx))
	}
	if db.log.Files()[0] == first {
		t.Fatal("the log is not reused: a hold was left")
	}
}

// The copy of a store at rest has the same rows, and lives its own life.
func TestBackup(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 64 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 5000, 100)
	commit(t, tx)
	check(t, db.Checkpoint(ctx))
	tx = mustBegin(t, db, TxOptions{NoSync: true})
	fillRows(t, tx, tb, 5000, 5100, 100)
	commit(t, tx)
	mustTable(t, db, "gone")
	check(t, db.DropTable(ctx, "gone"))
	check(t, db.Backup(ctx, "backup/deep"))
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 5100, 5200, 100) })
	wantReleased(t, db)

	openBackup(t, o, "backup/deep", func(b *DB) { // beside the original
		inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 5100, 100) })
		if _, err := b.Table("gone"); !errors.Is(err, ErrTableNotFound) {
			t.Errorf("dropped table: %v", err)
		}
		inUpdate(t, b, func(tx *Tx) { fillRows(t, tx, mustTable(t, b, "t"), 5100, 9000, 50) })
		check(t, b.Checkpoint(ctx))
		check(t, b.Backup(ctx, "backup/of backup"))
	})
	inView(t, db, func(tx *Tx) { wantRows(t, tx, tb, 0, 5200, 100) })
	mustClose(t, db)
	openBackup(t, o, "backup/of backup", func(b *DB) {
		inView(t, b, func(tx *Tx) {
			if n := len(all(t, tx, mustTable(t, b, "t"))); n != 9000 {
				t.Errorf("%d rows", n)
			}
		})
	})
}

// A directory that is in use is refused, and stays as it is.
func TestBackupExists(t *testing.T) {
	o := memOptions()
	fs := o.FS
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	f, err := fs.Create("file", vfs.WriteCategoryUnspecified)
	check(t, err)
	check(t, f.Close())
	check(t, fs.MkdirAll("full/x", 0o755))
	check(t, fs.MkdirAll("empty", 0o755))
	wantErr(t, "file", db.Backup(ctx, "file"), ErrBackupExists)
	wantErr(t, "directory with something in it", db.Backup(ctx, "full"), ErrBackupExists)
	wantErr(t, "the store itself", db.Backup(ctx, "db"), ErrBackupExists)
	check(t, db.Backup(ctx, "empty"))
	wantErr(t, "second time", db.Backup(ctx, "empty"), ErrBackupExists)
	wantErr(t, "canceled", db.Backup(canceled, "other"), context.Canceled)
	if names, err := fs.List("full"); err != nil || len(names) != 1 {
		t.Errorf("full: %v %v", names, err)
	}
	if _, err := fs.Stat("other"); err == nil {
		t.Error("a backup that was canceled before it began made its directory")
	}
	mustClose(t, db)
	wantErr(t, "closed", db.Backup(ctx, "other"), ErrClosed)
	openBackup(t, o, "empty", func(b *DB) {
		inView(t, b, func(tx *Tx) { gets(t, tx, mustTable(t, b, "t"), "k", "v") })
	})
}

// Two backups into one directory: one wins, the other is refused.
func TestBackupTwice(t *testing.T) {
	o := memOptions()
	var db *DB
	var second error
	var once sync.Once
	o.FS = backupFS(o.FS, func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			once.Do(func() { second = db.Backup(ctx, "backup") })
		}
		return nil
	})
	db = mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 100, 100) })
	check(t, db.Backup(ctx, "backup"))
	wantErr(t, "second", second, ErrBackupExists)
	mustClose(t, db)
	openBackup(t, o, "backup", func(b *DB) {
		inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 100, 100) })
	})
}

// A bulk transaction is in flight: the copy has neither its rows nor its temp
// table. Its commit between two steps of the backup is in the copy whole, or not.
func TestBackupOfBulkTransaction(t *testing.T) {
	o := tinyOptions()
	mem := o.FS
	var hook atomic.Pointer[func()]
	o.FS = backupFS(mem, func(errorfs.Op) error {
		if fn := hook.Swap(nil); fn != nil {
			(*fn)()
		}
		return nil
	})
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 3000, 100) })
	bulk := mustBegin(t, db, TxOptions{})
	fillRows(t, bulk, tb, 1000, 9000, 80) // replaces some
	live := db.temps.Lookup(txnOf(t, db)).Runs()
	if len(live) == 0 {
		t.Fatal("no temp table")
	}
	check(t, db.Backup(ctx, "backup1"))
	for _, id := range live {
		if _, err := mem.Stat(fmt.Sprintf("backup1/space/runs/%016x.run", uint64(id))); err == nil {
			t.Error("the copy has a run of a transaction that had not committed")
		}
	}
	step := func() { commit(t, bulk) }
	hook.Store(&step)
	check(t, db.Backup(ctx, "backup2"))
	check(t, db.Backup(ctx, "backup3"))
	mustClose(t, db)
	o.FS = mem
	openBackup(t, o, "backup1", func(b *DB) {
		inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 3000, 100) })
	})
	for _, dir := range []string{"backup2", "backup3"} {
		openBackup(t, o, dir, func(b *DB) {
			inView(t, b, func(tx *Tx) {
				tb := mustTable(t, b, "t")
				rows := all(t, tx, tb)
				if len(rows) != 9000 && (len(rows) != 3000 || dir == "backup3") {
					t.Fatalf("%s: %d rows", dir, len(rows))
				}
				want := string(value(2000, 100))
				if len(rows) == 9000 {
					want = string(value(2000, 80))
				}
				gets(t, tx, tb, "k002000", want)
			})
		})
	}
}

// 64 goroutines commit while backups are made. Each copy has all that was
// acknowledged before its backup began, nothing torn, and if it has a transaction
// then also those which that one had read.
func TestBackupUnderLoad(t *testing.T) {
	o := memOptions()
	o.ChillThreshold = 16 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	const writers = 64
	var acked, started [writers]atomic.Int64
	c := newCrew()
	defer c.stop()
	for g := range writers {
		c.repeat(func(i int) {
			n := i + 1
			started[g].Store(int64(n))
			tx := mustBegin(t, db, TxOptions{NoSync: n%3 == 0})
			for part := range 3 { // they must agree
				put(t, tx, tb, fmt.Sprintf("%d/g%02d", part, g), fmt.Sprintf("%d %s", n, value(n, 100+n%7*100)))
			}
			// What a neighbour had committed when this one began is before it.
			if v, err := tx.Get(tb, fmt.Appendf(nil, "1/g%02d", (g+1)%writers)); err == nil {
				put(t, tx, tb, fmt.Sprintf("saw/g%02d", g), string(v))
			}
			commit(t, tx)
			acked[g].Store(int64(n))
		})
	}
	const backups = 4
	var lo, hi [backups][writers]int64
	for i := range backups {
		for until := acked[0].Load() + 20; acked[0].Load() < until; {
			check(t, db.Sync()) // let them get on
		}
		for g := range writers {
			lo[i][g] = acked[g].Load()
		}
		if i == 2 {
			go func() { _ = db.Checkpoint(ctx) }()
		}
		check(t, db.Backup(ctx, fmt.Sprintf("backup%d", i)))
		for g := range writers {
			hi[i][g] = started[g].Load()
		}
	}
	c.stop()
	mustClose(t, db)
	for i := range backups {
		openBackup(t, o, fmt.Sprintf("backup%d", i), func(b *DB) {
			inView(t, b, func(tx *Tx) { wantLoad(t, tx, mustTable(t, b, "t"), lo[i][:], hi[i][:]) })
		})
	}
}

// wantLoad checks one copy of TestBackupUnderLoad.
func wantLoad(t *testing.T, tx *Tx, tb *Table, lo, hi []int64) {
	t.Helper()
	number := func(v string) (n int64) {
		if v != "" {
			_, err := fmt.Sscan(v, &n)
			check(t, err)
		}
		return n
	}
	rows := map[string]string{}
	for row, err := range tx.Scan(tb, Range{}) {
		check(t, err)
		rows[string(row.Key)] = string(row.Value)
	}
	for g := range lo {
		n := number(rows[fmt.Sprintf("0/g%02d", g)])
		if n < lo[g] || n > hi[g] {
			t.Errorf("writer %d: %d commits, not within %d to %d", g, n, lo[g], hi[g])
		}
		for part := range 3 {
			if got := number(rows[fmt.Sprintf("%d/g%02d", part, g)]); got != n {
				t.Errorf("writer %d: part %d of commit %d, part 0 of %d", g, part, got, n)
			}
		}
		next := (g + 1) % len(lo)
		if saw, has := number(rows[fmt.Sprintf("saw/g%02d", g)]), number(rows[fmt.Sprintf("1/g%02d", next)]); saw > has {
			t.Errorf("writer %d saw commit %d of %d, of which the copy has %d", g, saw, next, has)
		}
	}
}

// Backups during the random work of TestCrash, against its oracle.
func TestBackupOracle(t *testing.T) {
	fs := newCrashFS(t)
	backupOracle(t, fs, crashLifeOptions(fs), false)
}

// The same while checkpoints write leaves whole, and old runs go in the midst of them.
func TestBackupOfWholeLeaves(t *testing.T) {
	fs := newCrashFS(t)
	backupOracle(t, fs, calmOptions(fs), true)
}

func backupOracle(t *testing.T, fs *vfs.MemFS, o *Options, calm bool) {
	db := mustOpen(t, o)
	db.cache.AlwaysWhole.Store(calm)
	writers := newCrashWriters(t, db, 7)
	c := newCrew()
	defer c.stop() // whatever the test comes to
	for _, w := range writers {
		w.calm, w.bulk = calm, w.bulk && !calm
		c.repeat(func(int) { w.step() })
	}
	rng := rand.New(rand.NewPCG(7, 99))
	for i := range 6 {
		dir := fmt.Sprintf("backup%d", i)
		var lo []int
		for _, w := range writers {
			acked, _, _ := w.o.span()
			lo = append(lo, acked)
		}
		if calm {
			n := db.cache.Stats.WholeLeaves.Load()
			eventually(t, "a leaf written whole", func() bool { return db.cache.Stats.WholeLeaves.Load() > n })
		}
		check(t, db.Backup(ctx, dir))
		// Nothing of it may get lost in a crash now.
		c := *o
		c.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: i % 3 * 50, RNG: rng})
		openBackup(t, &c, dir, func(b *DB) {
			for j, w := range writers {
				_, _, started := w.o.span()
				w.o.match(t, fmt.Sprintf("backup %d, writer %d", i, w.id), contents(t, b, w.id), lo[j], started)
			}
		})
	}
	c.stop()
	mustClose(t, db)
}

// A store that has lost its FORMAT is not taken for a new one.
func TestFormatMissing(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	mustClose(t, db)
	check(t, o.FS.Rename("db/FORMAT", "FORMAT"))
	_, err := Open("db", o)
	if ce := (*CorruptionError)(nil); !errors.As(err, &ce) || ce.File != formatName {
		t.Fatalf("open without FORMAT: %v", err)
	}
	check(t, o.FS.Rename("FORMAT", "db/FORMAT"))
	db = mustOpen(t, o)
	inView(t, db, func(tx *Tx) { gets(t, tx, mustTable(t, db, "t"), "k", "v") })
	mustClose(t, db)
}

// The directory of a killed store may be copied by any means.
func TestCopyOfKilledStore(t *testing.T) {
	fs := newCrashFS(t)
	o := crashLifeOptions(fs)
	db := mustOpen(t, o)
	w := &crashWriter{t: t, db: db, rng: rand.New(rand.NewPCG(11, 0)), o: newOracle(), bulk: true}
	w.addTable()
	rng := rand.New(rand.NewPCG(11, 99))
	for i := range 6 {
		for range 25 {
			w.step()
		}
		p := takeCrash(fs, i%3*50, rng, []*crashWriter{w})
		dst := vfs.NewMem()
		ok, err := vfs.Clone(p.fs, dst, "db", "copy")
		if err != nil || !ok {
			t.Fatalf("copy: %v %v", ok, err)
		}
		c := *o
		c.FS = dst
		openBackup(t, &c, "copy", func(b *DB) {
			w.o.match(t, fmt.Sprint("copy ", i), contents(t, b, w.id), p.lo[0], p.hi[0])
		})
	}
	mustClose(t, db)
}

// On the file system of the operating system.
func TestBackupOnDisk(t *testing.T) {
	dir := t.TempDir()
	o := memOptions()
	o.FS = nil
	db, err := Open(filepath.Join(dir, "db"), o)
	check(t, err)
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	fillRows(t, tx, tb, 0, 3000, 100)
	commit(t, tx)
	check(t, db.Checkpoint(ctx))
	to := filepath.Join(dir, "x", "backup")
	check(t, db.Backup(ctx, to))
	check(t, db.Verify(ctx))
	mustClose(t, db)
	check(t, os.RemoveAll(filepath.Join(dir, "db")))
	openBackup(t, o, to, func(b *DB) {
		inView(t, b, func(tx *Tx) { wantRows(t, tx, mustTable(t, b, "t"), 0, 3000, 100) })
	})
}
