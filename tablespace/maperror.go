package tablespace

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// What Pebble says of damage: the offset of a block, the name of a file.
var (
	blockAt     = regexp.MustCompile(`block (\d+)/\d+`)
	mapFileName = regexp.MustCompile(`(?:OPTIONS|MANIFEST)-\d+|\d+\.(?:sst|blob|log)\b`)
)

// mapError returns an error of Pebble as the rest of the store knows it: damaged
// or missing files are corruption, all else is what the disk said.
func (s *Space) mapError(what string, err error) error {
	if !pebble.IsCorruptionError(err) && !oserror.IsNotExist(err) {
		return fmt.Errorf("saker: %s: %w", what, err)
	}
	return s.mapCorruption(what, err)
}

// openError is mapError of an opening. Much of what damage leads to there Pebble
// reports as errors of any kind, but if the disk did all that it was asked, what is
// on it must be wrong.
func (s *Space) openError(err error) error {
	const what = "open leaf map"
	if s.mapFS.reads.failed.Load() || s.p.get() != nil {
		return fmt.Errorf("saker: %s: %w", what, err)
	}
	ce := s.mapCorruption(what, err)
	switch {
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		ce.Why = "the leaf map, or the marker of its manifest, is missing, but log or runs are there"
	case errors.Is(err, pebble.ErrDBNotPristine):
		ce.Why = "the marker of the leaf map's format is missing"
	}
	return ce
}

// mapCorruption names the file that Pebble complains of, else the one that it read
// last while it opened, else the directory.
func (s *Space) mapCorruption(what string, err error) *base.CorruptionError {
	why, _, _ := strings.Cut(err.Error(), "\n")
	dir := s.o.FS.PathJoin(s.o.Dir, mapDirName)
	ce := &base.CorruptionError{File: dir, Why: what + ": " + why}
	var pe *iofs.PathError
	switch info := pebble.ExtractDataCorruptionInfo(err); {
	case info != nil:
		ce.File = info.Path
	case errors.As(err, &pe):
		ce.File = pe.Path
	case errors.Is(err, pebble.ErrDBDoesNotExist), errors.Is(err, pebble.ErrDBNotPristine):
	case mapFileName.MatchString(why):
		ce.File = s.o.FS.PathJoin(dir, mapFileName.FindString(why))
	case s.mapFS.reads.last.Load() != nil:
		ce.File = *s.mapFS.reads.last.Load()
	}
	if m := blockAt.FindStringSubmatch(why); m != nil {
		ce.Offset, _ = strconv.ParseInt(m[1], 10, 64) // digits, and few
	}
	return ce
}

// mapReads watches what Pebble reads while it opens.
type mapReads struct {
	opened atomic.Bool // Pebble is open: what follows is not looked at
	failed atomic.Bool // the disk did not do what it was asked
	last   atomic.Pointer[string]
}

// note returns err.
func (r *mapReads) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && !oserror.IsNotExist(err) {
		r.failed.Store(true)
	}
	return err
}

// Open implements vfs.FS.
func (f *mapFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if f.reads.opened.Load() {
		return file, err
	}
	if f.reads.note(err) != nil {
		return nil, err
	}
	f.reads.last.Store(&name)
	return &readFile{File: file, r: &f.reads}, nil
}

// List implements vfs.FS.
func (f *mapFS) List(dir string) ([]string, error) {
	names, err := f.FS.List(dir)
	return names, f.reads.note(err)
}

// Stat implements vfs.FS.
func (f *mapFS) Stat(name string) (vfs.FileInfo, error) {
	info, err := f.FS.Stat(name)
	return info, f.reads.note(err)
}

// MkdirAll implements vfs.FS. Pebble makes its directory whether or not it is there.
func (f *mapFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.reads.note(f.FS.MkdirAll(dir, perm))
}

// readFile is a file that Pebble reads while it opens.
type readFile struct {
	vfs.File
	r *mapReads
}

// Read implements vfs.File.
func (f *readFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	return n, f.r.note(err)
}

// ReadAt implements vfs.File.
func (f *readFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	return n, f.r.note(err)
}

// Stat implements vfs.File.
func (f *readFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.r.note(err)
}
