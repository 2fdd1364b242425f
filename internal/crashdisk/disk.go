// Package crashdisk makes disks for tests: file systems in memory that can crash.
package crashdisk

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// New returns a disk on which dir is on stable storage already. What is not synced
// is what a vfs.MemFS.CrashClone of it may lose.
func New(t interface {
	Helper()
	Fatal(args ...any)
}, dir string,
) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := fs.OpenDir("")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return fs
}
