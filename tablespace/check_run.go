package tablespace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// runFiles reads every run file that there is.
func (c *checker) runFiles() error {
	var list []*Run
	c.s.regMu.RLock()
	for _, r := range c.s.runs {
		list = append(list, r)
	}
	c.s.regMu.RUnlock()
	for _, r := range list {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if !r.Acquire() {
			continue
		}
		err := c.runFile(r)
		r.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// runScan is the state of reading one run file from its beginning.
type runScan struct {
	c       *checker
	r       *Run
	f       vfs.File
	path    string
	owner   base.TxnID
	end     uint64 // of the bytes in the file
	sure    uint64 // below it everything must be whole
	pending []IndexEntry
	tail    uint64 // end of the last index block
	lost    bool   // frames were passed over: the next index names unseen ones
	win     []byte
	at      uint64 // of win
}

// runFile checks one run file, frame by frame. Of a run of this life everything
// written must be whole; of an older one what was synced before something relied
// on it: all of it if its owner committed, else up to the last listed frame. The
// rest may be what a crash left.
func (c *checker) runFile(r *Run) error {
	s := runScan{c: c, r: r, path: c.s.runPath(r.id), end: r.written.Load()}
	if s.end == 0 {
		return nil
	}
	s.sure = s.end
	if c.s.isOld(r) {
		l := c.listed[r.id]
		switch {
		case l == nil:
			s.sure = 0
		case !l.decided:
			s.sure = l.end
		}
	}
	var err error
	if s.f, err = c.s.o.FS.Open(s.path); err != nil {
		switch {
		case s.sure == 0:
		case oserror.IsNotExist(err):
			c.corrupt(s.path, 0, "cannot be opened: %v", err)
		default:
			c.Report(fmt.Errorf("saker: open run: %w", err))
		}
		return nil
	}
	defer func() { _ = s.f.Close() }()
	if !s.header() {
		return nil // nothing in it can be told apart
	}
	for off := uint64(runHeaderSize); off < s.end; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, why := s.piece(off)
		if n == 0 {
			if off >= s.sure {
				return nil
			}
			c.corrupt(s.path, off, "%s", why)
			if n = s.resync(off + 1); n == 0 {
				return nil
			}
			n -= off
			s.lost, s.pending = true, s.pending[:0]
		}
		off += n
	}
	return nil
}

// header checks the header of the file.
func (s *runScan) header() bool {
	id, owner, why := parseRunHeader(s.bytes(0, runHeaderSize))
	switch {
	case why != "":
	case id != s.r.id:
		why = "run header names another run"
	case s.r.owner != 0 && owner != s.r.owner:
		why = "run header names another owner"
	}
	s.owner = owner
	if why != "" && s.sure > 0 {
		s.c.corrupt(s.path, 0, "%s", why)
	}
	return why == ""
}

// bytes returns n bytes at off, fewer at the end of the file; they are valid
// until the next call.
func (s *runScan) bytes(off uint64, n int) []byte {
	if off >= s.at && off+uint64(n) <= s.at+uint64(len(s.win)) {
		return s.win[off-s.at:][:n]
	}
	want := int(min(uint64(max(n, 1<<20)), s.end-min(off, s.end)))
	if cap(s.win) < want {
		s.win = make([]byte, want)
	}
	s.win, s.at = s.win[:want], off
	got, err := s.f.ReadAt(s.win, int64(off))
	if err != nil && !errors.Is(err, io.EOF) {
		s.c.Report(fmt.Errorf("saker: read run %s: %w", s.path, err))
	}
	s.win = s.win[:got]
	return s.win[:min(n, got)]
}

// piece checks the frame or index block at off and returns its length, or why
// there is none.
func (s *runScan) piece(off uint64) (n uint64, why string) {
	head := s.bytes(off, versionchain.FrameHeaderSize)
	if len(head) < 8 {
		return 0, "run file is cut off"
	}
	if binary.LittleEndian.Uint32(head[4:]) == indexMagic {
		if n := s.index(off); n > 0 {
			return n, ""
		}
		return 0, "damaged index block"
	}
	size, err := versionchain.FrameLen(head)
	if err == nil && off+uint64(size) > s.end {
		return 0, "neither a frame nor an index block"
	}
	if err == nil {
		b := s.bytes(off, size)
		if err = versionchain.CheckFrame(b, s.r.id, off); err == nil {
			s.frame(off, b)
			return uint64(size), ""
		}
	}
	if ce, ok := errors.AsType[*base.CorruptionError](err); ok {
		return 0, ce.Why
	}
	return 0, err.Error()
}

// frame checks the rows of a frame whose checksum is right.
func (s *runScan) frame(off uint64, b []byte) {
	fr, err := versionchain.ParseFrame(b)
	if err == nil {
		err = fr.Verify()
	}
	if err != nil {
		s.c.Report(placed(err, s.path, off))
		return
	}
	m := fr.Meta()
	if m.Owner != s.owner {
		s.c.corrupt(s.path, off, "a frame of %v in a run of %v", m.Owner, s.owner)
	}
	if len(s.pending) == indexBlockEntries && !s.lost {
		s.c.corrupt(s.path, off, "M5: more than %d frames without an index block", indexBlockEntries)
		s.lost = true
	}
	if !s.lost {
		s.pending = append(s.pending, IndexEntry{Addr: Addr{Run: s.r.id, Off: off, Len: uint32(len(b))}, Table: m.Table, Owner: m.Owner})
	}
}

// index checks the index block at off, whose length only its end tells, and
// returns that; 0 if there is none.
func (s *runScan) index(off uint64) uint64 {
	b := s.bytes(off, indexHeaderSize+indexBlockEntries*indexEntrySize+indexTailSize)
	for n := 1; n <= indexBlockEntries; n++ {
		size := indexHeaderSize + n*indexEntrySize + indexTailSize
		if size > len(b) {
			return 0
		}
		if binary.LittleEndian.Uint32(b[size-indexTailSize:]) != uint32(n) {
			continue
		}
		x, why := parseIndexBlock(b[:size], s.r.id, off+uint64(size))
		if why != "" {
			continue
		}
		s.compare(off, &x)
		return uint64(size)
	}
	return 0
}

// compare checks that an index block names the frames before it (L11).
func (s *runScan) compare(off uint64, x *indexBlock) {
	bad := func(format string, args ...any) { s.c.corrupt(s.path, off, "L11: "+format, args...) }
	switch {
	case s.lost:
	case x.prev != s.tail:
		bad("index block follows the one that ends at %d, not the one that ends at %d", x.prev, s.tail)
	case x.len() != len(s.pending):
		bad("index block names %d frames of %d", x.len(), len(s.pending))
	default:
		var seq base.EditSeq
		for i := range s.pending {
			e := x.entry(i)
			if e.Seq < seq {
				bad("edits of index entry %d and the one before are out of order", i)
			}
			seq, e.Seq = e.Seq, 0
			if e != s.pending[i] {
				bad("index entry %d does not match the frame at %d", i, s.pending[i].Off)
			}
		}
	}
	s.tail, s.pending, s.lost = off+uint64(indexHeaderSize+len(x.b)+indexTailSize), s.pending[:0], false
}

// resync returns the offset of the first whole frame or index block from off on,
// 0 if there is none.
func (s *runScan) resync(off uint64) uint64 {
	for ; off+8 < s.end && s.c.ctx.Err() == nil; off++ {
		head := s.bytes(off, versionchain.FrameHeaderSize)
		if len(head) < 12 {
			return 0
		}
		if binary.LittleEndian.Uint32(head[4:]) == indexMagic {
			tail, pending, lost := s.tail, s.pending, s.lost
			s.lost = true // it is only looked for; piece comes back to it
			n := s.index(off)
			s.tail, s.pending, s.lost = tail, pending, lost
			if n > 0 {
				return off
			}
		}
		if !versionchain.LooksLikeFrame(head) {
			continue
		}
		size, err := versionchain.FrameLen(head)
		if err != nil || off+uint64(size) > s.end {
			continue
		}
		if versionchain.CheckFrame(s.bytes(off, size), s.r.id, off) == nil {
			return off
		}
	}
	return 0
}

// orphans looks for run files that nothing needs, and that nobody will remove.
func (c *checker) orphans() error {
	s := c.s
	names, err := s.o.FS.List(s.runDir)
	if err != nil {
		c.Report(fmt.Errorf("saker: list runs: %w", err))
		return nil
	}
	var suspects []*Run
	for _, name := range names {
		id, ok := parseRunName(name)
		if !ok {
			continue // not ours
		}
		switch r := s.known(id); {
		case r == nil:
			// Known before it was made, and forgotten only after it was unlinked.
			if _, err := s.o.FS.Stat(s.runPath(id)); err == nil && s.known(id) == nil {
				c.corrupt(s.runPath(id), 0, "run file that nobody knows of")
			}
		case r.idleButKept():
			suspects = append(suspects, r)
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	if err := s.WaitApplied(s.LastSeq()); err != nil {
		return nil // the store has failed: nothing is removed any more
	}
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	waiting := map[*Run]bool{}
	s.idleMu.Lock()
	for _, x := range s.idleRuns {
		waiting[x.r] = true
	}
	s.idleMu.Unlock()
	s.holdMu.Lock()
	for _, r := range s.held {
		waiting[r] = true
	}
	s.holdMu.Unlock()
	for _, r := range suspects {
		if r.idleButKept() && !waiting[r] {
			c.corrupt(s.runPath(r.id), 0, "L11: run file that nothing lists and nobody is going to remove")
		}
	}
	return nil
}

// idleButKept reports whether nothing lists the run, adds to it, or has removed it.
func (r *Run) idleButKept() bool {
	return r.sealed.Load() && r.refs.Load() == 0 && r.listed.Load() == 0 && r.applied.Load() == 0
}

// mapFiles verifies the checksums in the files of the map, which Pebble may have
// in its cache and not look at again.
func (c *checker) mapFiles() error {
	missing := map[string]bool{}
	for again := true; again; {
		levels, err := c.s.db.SSTables()
		if err != nil {
			c.unreadable(err)
			return nil
		}
		// A compaction may have removed a file since it was listed: list them again.
		again = len(missing) == 0
		for _, level := range levels {
			for _, t := range level {
				path := c.s.o.FS.PathJoin(c.mapPath(), fmt.Sprintf("%s.sst", t.BackingSSTNum))
				if !again && !missing[path] {
					continue
				}
				if err := c.ctx.Err(); err != nil {
					return err
				}
				err := c.mapFile(path)
				if again && oserror.IsNotExist(err) {
					missing[path] = true
				} else if pebble.IsCorruptionError(err) || oserror.IsNotExist(err) {
					c.corrupt(path, blockOf(err), "%v", err)
				} else if err != nil {
					c.Report(fmt.Errorf("saker: read %s: %w", path, err))
				}
			}
		}
		again = again && len(missing) > 0
	}
	return nil
}

// blockOf returns the offset of the block that Pebble's error is about, 0 if it
// does not say.
func blockOf(err error) (off uint64) {
	if _, rest, ok := strings.Cut(err.Error(), "block "); ok {
		_, _ = fmt.Sscanf(rest, "%d/", &off)
	}
	return off
}

func (c *checker) mapFile(path string) error {
	f, err := c.s.o.FS.Open(path)
	if err != nil {
		return err
	}
	var src objstorage.Readable
	if src, err = sstable.NewSimpleReadable(f); err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(c.ctx, src, sstable.ReaderOptions{})
	if err != nil {
		return errors.Join(err, src.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}
