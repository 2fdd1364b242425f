package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/scavenger"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/txn"
	"github.com/sakerdb/saker/versionchain"
)

// DB is an open store. Its methods may be called from any goroutine.
type DB struct {
	o           *resolved
	dir         string
	lock        io.Closer
	incarnation uint32

	arena *arena.Arena
	space *tablespace.Space
	log   *seriallog.Log
	temps *backlog.Store
	reg   *versionchain.Registry
	cache *recordcache.Cache
	scav  *scavenger.Scavenger
	snaps *txn.Snapshots
	m     *txn.Manager

	recovering atomic.Bool
	replayed   struct { // of the log files, before edits that recovery makes are applied
		done chan struct{}
		err  error // valid when done is closed
	}
	failure atomic.Pointer[error]

	ddl       mutex // serialises changes of the catalog
	mu        sync.RWMutex
	tables    map[string]*Table // guarded by mu
	nextTable base.TableID      // guarded by ddl
	drops     drops

	recoveredPins []uint64 // log segments held until the first checkpoint

	ckpt    checkpointer
	collect collector
	syncer  syncer
	watch   watcher
	closed  atomic.Bool
	gate    gate // of whatever is no transaction: Close ends it and waits for it
}

// Open opens the store in dir, and makes it if there is none. Nil options are
// the defaults. ErrLocked, ErrFormatTooNew, ErrInvalidOptions, *CorruptionError.
func Open(dir string, opts *Options) (*DB, error) {
	o, err := opts.resolve()
	if err != nil {
		return nil, fmt.Errorf("saker: open: %w", err)
	}
	db := &DB{
		o: o, dir: dir, tables: make(map[string]*Table), reg: &versionchain.Registry{}, snaps: &txn.Snapshots{},
		ddl: newMutex(), ckpt: checkpointer{mu: newMutex()}, collect: collector{mu: newMutex()},
	}
	if err := db.open(); err != nil {
		_ = db.release() // the first error is the one to tell
		return nil, fmt.Errorf("saker: open %s: %w", dir, base.DiskFull(err))
	}
	return db, nil
}

func (db *DB) open() (err error) {
	fs := db.o.FS
	if err := makeDir(fs, db.dir); err != nil {
		return err
	}
	if db.lock, err = fs.Lock(fs.PathJoin(db.dir, lockName)); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if db.incarnation, err = openFormat(fs, db.dir, db.o.schema); err != nil {
		return err
	}
	if db.arena, err = arena.New(db.o.RecordMemory); err != nil {
		return err
	}
	db.recovering.Store(true)
	db.replayed.done = make(chan struct{})
	db.log, err = seriallog.Open(seriallog.Options{
		FS: fs, Dir: fs.PathJoin(db.dir, logDir), SegmentSize: db.o.LogSegmentSize, BufferSize: db.o.logBuffer,
		Incarnation: db.incarnation, OnFailure: db.logFailed,
	})
	if err != nil {
		return err
	}
	db.space, err = tablespace.Open(tablespace.Options{
		FS: fs, Dir: fs.PathJoin(db.dir, spaceDir), Incarnation: db.incarnation,
		MemTableSize: db.o.MapMemTable, CacheSize: db.o.mapCache, BufferSize: db.o.runBuffer,
		RunSize: db.o.RunSize, SyncLog: db.syncLog, OnFailure: db.fail, Used: len(db.log.Files()) > 0,
	})
	if err != nil {
		return err
	}
	db.temps = backlog.NewStore(db.space)
	db.cache, err = recordcache.New(recordcache.Options{
		Arena: db.arena, Space: db.space, Log: db.log, Backlog: db.temps, Reg: db.reg,
		Incarnation: db.incarnation, Horizon: db.snaps.Horizon, ColdBytes: db.o.coldBytes,
	})
	if err != nil {
		return err
	}
	db.scav = scavenger.New(scavenger.Config{
		Arena: db.arena, Cache: db.cache, Horizon: db.snaps.Horizon, Failure: db.failed, Holders: db.holders,
	})
	db.cache.OnMerge(db.scav.RequestMerge)
	return db.start()
}

// start recovers and sets everything going.
func (db *DB) start() error {
	// While recovery runs there is no manager, and no live transaction.
	var m atomic.Pointer[txn.Manager]
	db.scav.Start(func(low bool) {
		if m := m.Load(); m != nil {
			db.lowMemory(m, low)
		}
	}, func(id base.TxnID, first base.LSN, seg uint64) {
		if m := m.Load(); m != nil {
			m.Track(id, first, seg)
		}
	}, func(id base.TxnID) []base.Epoch {
		if m := m.Load(); m != nil {
			return m.Stretches(id)
		}
		return nil
	}, func(all bool) bool {
		m := m.Load()
		return m != nil && m.Unburden(all)
	})
	last, pos, err := db.recover()
	if err != nil {
		return err
	}
	db.recovering.Store(false)
	db.m = txn.NewManager(txn.Config{
		Arena: db.arena, Space: db.space, Log: db.log, Backlog: db.temps, Cache: db.cache, Reg: db.reg, Scav: db.scav,
		Incarnation: db.incarnation, ChillThreshold: db.o.ChillThreshold, NoSync: db.o.NoSync, ReadOnly: db.o.ReadOnly,
		LockTimeout: db.o.LockTimeout, DebugTransactions: db.o.DebugTransactions,
		LogLimit: db.o.LogLimit, ClockGap: db.o.clockGap, Behind: db.ckpt.poke, Stuck: db.ckpt.stuck, Failure: db.failed, Crowded: db.crowded,
	}, db.snaps, last, pos)
	m.Store(db.m)
	db.m.HoldSegments(pos, db.recoveredPins)
	if err := db.openIndexes(); err != nil {
		return errors.Join(err, db.m.Close())
	}
	if !db.o.ReadOnly {
		db.collect.start(db) // before the checkpointer, which asks whether it is there
	}
	db.ckpt.start(db)
	tick := time.NewTicker(db.o.SyncInterval)
	db.syncer.start(db, tick.C, tick.Stop, nil)
	watch := time.NewTicker(watchEvery(db.o.TxAgeLimit))
	db.watch.start(db, watch.C, watch.Stop, nil)
	return nil
}

// holders says who holds record memory (M3).
func (db *DB) holders() string {
	if db.m == nil {
		return db.cache.Holders() // recovery, which waits in the goroutine of Open
	}
	return db.cache.Holders() + "; " + db.m.Holders()
}

// fail poisons the store (L8).
func (db *DB) fail(err error) {
	wrapped := base.Poisoned(err)
	if !db.failure.CompareAndSwap(nil, &wrapped) {
		return
	}
	if db.o.Logger != nil {
		db.o.Logger.Error("store failed", slog.Any("err", wrapped))
	}
	if e := db.o.Events; e != nil && e.Failed != nil {
		e.Failed(wrapped)
	}
}

// logFailed poisons the store, its space included, after a failure of the log.
func (db *DB) logFailed(err error) {
	db.space.Fail(err)
	db.fail(err)
}

// failed returns the failure that poisoned the store, or nil. The parts are asked
// too: they tell the store on goroutines of their own, and until then no commit
// may succeed either.
func (db *DB) failed() error {
	if p := db.failure.Load(); p != nil {
		return *p
	}
	if err := db.log.Err(); err != nil {
		return err
	}
	return db.space.Err()
}

// syncLog makes the log durable as far as committed frames need it (L10).
func (db *DB) syncLog() error {
	if !db.recovering.Load() {
		return db.log.Sync(db.log.End())
	}
	<-db.replayed.done
	return db.replayed.err
}

// syncReplayed makes the log files durable that recovery reads: a crash may still
// cut them short, and what is built on them must not outlive them. Nothing is
// appended before StartWriting, so once is enough.
func (db *DB) syncReplayed() error {
	fs := db.o.FS
	for _, name := range db.log.Files() {
		f, err := fs.OpenReadWrite(fs.PathJoin(db.dir, logDir, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Close rolls back open transactions, makes everything durable and closes the
// store. What else is under way (backups, verifications, checkpoints, changes of
// tables) ends, with ErrClosed if it was not finished. ErrClosed when the store was
// closed before.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return ErrClosed
	}
	db.gate.close()
	err := db.m.Close()
	db.collect.close(db)
	db.syncer.close()
	db.watch.close()
	db.ckpt.close()
	if db.failed() == nil {
		err = errors.Join(err, db.ckpt.run(context.Background(), db))
	}
	return errors.Join(err, db.release())
}

// release closes whatever is open, in any state of Open.
func (db *DB) release() error {
	var errs []error
	if db.scav != nil {
		db.scav.Close()
	}
	if db.cache != nil {
		db.cache.Close()
	}
	if db.space != nil {
		errs = append(errs, db.space.Close())
	}
	if db.log != nil {
		errs = append(errs, db.log.Close())
	}
	if db.arena != nil && db.cache != nil {
		db.cache.ReleaseMemory()
		errs = append(errs, db.arena.Close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// Begin starts a transaction. ctx bounds its waits and is checked now.
func (db *DB) Begin(ctx context.Context, opts TxOptions) (*Tx, error) {
	if db.closed.Load() {
		return nil, fmt.Errorf("saker: begin: %w", ErrClosed)
	}
	return db.m.Begin(ctx, opts)
}

// View runs fn in a read-only transaction.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	tx, err := db.Begin(ctx, TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return fn(tx)
}

// Update runs fn in a snapshot transaction and commits it. See UpdateWith.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return db.UpdateWith(ctx, TxOptions{}, fn)
}

// UpdateWith runs fn in a transaction with opts and commits it; if that fails for
// a reason that IsRetryable accepts, a conflict or deadlock, all is rolled back and
// run again after a jittered pause, until ctx ends. Whatever else fails, ErrLockTimeout
// and memory errors included, is returned at once. fn must not commit, nor keep the
// transaction.
func (db *DB) UpdateWith(ctx context.Context, opts TxOptions, fn func(*Tx) error) error {
	for try := 0; ; try++ {
		err := db.updateOnce(ctx, opts, fn)
		if !IsRetryable(err) {
			return err
		}
		pause := time.Duration(rand.Int64N(int64(50*time.Microsecond) << min(try, 10)))
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

func (db *DB) updateOnce(ctx context.Context, opts TxOptions, fn func(*Tx) error) error {
	tx, err := db.Begin(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Sync makes everything committed so far durable, NoSync transactions included.
func (db *DB) Sync() error {
	_, leave, err := db.gate.enter(context.Background())
	if err != nil {
		return err
	}
	defer leave()
	if err := db.log.Sync(db.log.End()); err != nil {
		return errors.Join(db.failed(), err)
	}
	return db.failed()
}

// Checkpoint writes what memory holds of committed rows to runs, so that the log
// before it is not needed any more.
func (db *DB) Checkpoint(ctx context.Context) error {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return ended(ctx, db.ckpt.run(ctx, db))
}

// Tables returns the names of all tables, sorted.
func (db *DB) Tables() []string {
	db.mu.RLock()
	defer db.mu.RUnlock()
	names := make([]string, 0, len(db.tables))
	for n := range db.tables {
		if !isEntries(n) {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names
}

// Table returns the table with that name. ErrTableNotFound.
func (db *DB) Table(name string) (*Table, error) {
	if db.closed.Load() {
		return nil, ErrClosed
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	t := db.tables[name]
	if t == nil || isEntries(name) {
		return nil, fmt.Errorf("%w: %q", ErrTableNotFound, name)
	}
	return t, nil
}
