package tablespace

import (
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// poison is the sticky first failure of a space (L8).
type poison struct {
	err       atomic.Pointer[error]
	ch        chan struct{} // closed by the first failure
	onFailure func(error)
	hooks     []func(error) // fail the waiters; set before the first use

	mu    sync.Mutex
	quiet bool           // nobody is told any more
	wg    sync.WaitGroup // the goroutine that tells everybody
}

// fail records the first failure and tells everybody. It may be called with any
// lock held, Pebble's included, so OnFailure runs on a goroutine of its own.
func (p *poison) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err.Load() != nil {
		return
	}
	wrapped := base.Poisoned(err)
	p.err.Store(&wrapped)
	close(p.ch)
	if p.quiet {
		return
	}
	p.wg.Go(func() {
		for _, h := range p.hooks {
			h(wrapped)
		}
		if p.onFailure != nil {
			p.onFailure(err)
		}
	})
}

// rest returns when everybody has been told of a failure. One that comes later,
// from a map that was abandoned, is told nobody.
func (p *poison) rest() {
	p.mu.Lock()
	p.quiet = true
	p.mu.Unlock()
	p.wg.Wait()
}

// check poisons the space if err is not nil, and returns err as everybody else
// sees it: whoever meets the failure first must know that it poisoned the store.
func (p *poison) check(err error) error {
	if err != nil {
		p.fail(err)
	}
	return base.Poisoned(err)
}

// get returns the sticky error, or nil.
func (p *poison) get() error {
	if e := p.err.Load(); e != nil {
		return *e
	}
	return nil
}

// fence is the door to the disk for runs. The first write or sync that fails,
// here or elsewhere, shuts it: nothing more is written (L8), reads go on.
type fence struct {
	vfs.FS
	p *poison
}

// Create implements vfs.FS.
func (f *fence) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.p.get(); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	if err != nil {
		return nil, f.p.check(err)
	}
	return &fencedFile{File: file, p: f.p}, nil
}

// OpenDir implements vfs.FS.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: d, p: f.p}, nil
}

// Remove implements vfs.FS. A file that cannot be removed costs space and no
// data, so that it does not shut the fence.
func (f *fence) Remove(name string) error {
	if err := f.p.get(); err != nil {
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

// Write implements vfs.File.
func (f *fencedFile) Write(b []byte) (int, error) {
	if err := f.p.get(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(b)
	return n, f.p.check(err)
}

// Sync implements vfs.File.
func (f *fencedFile) Sync() error {
	if err := f.p.get(); err != nil {
		return err
	}
	return f.p.check(f.File.Sync())
}

// SyncData implements vfs.File.
func (f *fencedFile) SyncData() error {
	if err := f.p.get(); err != nil {
		return err
	}
	return f.p.check(f.File.SyncData())
}

// SyncTo implements vfs.File.
func (f *fencedFile) SyncTo(length int64) (bool, error) {
	if err := f.p.get(); err != nil {
		return false, err
	}
	full, err := f.File.SyncTo(length)
	return full, f.p.check(err)
}
