package tablespace

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// entry checks one leaf of the map.
func (c *checker) entry(key, value []byte) error {
	en, err := decodeEntry(key, value)
	if err != nil {
		return err
	}
	table := base.TableID(binary.BigEndian.Uint32(key[1:]))
	c.used[table] = struct{}{}
	bad := func(format string, args ...any) {
		c.corrupt(c.mapPath(), 0, "leaf of table %d at %q: "+format, append([]any{table, en.Low}, args...)...)
	}
	if en.High != nil && bytes.Compare(en.Low, en.High) >= 0 {
		bad("P4: fences out of order")
	}
	if bytes.Equal(c.table, key[:entryKeyPrefix]) && (c.open || bytes.Compare(c.high, en.Low) > 0) {
		bad("P4: overlaps the leaf before")
	}
	if c.prefix != 0 && en.Seq > c.prefix {
		bad("L11: of edit %d, but those up to %d survive", en.Seq, c.prefix)
	}
	c.table = append(c.table[:0], key[:entryKeyPrefix]...)
	c.high, c.open = append(c.high[:0], en.High...), en.High == nil
	for i := range en.Frames {
		c.frame(table, &en, i, bad)
	}
	return nil
}

// frame checks frame i of an entry.
func (c *checker) frame(table base.TableID, en *Entry, i int, bad func(string, ...any)) {
	f := &en.Frames[i]
	for j := range i {
		if en.Frames[j].Addr == f.Addr {
			bad("L10: lists the frame at %d of run %x twice", f.Off, uint64(f.Run))
		}
	}
	l := c.listed[f.Run]
	if l == nil {
		l = &listedRun{}
		c.listed[f.Run] = l
	}
	l.n++
	r := c.s.known(f.Run)
	there := r != nil && r.Acquire()
	if there {
		defer r.Release()
	}
	if !c.Frames {
		if there && f.Owner == 0 && (f.Off < runHeaderSize || f.Off+uint64(f.Len) > r.size.Load()) {
			bad("a frame lies outside of its run")
		}
		return
	}
	if !c.judge(table, en, f, l, bad) {
		return // garbage: nobody reads it
	}
	if !there {
		c.corrupt(c.s.runPath(f.Run), 0, "L10: a leaf of table %d at %q lists a frame of it, but there is no such file", table, en.Low)
		return
	}
	l.end = max(l.end, f.Off+uint64(f.Len))
	c.content(table, en, f, r)
}

// judge reports whether somebody may read the frame: its rows are committed, or
// their owner is live or has committed. REQUIRES: whether its run is there was
// asked before; a run goes only after its owner was aborted.
func (c *checker) judge(table base.TableID, en *Entry, f *FrameRef, l *listedRun, bad func(string, ...any)) bool {
	if f.Owner == 0 {
		return true
	}
	fate, ts := c.Fate(f.Owner)
	switch fate {
	case FateLive:
		return true
	case FateCommitted:
		l.decided = true
		if _, ok := c.outcomes[f.Owner]; !ok && ts <= c.ckpt {
			bad("L7: lists a frame of %v, committed at %d, which has no outcome row although %d is checkpointed", f.Owner, ts, c.ckpt)
		}
		if f.Newest != 0 && f.Newest != ts {
			bad("P1: timestamp %d of a frame of %v, committed at %d", f.Newest, f.Owner, ts)
		}
		return true
	case FateUnknown:
		if f.Owner.Incarnation() == c.s.o.Incarnation && c.still(table, en.Low, f) {
			bad("L7: lists a frame of an unknown transaction %v", f.Owner)
		}
	default:
	}
	return false
}

// still reports whether the leaf lists the frame now, and its owner is unknown
// even so: it may have been swept and forgotten since the check began.
func (c *checker) still(table base.TableID, low []byte, f *FrameRef) bool {
	en, found, _, _, err := c.s.Lookup(table, low)
	if err != nil {
		c.unreadable(err)
		return false
	}
	if !found {
		return false
	}
	defer c.s.ReleaseEntry(&en)
	for i := range en.Frames {
		if en.Frames[i].Addr == f.Addr {
			fate, _ := c.Fate(f.Owner)
			return fate == FateUnknown
		}
	}
	return false
}

// content reads the frame and compares it with what the list says.
func (c *checker) content(table base.TableID, en *Entry, f *FrameRef, r *Run) {
	path := c.s.runPath(f.Run)
	b, err := r.ReadFrame(f.Addr, c.buf[:0])
	c.buf = b
	if err != nil {
		c.Report(err)
		return
	}
	fr, err := versionchain.ParseFrame(b)
	if err == nil {
		err = fr.Verify()
	}
	if err != nil {
		c.Report(placed(err, path, f.Off))
		return
	}
	bad := func(what string) {
		c.corrupt(path, f.Off, "the leaf of table %d at %q lists the frame with %s", table, en.Low, what)
	}
	m := fr.Meta()
	switch {
	case m.Table != table:
		bad("another table")
	case m.Owner != f.Owner:
		bad("another owner")
	case m.Owner == 0 && m.Newest != f.Newest:
		bad("another timestamp (P1)")
	case m.Leave != f.Leave:
		bad("another leave number (P1)")
	case uint32(fr.Len()) != f.Rows:
		bad("another number of rows")
	case len(f.Filter) > 0 && !bytes.Equal(fr.Filter(), f.Filter):
		bad("another filter (S3)")
	case f.Image && !m.Image:
		bad("the mark of an image")
	case f.First != nil && apart(&m, en):
		// Without bounds a split does not know where a frame's rows are, and lists
		// it on both sides; readers clip it (P4).
		bad("fences that do not meet its own (P4)")
	case f.First != nil && fr.Len() > 0 && (!bytes.Equal(f.First, fr.Key(0)) || !bytes.Equal(f.Last, fr.Key(fr.Len()-1))):
		bad("other bounds (S3)")
	}
}

// apart reports whether the fences of the frame do not overlap those of the leaf.
func apart(m *versionchain.FrameMeta, en *Entry) bool {
	return en.High != nil && bytes.Compare(m.Low, en.High) >= 0 || m.High != nil && bytes.Compare(m.High, en.Low) <= 0
}

// placed says where damage is that a decoder found.
func placed(err error, file string, off uint64) error {
	if ce, ok := errors.AsType[*base.CorruptionError](err); ok {
		return &base.CorruptionError{File: file, Offset: int64(off), Why: ce.Why}
	}
	return err
}
