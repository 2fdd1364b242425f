package engine

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hookFS calls a function once, before the next write to a run file or read from it.
type hookFS struct {
	vfs.FS
	hook atomic.Pointer[func()] // before the next write
	read atomic.Pointer[func()] // before the next read
}

type hookFile struct {
	vfs.File
	fs *hookFS
}

func (h *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := h.FS.Create(name, c)
	if err == nil && strings.HasSuffix(name, ".run") {
		f = &hookFile{f, h}
	}
	return f, err
}

func (f *hookFile) Write(b []byte) (int, error) {
	if fn := f.fs.hook.Swap(nil); fn != nil {
		(*fn)()
	}
	return f.File.Write(b)
}

func (f *hookFile) ReadAt(b []byte, off int64) (int, error) {
	if fn := f.fs.read.Swap(nil); fn != nil {
		(*fn)()
	}
	return f.File.ReadAt(b, off)
}

// during runs fn while a checkpoint writes its first frames.
func during(t *testing.T, h *hookFS, db *DB, fn func()) {
	t.Helper()
	ran := false
	hook := func() { fn(); ran = true }
	h.hook.Store(&hook)
	check(t, db.Checkpoint(ctx))
	if !ran {
		t.Fatal("the checkpoint wrote nothing")
	}
}
