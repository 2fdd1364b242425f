package engine

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Backup writes a copy of the store into dir, on the same file system (Options.FS),
// while everybody goes on reading and writing. The copy is a store by itself,
// to be opened with Open. It holds exactly the transactions whose commit records
// were in the log at one moment during the call: all that were acknowledged
// before it began, NoSync ones included, each whole, and none without those that
// committed before it. Of transactions that were running at that moment it has
// nothing.
//
// dir must not exist, or be empty; else ErrBackupExists. Until Backup has
// returned nil dir cannot be opened: its file FORMAT is written last, when all
// else is on stable storage. On an error, the end of ctx (ctx.Err()) or Close
// (ErrClosed) included, everything that was written is removed; what remains
// after a crash is refused by Open and may be removed by hand. A poisoned store
// cannot be backed up (ErrPoisoned); a failure to write into dir does not poison
// the store.
//
// Run files and files of the leaf map are hard links where the file system has
// them: that costs no space and little time, but damage to such a file is damage
// to both. Copy dir to another medium to be safe from that; it is not written to
// as long as nobody opens it. While Backup runs, no run file is removed and, until
// the log is copied, no log segment reused; commits do not wait for it.
//
// The directory of a store that nobody has open, closed or killed, may be copied
// by any means. Copying that of an open store file by file promises nothing.
//
// Several backups may run at the same time, into directories of their own.
func (db *DB) Backup(ctx context.Context, dir string) error {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return fmt.Errorf("saker: backup: %w", err)
	}
	defer leave()
	if err := db.backup(ctx, dir); err != nil {
		return fmt.Errorf("saker: backup to %s: %w", dir, ended(ctx, err))
	}
	return nil
}

// backup claims the directory and cleans it up after a failure.
func (db *DB) backup(ctx context.Context, dir string) error {
	if err := errors.Join(ctx.Err(), db.failed()); err != nil {
		return err
	}
	g := goal{fs: db.o.FS, dir: dir}
	if err := g.claim(); err != nil {
		return err
	}
	err := db.copyTo(ctx, &g)
	if err == nil {
		// From here on the copy can be opened.
		err = writeFormat(g.fs, dir, format{version: db.o.schema.version, incarnation: db.incarnation})
	}
	if err != nil {
		g.remove()
	}
	return errors.Join(err, g.lock.Close())
}

// copyTo makes the copy in the order in which its parts rely on each other. Each
// is newer than the one before, as after a crash at the moment when the log was
// copied, before which the map was last flushed when it was copied:
//
//  1. nothing is unlinked or reused from here on
//  2. the leaf map, as of some edit
//  3. the log, up to a position E that is synced: it holds all commits that the
//     map relies on (L10), and all from its checkpoint position on (L6)
//  4. the runs that map or log name, complete: those of owners that have a commit
//     record below E were synced before it (L1)
func (db *DB) copyTo(ctx context.Context, g *goal) error {
	fs := g.fs
	db.temps.Rollover() // or the run being written would have to be copied byte by byte
	runs := db.space.StartCopy(fs.PathJoin(g.dir, spaceDir))
	defer runs.Close()
	if err := db.copyMapAndLog(ctx, g, runs); err != nil {
		return err
	}
	if err := runs.Runs(ctx, db.mayNeed); err != nil {
		return err
	}
	for _, dir := range []string{fs.PathJoin(g.dir, logDir), fs.PathJoin(g.dir, spaceDir), g.dir} {
		if err := syncDir(fs, dir); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// copyMapAndLog does steps 2 and 3. Log segments are reusable again after it.
func (db *DB) copyMapAndLog(ctx context.Context, g *goal, runs *tablespace.Copy) error {
	fs := g.fs
	db.log.HoldReuse()
	defer db.log.ReleaseReuse()
	for _, name := range []string{logDir, spaceDir} {
		if err := fs.MkdirAll(fs.PathJoin(g.dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := runs.Map(ctx); err != nil {
		return err
	}
	if err := db.log.Sync(db.log.End()); err != nil {
		return errors.Join(db.failed(), err)
	}
	return db.log.CopyTo(ctx, fs, fs.PathJoin(g.dir, logDir), db.log.Synced())
}

// mayNeed reports whether the copy may need the run: all but those of owners
// that have no commit record yet, or never will. It is asked when the log is
// copied: who is active now was so when its end was chosen.
func (db *DB) mayNeed(r *tablespace.Run) bool {
	owner := r.Owner()
	if owner == 0 {
		return true
	}
	if o := db.reg.Get(owner); o != nil {
		st, _ := o.Status()
		return st != versionchain.Active && st != versionchain.Aborted
	}
	return db.cache.KnowsOwner(owner)
}

// goal is the directory of a backup.
type goal struct {
	fs      vfs.FS
	dir     string
	created bool
	lock    interface{ Close() error }
}

// claim makes the directory, if need be, and locks it as Open would, so that
// nobody opens it, or makes another backup in it, before its time.
func (g *goal) claim() error {
	if err := g.mustBeEmpty(false); err != nil {
		return err
	}
	if _, err := g.fs.Stat(g.dir); errors.Is(err, iofs.ErrNotExist) {
		g.created = true
	}
	if err := makeDir(g.fs, g.dir); err != nil {
		return err
	}
	lock, err := g.fs.Lock(g.fs.PathJoin(g.dir, lockName))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackupExists, err)
	}
	g.lock = lock
	if err := g.mustBeEmpty(true); err != nil {
		return errors.Join(err, lock.Close())
	}
	return nil
}

// mustBeEmpty looks whether the directory has anything in it but its lock.
func (g *goal) mustBeEmpty(locked bool) error {
	info, err := g.fs.Stat(g.dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: it is a file", ErrBackupExists)
	}
	names, err := g.fs.List(g.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !locked || name != lockName {
			return fmt.Errorf("%w: %s is in it", ErrBackupExists, name)
		}
	}
	return nil
}

// remove empties the directory, and removes it if claim made it. FORMAT goes
// first, and durably so: a crash must not leave a copy with a hole that opens.
func (g *goal) remove() {
	fs := g.fs
	gone := fs.Remove(fs.PathJoin(g.dir, formatName)) == nil
	if gone {
		_ = syncDir(fs, g.dir) // there is an error to tell already
	}
	names := []string{logDir, spaceDir, formatName + ".new", lockName}
	for _, name := range names {
		_ = fs.RemoveAll(fs.PathJoin(g.dir, name))
	}
	if g.created {
		_ = fs.RemoveAll(g.dir)
		_ = syncDir(fs, parentOf(fs, g.dir))
		return
	}
	_ = syncDir(fs, g.dir)
}

func parentOf(fs vfs.FS, dir string) string {
	if p := fs.PathDir(dir); p != "" {
		return p
	}
	return "."
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
