package tablespace

import (
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// mapFS is Pebble's door to the disk. Every write or sync that fails poisons the
// space (L8). What Pebble does about it depends on the file:
//
//   - A table: it throws the file away, says so, and tries again for ever. It is
//     let alone; a pause keeps it from spinning.
//   - The manifest, or the marker that names it: it calls Logger.Fatalf, for it
//     cannot undo what it did in memory; should Fatalf return, it panics sooner
//     or later, and a goroutine that ends or waits in Fatalf takes DB.mu with
//     it. While it opens, it tries the same manifest again for ever, without
//     touching the disk. So that Pebble never learns of it, such a write does not
//     return: the goroutine is parked for ever, as on a disk that hangs. It holds
//     no lock that readers need. The map is then wrecked: it is not closed but
//     abandoned, which leaks it, until the process ends. Its next try to write a
//     table is parked too, or it would go on trying as long.
type mapFS struct {
	vfs.FS
	p       *poison
	once    sync.Once
	wrecked chan struct{} // closed when a goroutine is parked
	left    atomic.Bool   // the map was abandoned
	reads   mapReads

	mu      sync.Mutex
	locks   []io.Closer         // to release the lock of an abandoned map
	foreign map[string]*copyErr // by directory of a copy
}

// retryPause slows down a Pebble that tries again for ever.
const retryPause = 10 * time.Millisecond

func newMapFS(fs vfs.FS, p *poison) *mapFS {
	return &mapFS{FS: fs, p: p, wrecked: make(chan struct{})}
}

// vital reports whether Pebble cannot live with a failure to write the file.
func (f *mapFS) vital(name string) bool {
	name = f.PathBase(name)
	return strings.HasPrefix(name, "MANIFEST-") || strings.HasPrefix(name, "marker.")
}

// copyErr is the first failure to sync a directory of a copy.
type copyErr struct{ err atomic.Pointer[error] }

func (c *copyErr) get() error {
	if e := c.err.Load(); e != nil {
		return *e
	}
	return nil
}

// exempt says that a copy of the map is made in dir, until forbid: what fails
// there poisons nothing, and who copies gets the error.
func (f *mapFS) exempt(dir string, c *copyErr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.foreign == nil {
		f.foreign = map[string]*copyErr{}
	}
	f.foreign[dir] = c
}

func (f *mapFS) forbid(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.foreign, dir)
}

// copyOf returns the copy that the file belongs to, or nil.
func (f *mapFS) copyOf(name string) *copyErr {
	f.mu.Lock()
	defer f.mu.Unlock()
	for dir, c := range f.foreign {
		below := strings.TrimSuffix(f.PathJoin(dir, "x"), "x") // dir with a separator
		if name == dir || strings.HasPrefix(name, below) {
			return c
		}
	}
	return nil
}

// copyDir is a directory of a copy. Pebble panics when it cannot sync one, after
// it has moved a marker; so it is told that it could, and the copy is not used.
type copyDir struct {
	vfs.File
	c *copyErr
}

// Sync implements vfs.File.
func (d *copyDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.c.err.CompareAndSwap(nil, &err)
	}
	return nil
}

// check returns err, unless the goroutine must not go on.
func (f *mapFS) check(vital bool, err error) error {
	if err == nil {
		return nil
	}
	f.p.fail(err)
	if vital {
		f.once.Do(func() { close(f.wrecked) })
		park()
	}
	return err
}

// park does not return.
func park() { select {} }

func (f *mapFS) opened(name string, file vfs.File, err error) (vfs.File, error) {
	if f.copyOf(name) != nil {
		return file, err
	}
	vital := f.vital(name)
	if err != nil {
		return nil, f.check(vital, err)
	}
	return &mapFile{File: file, fs: f, vital: vital}, nil
}

// Create implements vfs.FS.
func (f *mapFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.p.get() != nil {
		time.Sleep(retryPause) //nolint:forbidigo // Pebble calls, with no context and nothing to wait for
	}
	if f.left.Load() {
		park()
	}
	if err := f.beforeMarker(name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return f.opened(name, file, err)
}

// Remove implements vfs.FS.
func (f *mapFS) Remove(name string) error {
	if err := f.beforeMarker(name); err != nil {
		return err
	}
	return f.reads.note(f.FS.Remove(name))
}

// beforeMarker syncs the directory before a marker file appears or goes. Pebble
// makes the file that a marker names, the marker, removes the marker before it, and
// syncs the directory once, at the end. A disk that writes directory entries in an
// order of its own may then hold, after a crash, a marker whose file is missing, or
// no marker at all.
func (f *mapFS) beforeMarker(name string) error {
	if !strings.HasPrefix(f.PathBase(name), "marker.") {
		return nil
	}
	d, err := f.FS.OpenDir(f.PathDir(name))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if f.copyOf(name) != nil {
		return err
	}
	return f.check(true, err)
}

// OpenReadWrite implements vfs.FS.
func (f *mapFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.opened(name, file, err)
}

// ReuseForWrite implements vfs.FS.
func (f *mapFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, c)
	return f.opened(newname, file, err)
}

// OpenDir implements vfs.FS. The directory is vital: markers are moved by it.
func (f *mapFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if f.reads.note(err) != nil {
		return nil, err
	}
	if c := f.copyOf(name); c != nil {
		return &copyDir{File: d, c: c}, nil
	}
	return &mapFile{File: d, fs: f, vital: true}, nil
}

// Rename implements vfs.FS.
func (f *mapFS) Rename(oldname, newname string) error {
	err := f.FS.Rename(oldname, newname)
	if f.copyOf(newname) != nil {
		return err
	}
	return f.check(f.vital(newname), err)
}

// Lock implements vfs.FS.
func (f *mapFS) Lock(name string) (io.Closer, error) {
	l, err := f.FS.Lock(name)
	if f.reads.note(err) == nil {
		f.mu.Lock()
		f.locks = append(f.locks, l)
		f.mu.Unlock()
	}
	return l, err
}

// abandon releases the lock of a map that is not going to be closed, so that
// the store can be opened again in this process, and ends what the map writes.
func (f *mapFS) abandon() {
	f.left.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.locks {
		_ = l.Close() // nothing depends on it but the next Open
	}
	f.locks = nil
}

// Unwrap implements vfs.FS.
func (f *mapFS) Unwrap() vfs.FS { return f.FS }

// mapFile is a file that Pebble writes.
type mapFile struct {
	vfs.File
	fs    *mapFS
	vital bool
}

// Write implements vfs.File.
func (f *mapFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.fs.check(f.vital, err)
}

// WriteAt implements vfs.File.
func (f *mapFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	return n, f.fs.check(f.vital, err)
}

// Sync implements vfs.File.
func (f *mapFile) Sync() error { return f.fs.check(f.vital, f.File.Sync()) }

// SyncData implements vfs.File.
func (f *mapFile) SyncData() error { return f.fs.check(f.vital, f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f *mapFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check(f.vital, err)
}

// openPebble opens Pebble, or abandons it if it is wrecked before it is open.
func (s *Space) openPebble(po *pebble.Options) (*pebble.DB, error) {
	type result struct {
		db  *pebble.DB
		err error
	}
	done := make(chan result, 1)
	go func() {
		db, err := pebble.Open(s.o.FS.PathJoin(s.o.Dir, mapDirName), po)
		done <- result{db, err}
	}()
	select {
	case r := <-done:
		return r.db, r.err
	case <-s.mapFS.wrecked:
		s.compactor.stop()
		s.mapFS.abandon()
		return nil, s.p.get()
	}
}

// mapMetrics returns Pebble's figures, nil if the map is wrecked: Pebble waits
// for whoever writes the manifest, and who is parked never ends.
func (s *Space) mapMetrics() *pebble.Metrics {
	done := make(chan *pebble.Metrics, 1)
	go func() { done <- s.db.Metrics() }()
	select {
	case m := <-done:
		return m
	case <-s.mapFS.wrecked:
		return nil
	}
}

// closeMap closes Pebble, or abandons it if it is wrecked or becomes so.
func (s *Space) closeMap() error {
	done := make(chan error, 1)
	select {
	case <-s.mapFS.wrecked:
	default:
		go func() { done <- s.db.Close() }()
	}
	select {
	case err := <-done:
		return err
	case <-s.mapFS.wrecked:
		s.compactor.stop()
		s.mapFS.abandon()
		return s.p.get()
	}
}
