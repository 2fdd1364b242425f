package engine

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// The file FORMAT says how to read the store:
//
//	saker format 1
//	incarnation 17
//
// The second line counts the openings and is part of every transaction and run
// id, so that none repeats (L7); the file is replaced, and synced, before any
// such id is used.
const (
	formatName    = "FORMAT"
	formatVersion = 1

	lockName = "LOCK"
	logDir   = "log"
	spaceDir = "space"
)

// openFormat checks the format, and raises and stores the incarnation.
func openFormat(fs vfs.FS, dir string) (uint32, error) {
	path := fs.PathJoin(dir, formatName)
	inc, err := readFormat(fs, path)
	if err != nil {
		return 0, err
	}
	if inc == 0 {
		if err := checkFresh(fs, dir); err != nil {
			return 0, err
		}
	}
	if inc >= 1<<22 {
		return 0, &base.CorruptionError{File: formatName, Why: "incarnation out of range"}
	}
	inc++
	return inc, writeFormat(fs, dir, path, inc)
}

// checkFresh refuses a directory that has data and no FORMAT, which is written
// first in a new store and last in a backup: to take it for an empty store would
// be to lose the data in it.
func checkFresh(fs vfs.FS, dir string) error {
	for _, name := range []string{logDir, spaceDir} {
		_, err := fs.Stat(fs.PathJoin(dir, name))
		if err == nil {
			why := "missing, but " + name + " is there: a backup that did not end, or a lost file"
			return &base.CorruptionError{File: formatName, Why: why}
		}
		if !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func readFormat(fs vfs.FS, path string) (uint32, error) {
	f, err := fs.Open(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return parseFormat(string(b))
}

// parseFormat reads the content of a FORMAT file.
func parseFormat(s string) (uint32, error) {
	var version, inc uint32
	lines := strings.SplitN(s, "\n", 3)
	if len(lines) != 3 || lines[2] != "" {
		return 0, &base.CorruptionError{File: formatName, Why: "not two lines"}
	}
	if _, err := fmt.Sscanf(lines[0], "saker format %d", &version); err != nil || version == 0 {
		return 0, &base.CorruptionError{File: formatName, Why: "no format version"}
	}
	if version > formatVersion {
		return 0, fmt.Errorf("%w: %d, this version knows %d", ErrFormatTooNew, version, formatVersion)
	}
	if _, err := fmt.Sscanf(lines[1], "incarnation %d", &inc); err != nil || inc == 0 {
		return 0, &base.CorruptionError{File: formatName, Why: "no incarnation"}
	}
	return inc, nil
}

func writeFormat(fs vfs.FS, dir, path string, inc uint32) error {
	tmp := path + ".new"
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "saker format %d\nincarnation %d\n", formatVersion, inc)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a directory with its parents and syncs every directory in which
// one appeared: a store that acknowledges a commit must not vanish as a whole.
func makeDir(fs vfs.FS, dir string) error {
	var missing []string
	for d := dir; ; {
		if _, err := fs.Stat(d); err == nil {
			break
		}
		missing = append(missing, d)
		parent := fs.PathDir(d)
		if parent == d || parent == "" {
			break
		}
		d = parent
	}
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range missing {
		parent := fs.PathDir(d)
		if parent == d {
			continue
		}
		if parent == "" {
			parent = "."
		}
		f, err := fs.OpenDir(parent)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
