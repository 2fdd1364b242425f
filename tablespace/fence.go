package tablespace

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// poison is the sticky first failure of a space (L8).
type poison struct {
	err       atomic.Pointer[error]
	ch        chan struct{} // closed by the first failure
	once      sync.Once
	onFailure func(error)
	wg        sync.WaitGroup // the call of onFailure
	hooks     []func(error)  // fail the waiters; set before the first use
}

// fail records the first failure and tells everybody. It may be called with any
// lock held, Pebble's included, so OnFailure runs on a goroutine of its own.
func (p *poison) fail(err error) {
	p.once.Do(func() {
		wrapped := fmt.Errorf("%w: %w", base.ErrPoisoned, err)
		p.err.Store(&wrapped)
		close(p.ch)
		p.wg.Go(func() {
			for _, h := range p.hooks {
				h(wrapped)
			}
			if p.onFailure != nil {
				p.onFailure(err)
			}
		})
	})
}

// get returns the sticky error, or nil.
func (p *poison) get() error {
	if e := p.err.Load(); e != nil {
		return *e
	}
	return nil
}

// fence is the only door to the disk for Pebble and the runs. The first write
// or sync that fails shuts it: nothing more is written, reads go on. It lets
// Pebble survive its own fatal errors: it calls Logger.Fatalf where it cannot
// go on, which must not end the process, and goes on all the same when Fatalf
// returns; behind a shut fence that does no harm, because nothing that it
// writes after a half-written manifest reaches the disk.
type fence struct {
	vfs.FS
	p *poison
}

// shutPause slows down those who retry behind a shut fence: Pebble repeats a
// failed flush at once and for ever.
const shutPause = 10 * time.Millisecond

// refused returns the sticky error when the fence is shut.
func (f *fence) refused() error {
	err := f.p.get()
	if err != nil {
		time.Sleep(shutPause)
	}
	return err
}

// opened wraps a file opened for writing, or the failure to open it.
func (f *fence) opened(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		f.p.fail(err)
		return nil, err
	}
	return &fencedFile{File: file, p: f.p}, nil
}

// Create implements vfs.FS.
func (f *fence) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.refused(); err != nil {
		return nil, err
	}
	return f.opened(f.FS.Create(name, c))
}

// OpenReadWrite implements vfs.FS.
func (f *fence) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := f.refused(); err != nil {
		return nil, err
	}
	return f.opened(f.FS.OpenReadWrite(name, c, opts...))
}

// ReuseForWrite implements vfs.FS.
func (f *fence) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.refused(); err != nil {
		return nil, err
	}
	return f.opened(f.FS.ReuseForWrite(oldname, newname, c))
}

// OpenDir implements vfs.FS.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: d, p: f.p}, nil
}

// Link implements vfs.FS.
func (f *fence) Link(oldname, newname string) error {
	if err := f.refused(); err != nil {
		return err
	}
	return f.FS.Link(oldname, newname)
}

// Rename implements vfs.FS.
func (f *fence) Rename(oldname, newname string) error {
	if err := f.refused(); err != nil {
		return err
	}
	err := f.FS.Rename(oldname, newname)
	if err != nil {
		f.p.fail(err)
	}
	return err
}

// Remove implements vfs.FS. A file that cannot be removed costs space and no
// data, so that it does not shut the fence.
func (f *fence) Remove(name string) error {
	if err := f.refused(); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// Unwrap implements vfs.FS.
func (f *fence) Unwrap() vfs.FS { return f.FS }

// fencedFile is a file opened through the fence.
type fencedFile struct {
	vfs.File
	p *poison
}

func (f *fencedFile) check(err error) error {
	if err != nil {
		f.p.fail(err)
	}
	return err
}

// Write implements vfs.File.
func (f *fencedFile) Write(b []byte) (int, error) {
	if err := f.p.get(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(b)
	return n, f.check(err)
}

// WriteAt implements vfs.File.
func (f *fencedFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.p.get(); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(b, off)
	return n, f.check(err)
}

// Sync implements vfs.File.
func (f *fencedFile) Sync() error {
	if err := f.p.get(); err != nil {
		return err
	}
	return f.check(f.File.Sync())
}

// SyncData implements vfs.File.
func (f *fencedFile) SyncData() error {
	if err := f.p.get(); err != nil {
		return err
	}
	return f.check(f.File.SyncData())
}

// SyncTo implements vfs.File.
func (f *fencedFile) SyncTo(length int64) (bool, error) {
	if err := f.p.get(); err != nil {
		return false, err
	}
	full, err := f.File.SyncTo(length)
	return full, f.check(err)
}
