package engine

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// Version is the version of this engine, which a store records for people.
const Version = "0.3.0"

// The file FORMAT says how to read the store:
//
//	saker format 3
//	engine 0.3.0
//	incarnation 17
//	crc32c 5bd1e995
//
// The first line is the schema version and stays where it is for ever, so that any
// engine can refuse what is newer. The third counts the openings and is part of
// every transaction and run id, so that none repeats (L7); the file is replaced,
// and synced, before any such id is used. The checksum, crc32c in eight hex
// digits, covers the lines before it. Format 1 had no engine and no checksum, format 2
// no indexes: an engine that does not know them would write rows without their
// entries, and show the entries as tables.
const (
	formatName    = "FORMAT"
	formatVersion = 3
	formatMax     = 256 // bytes; no FORMAT is longer

	maxIncarnation = 1 << 22

	lockName = "LOCK"
	logDir   = "log"
	spaceDir = "space"
)

// schema is the formats that an engine knows.
type schema struct {
	version uint32          // the newest, in which stores are made
	steps   []migrationStep // steps[i] leads from format i+1 to format i+2
}

// migrationStep changes the files of a closed store from one format to the next.
// FORMAT is replaced when it returns: that moment is the step. A crash before it
// repeats the step, so that it must bear its own traces; nil is a change of FORMAT
// alone.
type migrationStep func(fs vfs.FS, dir string) error

// currentSchema is that of this engine.
func currentSchema() *schema {
	return &schema{version: formatVersion, steps: []migrationStep{
		nil, // 2: engine and checksum in FORMAT
		nil, // 3: indexes, which are tables whose names no user could give before
	}}
}

// format is the content of FORMAT.
type format struct {
	version     uint32
	engine      string
	incarnation uint32
}

// openFormat brings the store to the newest format, one step after the other, and
// raises and stores the incarnation. It returns that.
func openFormat(fs vfs.FS, dir string, s *schema) (uint32, error) {
	f, found, err := readFormat(fs, dir, s.version)
	if err != nil {
		return 0, err
	}
	if !found {
		f.version = s.version
	}
	for f.version < s.version {
		if step := s.steps[f.version-1]; step != nil {
			if err := step(fs, dir); err != nil {
				return 0, fmt.Errorf("migrate from format %d: %w", f.version, err)
			}
		}
		f.version++
		if err := writeFormat(fs, dir, f); err != nil {
			return 0, fmt.Errorf("migrate to format %d: %w", f.version, err)
		}
	}
	if f.incarnation++; f.incarnation > maxIncarnation {
		return 0, badFormat("incarnation out of range")
	}
	if err := writeFormat(fs, dir, f); err != nil {
		return 0, err
	}
	return f.incarnation, nil
}

// readFormat reads FORMAT; found is false where there is no store yet.
func readFormat(fs vfs.FS, dir string, known uint32) (_ format, found bool, _ error) {
	f, err := fs.Open(fs.PathJoin(dir, formatName))
	if errors.Is(err, iofs.ErrNotExist) {
		// It is written first in a new store and last in a backup: to take what lies
		// here for an empty store would be to lose the data in it.
		for _, name := range []string{logDir, spaceDir} {
			if _, err := fs.Stat(fs.PathJoin(dir, name)); err == nil {
				return format{}, false, badFormat("missing, but " + name + " is there: a backup that did not end, or a lost file")
			} else if !errors.Is(err, iofs.ErrNotExist) {
				return format{}, false, err
			}
		}
		return format{}, false, nil
	}
	if err != nil {
		return format{}, false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, formatMax+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return format{}, false, err
	}
	got, err := parseFormat(string(b), known)
	return got, true, err
}

func badFormat(why string) error { return &base.CorruptionError{File: formatName, Why: why} }

// parseFormat reads the content of a FORMAT file. ErrFormatTooNew when its first
// line says more than known.
func parseFormat(s string, known uint32) (f format, err error) {
	first, rest, whole := strings.Cut(s, "\n")
	if n, err := fmt.Sscanf(first, "saker format %d", &f.version); n != 1 || err != nil || f.version == 0 || !whole {
		return format{}, badFormat("no format version")
	}
	if f.version > known {
		return format{}, fmt.Errorf("%w: %d, this engine, %s, knows %d", ErrFormatTooNew, f.version, Version, known)
	}
	want := fmt.Sprintf("saker format %d\n", f.version)
	if f.version == 1 {
		_, _ = fmt.Sscanf(rest, "incarnation %d", &f.incarnation) // what it did not read is not what is there
		want += fmt.Sprintf("incarnation %d\n", f.incarnation)
	} else {
		_, _ = fmt.Sscanf(rest, "engine %s\nincarnation %d", &f.engine, &f.incarnation)
		want = f.encode()
	}
	switch {
	case s != want:
		return format{}, badFormat("not what an engine writes")
	case f.incarnation == 0 || f.incarnation > maxIncarnation:
		return format{}, badFormat("incarnation out of range")
	}
	return f, nil
}

// encode returns the content of a FORMAT file, from format 2 on.
func (f *format) encode() string {
	s := fmt.Sprintf("saker format %d\nengine %s\nincarnation %d\n", f.version, f.engine, f.incarnation)
	return s + fmt.Sprintf("crc32c %08x\n", crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli)))
}

// writeFormat replaces FORMAT, durably and as a whole.
func writeFormat(fs vfs.FS, dir string, content format) error {
	content.engine = Version
	path := fs.PathJoin(dir, formatName)
	tmp := path + ".new"
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, content.encode())
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
