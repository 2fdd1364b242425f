package tablespace

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/btree"

	"github.com/sakerdb/saker/internal/base"
)

// Names within Options.Dir.
const (
	mapDirName = "map"
	runDirName = "runs"
)

// editSeqBits is the number of bits below the incarnation in an EditSeq, so
// that sequence numbers lost in a crash are never handed out again (L7).
const editSeqBits = 40

// Options of a space. Zero values mean the default.
type Options struct {
	FS          vfs.FS // default vfs.Default
	Dir         string
	Incarnation uint32 // of this opening of the store; greater than every earlier one

	MemTableSize   int64 // of Pebble; default 4 MiB
	CacheSize      int64 // of Pebble's blocks; default 8 MiB
	BufferSize     int64 // bytes of frames added and not yet written; default 8 MiB
	MaxQueuedEdits int   // default 4096
	RunSize        int64 // where Run.Full becomes true; default 256 MiB

	// Used says that the store was written to before, so that a map must be there.
	// Run files say so too.
	Used bool
	// SyncLog makes the serial log durable as far as committed frames need it.
	SyncLog func() error
	// OnFailure is called once, on its own goroutine, at the first failure to
	// write or sync (L8).
	OnFailure func(error)
	// ReadOnly opens without writing anything. Edits are possible, for recovery
	// in memory; they are only seen by lookups.
	ReadOnly bool
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MemTableSize, 4<<20)
	def(&o.CacheSize, 8<<20)
	def(&o.BufferSize, 8<<20)
	def(&o.RunSize, 256<<20)
	if o.MaxQueuedEdits <= 0 {
		o.MaxQueuedEdits = 4096
	}
}

// Space is an open tablespace. All methods may be called at any time from any
// goroutine, unless they say otherwise.
type Space struct {
	o         Options
	p         poison
	fence     *fence
	mapFS     *mapFS
	compactor *compactor
	runDir    string
	dir       vfs.File   // the run directory, for syncing
	dirMu     sync.Mutex // one sync of dir at a time
	db        *pebble.DB
	loaded    Loaded

	compacted chan struct{} // Pebble finished a compaction; holds one signal

	regMu  sync.RWMutex // guards runs; short
	runs   map[base.RunID]*Run
	runSeq atomic.Uint64

	bytes   credits // buffer room
	pool    *chunkPool
	bufMu   sync.Mutex // guards ready, dirty, closing, Run.queued; short
	bufCond sync.Cond  // with bufMu: there may be something to write
	ready   []*Run     // with closed chunks, first come first served
	dirty   map[*Run]struct{}
	closing bool

	room  credits // places in the queue
	q     queue
	a     applier
	views viewPool

	recovered atomic.Bool // EndRecovery was applied

	collectMu sync.Mutex // held by unlinkIdle: a run it looks at is in neither list
	idleMu    sync.Mutex // guards idleRuns
	idleRuns  []idleRun
	holdMu    sync.Mutex // guards holds, held
	holds     int
	held      []*Run

	runBytes atomic.Int64 // of all runs that are not gone

	bytesWritten, syncs, batches, unlinked, unlinkFailed atomic.Uint64

	closed atomic.Bool
	wg     sync.WaitGroup // flusher and applier
}

// Open opens the space in o.Dir, creating it unless o.ReadOnly is set. Then
// recovery uses Loaded, edits what it must, and says EndRecovery.
// *base.CorruptionError if a file of the map is damaged or missing.
func Open(o Options) (*Space, error) {
	o.setDefaults()
	s := &Space{o: o, runs: map[base.RunID]*Run{}, dirty: map[*Run]struct{}{}, pool: newChunkPool(o.BufferSize)}
	s.compacted = make(chan struct{}, 1)
	s.p.ch = make(chan struct{})
	s.p.onFailure = o.OnFailure
	s.p.hooks = []func(error){s.bytes.fail, s.room.fail, s.wakeAll}
	s.fence = &fence{FS: o.FS, p: &s.p}
	s.mapFS = newMapFS(o.FS, &s.p)
	s.compactor = newCompactor()
	s.runDir = o.FS.PathJoin(o.Dir, runDirName)
	s.bytes.size, s.bytes.onWait = o.BufferSize, s.kickFlusher
	s.room.size = int64(o.MaxQueuedEdits)
	s.bufCond.L = &s.bufMu
	s.q.work.L, s.q.done.L = &s.q.mu, &s.q.mu
	s.q.tree = btree.NewG(pendingDegree, pendingLess)
	s.views.s = s

	if err := s.openFiles(); err != nil {
		s.p.rest()
		return nil, err
	}
	s.q.seq = max(s.loaded.LastSeq, base.EditSeq(o.Incarnation)<<editSeqBits)
	s.q.applied = s.q.seq
	if !o.ReadOnly {
		s.wg.Add(2)
		go s.flushLoop()
		go s.applyLoop()
	}
	return s, nil
}

// openFiles opens directory and map and loads what they hold.
func (s *Space) openFiles() error {
	if !s.o.ReadOnly {
		fs := s.o.FS
		for _, dir := range []string{s.runDir, fs.PathJoin(s.o.Dir, mapDirName)} {
			if err := fs.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("saker: create directory: %w", err)
			}
		}
		// Whoever made o.Dir may not have synced the entry that names it.
		for _, dir := range []string{s.o.Dir, fs.PathDir(fs.PathJoin(s.o.Dir))} {
			if err := s.syncDir(dir); err != nil {
				return err
			}
		}
	}
	var err error
	if s.dir, err = s.fence.OpenDir(s.runDir); err != nil {
		return fmt.Errorf("saker: open run directory: %w", err)
	}
	if err = s.openMap(); err == nil {
		if err = s.load(); err == nil {
			return nil
		}
		err = errors.Join(err, s.closeMap())
	}
	return errors.Join(err, s.dir.Close())
}

func (s *Space) syncDir(path string) error {
	d, err := s.fence.OpenDir(path)
	if err != nil {
		return fmt.Errorf("saker: open directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("saker: sync directory: %w", err)
	}
	return nil
}

// openMap opens Pebble. A map is made, and durable, before anything is written that
// relies on it, so only a space without runs may be without one: rows of shared runs
// whose log is reused are found by the map alone.
func (s *Space) openMap() error {
	used, err := s.used()
	if err != nil {
		return err
	}
	cache := pebble.NewCache(s.o.CacheSize)
	po := &pebble.Options{
		Cache:              cache,
		FS:                 s.mapFS,
		FormatMajorVersion: pebble.FormatNewest,
		// The edits are their own log: what a crash takes, recovery finds in the
		// serial log and in the indexes of runs (L11).
		DisableWAL:   true,
		MemTableSize: uint64(s.o.MemTableSize),
		// Never stall: the applier paces itself, and can be told to stop.
		MemTableStopWritesThreshold: 1 << 20,
		L0StopWritesThreshold:       1 << 20,
		MaxOpenFiles:                256,
		ReadOnly:                    s.o.ReadOnly,
		ErrorIfNotExists:            used,
		Logger:                      mapLogger{&s.p},
		EventListener:               &pebble.EventListener{},
	}
	po.EventListener.DataCorruption = func(pebble.DataCorruptionInfo) {} // the reader gets the error
	po.EventListener.CompactionEnd = func(info pebble.CompactionInfo) {
		if info.Err != nil {
			s.compactor.failed.Store(true)
		}
		select {
		case s.compacted <- struct{}{}:
		default:
		}
	}
	po.Experimental.ReadSamplingMultiplier = -1 // reads start no compactions
	po.Experimental.FileCacheShards = 2
	po.Experimental.CompactionScheduler = s.compactor
	po.CompactionConcurrencyRange = func() (lower, upper int) { return 1, 1 }
	for i := range po.Levels {
		po.Levels[i].IndexBlockSize = 64 << 10 // one level of index per table: a block read less per lookup
		po.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	db, err := s.openPebble(po)
	if db != nil || s.p.get() == nil {
		cache.Unref() // an abandoned map goes on using it
	}
	if err != nil {
		return s.openError(err)
	}
	s.mapFS.reads.opened.Store(true)
	s.db = db
	s.compactor.open()
	return nil
}

// used reports whether a map must be there.
func (s *Space) used() (bool, error) {
	if s.o.Used {
		return true, nil
	}
	names, err := s.o.FS.List(s.runDir)
	if err != nil {
		return false, fmt.Errorf("saker: list runs: %w", err)
	}
	return slices.ContainsFunc(names, func(name string) bool { _, ok := parseRunName(name); return ok }), nil
}

// mapLogger is Pebble's logger. What Pebble calls fatal poisons the space instead
// of ending the process; mapFS sees to it that failures of the disk do not get here.
type mapLogger struct{ p *poison }

func (l mapLogger) Infof(string, ...any)  {}
func (l mapLogger) Errorf(string, ...any) {}
func (l mapLogger) Fatalf(format string, args ...any) {
	l.p.fail(fmt.Errorf("saker: leaf map: "+format, args...))
}

// wakeAll wakes whoever waits for progress, after a failure or to close.
func (s *Space) wakeAll(error) {
	s.q.mu.Lock()
	s.q.work.Broadcast()
	s.q.done.Broadcast()
	s.q.mu.Unlock()
	s.bufMu.Lock()
	s.bufCond.Broadcast()
	s.bufMu.Unlock()
}

// Fail poisons the space from outside, as a failed write of its own would.
func (s *Space) Fail(err error) { s.p.fail(err) }

// Err returns the sticky error, which wraps base.ErrPoisoned, or nil.
func (s *Space) Err() error { return s.p.get() }

// writable returns why nothing may be written, or nil.
func (s *Space) writable() error {
	switch {
	case s.closed.Load():
		return base.ErrClosed
	case s.o.ReadOnly:
		return base.ErrReadOnly
	}
	return s.p.get()
}

// Close applies the queue, syncs the runs, flushes the map and releases
// everything. No other call may be in progress or follow; walks must be closed
// and lookups released. It returns the sticky error of a poisoned space.
func (s *Space) Close() error {
	if s.closed.Load() {
		return base.ErrClosed
	}
	var err error
	if !s.o.ReadOnly && s.p.get() == nil {
		err = s.finishWriting()
	}
	s.closed.Store(true)
	s.bytes.fail(base.ErrClosed)
	s.room.fail(base.ErrClosed)
	s.q.mu.Lock()
	s.q.closing, s.q.closed = true, true
	s.q.mu.Unlock()
	s.bufMu.Lock()
	s.closing = true
	s.bufMu.Unlock()
	s.wakeAll(nil)
	s.wg.Wait()
	s.views.close()
	if cerr := s.closeMap(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("saker: close leaf map: %w", cerr))
	}
	for _, r := range s.runs {
		r.mu.Lock()
		f := r.file
		r.file, r.chunks, r.done = nil, nil, true
		r.mu.Unlock()
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	err = errors.Join(err, s.dir.Close())
	s.p.rest()
	if poisoned := s.p.get(); poisoned != nil {
		return poisoned
	}
	return err
}

// finishWriting makes durable what was added and edited.
func (s *Space) finishWriting() error {
	s.regMu.RLock()
	open := make([]*Run, 0, len(s.runs))
	for _, r := range s.runs {
		if r.refs.Load()&gone == 0 && !s.isOld(r) {
			open = append(open, r)
		}
	}
	s.regMu.RUnlock()
	for _, r := range open {
		if err := r.Sync(); err != nil && !errors.Is(err, ErrRunNotFound) {
			return err
		}
	}
	_, err := s.Flush()
	return err
}
