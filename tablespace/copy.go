package tablespace

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// Copy is a copy of a space in the making: the map first, as of one edit, then
// the runs, which are complete by then as far as that map or a commit record
// copied in between names them. No run file goes while it is open.
//
//	StartCopy ── Map: flush, copy ── (the caller copies the log) ── Runs ── Close
//
// Whatever fails to be written into the copy does not poison the space.
type Copy struct {
	s       *Space
	dir     string
	release func() error
	failed  copyErr
	useless map[base.RunID]struct{} // not listed in the map that was copied, nor ever again
}

// StartCopy begins a copy into dir, an existing and empty directory in which
// nobody else makes one.
func (s *Space) StartCopy(dir string) *Copy {
	c := &Copy{s: s, dir: s.o.FS.PathJoin(dir)} // as Pebble will spell it
	s.mapFS.exempt(c.dir, &c.failed)
	c.release = s.holdUnlink()
	return c
}

// Close lets run files go again. The copy is as complete as it was.
func (c *Copy) Close() {
	c.s.mapFS.forbid(c.dir)
	_ = c.release() // a file that could not be removed is collected by the next opening
}

// Map makes every edit so far durable and copies the map, files linked where
// the file system can. Edits go on meanwhile. ctx is asked before each step.
func (c *Copy) Map(ctx context.Context) error {
	s := c.s
	if err := ctx.Err(); err != nil {
		return err
	}
	seq, err := s.Flush()
	if err != nil {
		return err
	}
	// Before the map is copied: what no durable edit lists now, it will not list.
	c.useless = s.unlisted(seq)
	if err := ctx.Err(); err != nil {
		return err
	}
	err = s.db.Checkpoint(s.o.FS.PathJoin(c.dir, mapDirName))
	if err == nil {
		err = c.failed.get()
	}
	if err != nil {
		return fmt.Errorf("saker: copy leaf map: %w", err)
	}
	return s.p.get()
}

// unlisted returns the sealed runs that nothing lists as of edit seq, which is
// durable, and those that wait for the end of a hold only.
func (s *Space) unlisted(seq base.EditSeq) map[base.RunID]struct{} {
	set := map[base.RunID]struct{}{}
	s.idleMu.Lock()
	for _, x := range s.idleRuns {
		if x.mayGo(seq) && x.r.listed.Load() == 0 && x.r.applied.Load() == 0 {
			set[x.r.id] = struct{}{}
		}
	}
	s.idleMu.Unlock()
	s.holdMu.Lock()
	for _, r := range s.held {
		set[r.id] = struct{}{}
	}
	s.holdMu.Unlock()
	return set
}

// Runs copies the runs that keep wants, and of which something may be listed,
// into a new directory: a sealed one as a hard link where the file system can,
// one that still grows up to its present end. What it copies is synced first,
// and the directory last. ctx ends it between two pieces.
func (c *Copy) Runs(ctx context.Context, keep func(*Run) bool) error {
	s, fs := c.s, c.s.o.FS
	dir := fs.PathJoin(c.dir, runDirName)
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("saker: copy runs: %w", err)
	}
	var list []*Run
	s.regMu.RLock()
	for _, r := range s.runs {
		if _, skip := c.useless[r.id]; !skip && r.refs.Load()&gone == 0 && r.size.Load() > 0 {
			list = append(list, r)
		}
	}
	s.regMu.RUnlock()
	var buf []byte
	for _, r := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !keep(r) {
			continue
		}
		if buf == nil {
			buf = make([]byte, chunkSizes[len(chunkSizes)-1])
		}
		if err := c.run(ctx, r, dir, buf); err != nil {
			return err
		}
	}
	return s.syncCopy(dir)
}

// run copies one run.
func (c *Copy) run(ctx context.Context, r *Run, dir string, buf []byte) error {
	s, fs := c.s, c.s.o.FS
	sealed := r.sealed.Load() // asked before the size: then the size is the last one
	size := r.size.Load()
	if err := r.Sync(); errors.Is(err, ErrRunNotFound) {
		return nil // dropped before unlinking was held: nothing of it is needed
	} else if err != nil {
		return err
	}
	from := s.runPath(r.id)
	to := fs.PathJoin(dir, fs.PathBase(from))
	if sealed {
		err := fs.Link(from, to)
		if err == nil {
			return nil
		}
		if oserror.IsExist(err) || oserror.IsNotExist(err) {
			return fmt.Errorf("saker: copy run: %w", err)
		}
	}
	return copyFile(ctx, fs, from, to, int64(size), buf)
}

// copyFile copies the first n bytes of a file and syncs them.
func copyFile(ctx context.Context, fs vfs.FS, from, to string, n int64, buf []byte) (err error) {
	src, err := fs.Open(from)
	if err != nil {
		return fmt.Errorf("saker: copy run: %w", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := fs.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("saker: copy run: %w", err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	for off := int64(0); off < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(n-off, int64(len(buf)))]
		if _, err := src.ReadAt(b, off); errors.Is(err, io.EOF) {
			return &base.CorruptionError{File: from, Offset: off, Why: "run file is cut off"}
		} else if err != nil {
			return fmt.Errorf("saker: copy run: %w", err)
		}
		if _, err := dst.Write(b); err != nil {
			return fmt.Errorf("saker: copy run: %w", err)
		}
		off += int64(len(b))
	}
	if err := dst.Sync(); err != nil {
		return fmt.Errorf("saker: copy run: %w", err)
	}
	return nil
}

// syncCopy syncs a directory of the copy, which the fence has no part in.
func (s *Space) syncCopy(dir string) error {
	d, err := s.o.FS.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("saker: copy runs: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("saker: copy runs: %w", err)
	}
	return nil
}
