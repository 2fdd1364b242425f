package tablespace

import (
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
//     it. So that Pebble never learns of it, such a write does not return: the
//     goroutine is parked for ever, as on a disk that hangs. It holds no lock
//     that readers need. The map is then wrecked: it is not closed but
//     abandoned, which leaks it, until the process ends.
type mapFS struct {
	vfs.FS
	p       *poison
	running atomic.Bool // Open has returned: from here on failures park
	once    sync.Once
	wrecked chan struct{} // closed when a goroutine is parked

	mu    sync.Mutex
	locks []io.Closer // to release the lock of an abandoned map
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

// check returns err, unless the goroutine must not go on.
func (f *mapFS) check(vital bool, err error) error {
	if err == nil {
		return nil
	}
	f.p.fail(err)
	if vital && f.running.Load() {
		f.once.Do(func() { close(f.wrecked) })
		park()
	}
	return err
}

// park does not return.
func park() { select {} }

func (f *mapFS) opened(name string, file vfs.File, err error) (vfs.File, error) {
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
	return f.FS.Remove(name)
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
	if err != nil {
		return nil, err
	}
	return &mapFile{File: d, fs: f, vital: true}, nil
}

// Rename implements vfs.FS.
func (f *mapFS) Rename(oldname, newname string) error {
	return f.check(f.vital(newname), f.FS.Rename(oldname, newname))
}

// Lock implements vfs.FS.
func (f *mapFS) Lock(name string) (io.Closer, error) {
	l, err := f.FS.Lock(name)
	if err == nil {
		f.mu.Lock()
		f.locks = append(f.locks, l)
		f.mu.Unlock()
	}
	return l, err
}

// abandon releases the lock of a map that is not going to be closed, so that
// the store can be opened again in this process.
func (f *mapFS) abandon() {
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
		s.mapFS.abandon()
		return s.p.get()
	}
}
