package recordcache

import (
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Scratch is the memory that reads decode into (M8). It belongs to one
// goroutine at a time and may be reused for any number of reads.
type Scratch struct {
	frame []byte
	log   []byte
	row   versionchain.Row
}

// maxScratch is what a Scratch keeps between reads; a larger buffer, for a
// large value, is dropped after use.
const maxScratch = 256 << 10

func (sc *Scratch) trim() {
	if cap(sc.frame) > maxScratch {
		sc.frame, sc.row = nil, versionchain.Row{} // the row lies in the frame
	}
	if cap(sc.log) > maxScratch {
		sc.log = nil
	}
}

// best is the newest visible version found so far. Its value is in the
// caller's buffer.
type best struct {
	have bool
	kind base.Kind
	ord  base.Order
}

// Get appends the value of key that r sees to dst. found is false when there is
// none. No lock or pin outlives the call, and no record memory is needed.
func (t *Table) Get(r *versionchain.Reader, sc *Scratch, dst, key []byte) (val []byte, found bool, err error) {
	if l := t.guess(key); l != nil {
		l.mu.RLock()
		if l.covers(key) {
			return l.get(r, sc, dst, key)
		}
		l.mu.RUnlock()
	}
	for tries := 0; ; {
		l, version := t.search(key)
		if l != nil {
			l.mu.RLock()
			if l.covers(key) {
				return l.get(r, sc, dst, key)
			}
			l.mu.RUnlock()
			if t.version.Load() != version {
				continue
			}
		}
		// A gap. A stub makes the next reads of the leaf cheaper; without room
		// for it the frames are read through the leaf map alone.
		if tries++; tries <= 2 && t.cache.roomyForStubs() {
			if err = t.install(key); err == nil {
				continue
			}
			if !IsNoMemory(err) {
				return dst, false, err
			}
		}
		return t.getGap(r, sc, dst, key)
	}
}

// roomy reports whether optional things may take record memory.
func (c *Cache) roomy() bool { return c.arena.Reserved() < c.arena.Cap()/100*80 }

// roomyForStubs is roomy for descriptors: reads alone never make them take more
// than an eighth of record memory.
func (c *Cache) roomyForStubs() bool { return c.roomy() && c.arena.Charged() < c.arena.Cap()/8 }

// get is Get for a leaf that covers the key. REQUIRES: l.mu is held shared; it
// is released.
func (l *Leaf) get(r *versionchain.Reader, sc *Scratch, dst, key []byte) ([]byte, bool, error) {
	l.touch()
	var f versionchain.Found
	i, exact := l.page.Find(key, int(l.prefix))
	if exact {
		var err error
		if f, err = l.page.Visible(i, r); err != nil {
			l.mu.RUnlock()
			return dst, false, err
		}
	}
	if f.Off != 0 || l.list == nil {
		if f.Off == 0 || f.Ver.Kind() != base.KindValue {
			l.mu.RUnlock()
			return dst, false, nil
		}
		if f.Ver.Flags&versionchain.FlagChilled == 0 {
			dst = append(dst, l.page.Value(f.Off, &f.Ver)...)
			l.mu.RUnlock()
			return dst, true, nil
		}
	}
	return l.getDeep(r, sc, dst, key, &f)
}

// getDeep finishes a read that needs frames, because memory has no version that
// r sees, or the log. The chain's answer, the list and the references are taken
// at one moment of the leaf (P4).
// REQUIRES: l.mu is held shared; it is released.
func (l *Leaf) getDeep(r *versionchain.Reader, sc *Scratch, dst, key []byte, f *versionchain.Found) ([]byte, bool, error) {
	c := l.table.cache
	n := len(dst)
	var b best
	var err error
	if f.Off != 0 {
		lsn, rowLen := l.page.Chilled(f.Off)
		seg := c.log.SegmentOf(lsn)
		c.log.Pin(seg)
		l.mu.RUnlock()
		dst, err = c.thaw(lsn, rowLen, sc, dst, key)
		c.log.Unpin(seg)
		sc.trim()
		return dst, err == nil, err
	}
	list := l.list
	var hash uint64
	var held runHold
	pending := 0
	if list != nil {
		hash = base.Hash(key)
		for i := range list.frames {
			if list.skip(i, r, key, hash, &b) {
				continue
			}
			if l.mem == nil || l.mem[i] == nil {
				pending++
				continue
			}
			if dst, err = c.consult(&list.frames[i], l.mem[i][:list.frames[i].Len], r, sc, dst, n, key, &b); err != nil {
				break
			}
		}
		if pending > 0 && err == nil {
			held = c.acquire(list)
		}
	}
	var inMem uint64 // which frames were asked already
	for i, b := range l.mem[:min(len(l.mem), 64)] {
		if b != nil {
			inMem |= 1 << i
		}
	}
	l.mu.RUnlock()
	if pending > 0 && err == nil {
		dst, err = c.readPending(l, list, inMem, hash, r, sc, dst, n, key, &b)
		held.release()
	}
	sc.trim()
	if err != nil || !b.have || b.kind != base.KindValue {
		return dst[:n], false, err
	}
	return dst, true, nil
}

// skip reports whether frame i cannot change the answer b of r for the key.
func (fl *frameList) skip(i int, r *versionchain.Reader, key []byte, hash uint64, b *best) bool {
	f := &fl.frames[i]
	newest := f.Newest
	if f.out != nil {
		if f.out == r.Self {
			newest = base.MaxTS
		} else {
			st, ts := f.out.Status()
			if seeded.On(seeded.DirtyFrame) && st == versionchain.Active {
				st, ts = versionchain.Committed, r.Snapshot
			}
			if st != versionchain.Committed || ts > r.Snapshot {
				return true
			}
			newest = ts
		}
	}
	if b.have && b.ord.TS > newest {
		return true
	}
	return !f.holds(key, hash)
}

// readPending reads, with no lock held, the frames that are not resident.
func (c *Cache) readPending(l *Leaf, list *frameList, inMem, hash uint64, r *versionchain.Reader, sc *Scratch, dst []byte, n int, key []byte, b *best) ([]byte, error) {
	settled := !list.undecided()
	if settled && c.cold != nil && !b.have {
		if val, ts, ok := c.cold.get(dst, l.table.ID, key, hash, list.seq); ok && ts <= r.Snapshot {
			c.Stats.ColdHits.Add(1)
			*b = best{have: true, kind: base.KindValue, ord: base.Order{TS: ts}}
			return val, nil
		}
	}
	newestTS := base.CommitTS(0)
	for i := range list.frames {
		f := &list.frames[i]
		newestTS = max(newestTS, f.Newest)
		if f.out != nil {
			_, ts := f.out.Status()
			newestTS = max(newestTS, ts)
		}
		if (i < 64 && inMem&(1<<i) != 0) || list.skip(i, r, key, hash, b) {
			continue
		}
		bytes, err := c.space.ReadFrame(f.Addr, sc.frame[:0])
		sc.frame = bytes
		if err != nil {
			return dst, err
		}
		c.Stats.ColdReads.Add(1)
		if dst, err = c.consult(f, bytes, r, sc, dst, n, key, b); err != nil {
			return dst, err
		}
		if settled && l.reads.Add(1) >= residentReads {
			c.makeResident(l, list, i, bytes)
		}
	}
	if settled && c.cold != nil && b.have && b.kind == base.KindValue && newestTS <= r.Snapshot && b.ord.TS != base.MaxTS {
		c.cold.set(l.table.ID, key, hash, list.seq, b.ord.TS, dst[n:])
	}
	return dst, nil
}

// residentReads is how many cold reads make a leaf's frame worth its memory.
const residentReads = 3

// consult looks for a version of key in the bytes of frame f that r sees and
// that is newer than b; its value replaces dst[n:].
func (c *Cache) consult(f *frame, bytes []byte, r *versionchain.Reader, sc *Scratch, dst []byte, n int, key []byte, b *best) ([]byte, error) {
	fr, err := versionchain.ParseFrame(bytes)
	if err != nil {
		return dst, err
	}
	row := &sc.row
	i, exact := fr.Search(key)
	for ; exact && i < fr.Len(); i++ {
		fr.Row(i, row)
		if string(row.Key) != string(key) {
			break
		}
		if row.Kind == base.KindLock || !f.sees(r, row) {
			continue
		}
		if !b.have || (row.Newer(b.ord) && !seeded.On(seeded.FirstFrame)) {
			*b = best{have: true, kind: row.Kind, ord: row.Order}
			dst = append(dst[:n], row.Value...)
		}
		break
	}
	return dst, nil
}

// sees reports whether r sees the row of frame f, and completes its Order.
func (f *frame) sees(r *versionchain.Reader, row *versionchain.Row) bool {
	if f.out == nil {
		return row.TS <= r.Snapshot
	}
	if seeded.On(seeded.DirtyFrame) && f.out.Active() {
		row.TS = r.Snapshot
		return true
	}
	ts, ok := r.Sees(f.out, row.Epoch)
	row.TS = ts
	return ok
}

// getGap reads a key that no present leaf covers through the leaf map.
func (t *Table) getGap(r *versionchain.Reader, sc *Scratch, dst, key []byte) ([]byte, bool, error) {
	c := t.cache
	x, err := c.lookup(func() (tablespaceEntry, bool, []byte, []byte, error) { return c.space.Lookup(t.ID, key) })
	if err != nil || x.list == nil {
		c.space.ReleaseEntry(&x.en)
		return dst, false, err
	}
	defer c.space.ReleaseEntry(&x.en)
	list := x.list
	n := len(dst)
	var b best
	hash := base.Hash(key)
	for i := range list.frames {
		if list.skip(i, r, key, hash, &b) {
			continue
		}
		bytes, err := c.space.ReadFrame(list.frames[i].Addr, sc.frame[:0])
		sc.frame = bytes
		if err != nil {
			return dst, false, err
		}
		c.Stats.ColdReads.Add(1)
		if dst, err = c.consult(&list.frames[i], bytes, r, sc, dst, n, key, &b); err != nil {
			return dst[:n], false, err
		}
	}
	sc.trim()
	if !b.have || b.kind != base.KindValue {
		return dst[:n], false, nil
	}
	return dst, true, nil
}

// thaw appends the value of a chilled version, read back from the serial log.
// REQUIRES: its segment is pinned.
func (c *Cache) thaw(lsn base.LSN, rowLen int, sc *Scratch, dst, key []byte) ([]byte, error) {
	row, err := c.thawRow(lsn, rowLen, sc, key)
	if err != nil {
		return dst, err
	}
	return append(dst, row.Value...), nil
}

func (c *Cache) thawRow(lsn base.LSN, rowLen int, sc *Scratch, key []byte) (seriallog.Row, error) {
	buf, err := c.log.Read(lsn, rowLen, sc.log[:0])
	sc.log = buf
	if err != nil {
		return seriallog.Row{}, err
	}
	row, _, err := seriallog.DecodeRow(buf)
	if err != nil {
		return row, err
	}
	if string(row.Key) != string(key) {
		return row, &base.CorruptionError{File: "serial log", Offset: int64(lsn), Why: "chilled row has another key"}
	}
	c.Stats.ThawedRecords.Add(1)
	return row, nil
}

// runHold is references to runs: while it is held none of them is unlinked.
type runHold []*tablespace.Run

// acquire holds the runs of a list. A run that is gone is one of an owner that
// never committed, whose frames nobody reads.
func (c *Cache) acquire(list *frameList) runHold {
	held := make(runHold, 0, 4)
	last := base.RunID(0)
	for i := range list.frames {
		id := list.frames[i].Run
		if id == last {
			continue
		}
		last = id
		if r := c.space.Find(id); r != nil && r.Acquire() {
			held = append(held, r)
		}
	}
	return held
}

func (h runHold) release() {
	for _, r := range h {
		r.Release()
	}
}

// makeResident keeps a copy of a frame in record memory if there is room to
// spare. REQUIRES: no lock is held.
func (c *Cache) makeResident(l *Leaf, list *frameList, i int, bytes []byte) {
	if len(bytes) > maxPage || !c.roomy() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.list != list || (l.mem != nil && l.mem[i] != nil) {
		return
	}
	b := c.arena.Alloc(len(bytes))
	if b == nil {
		return
	}
	copy(b, bytes)
	if l.mem == nil {
		l.mem = make([][]byte, len(list.frames))
	}
	l.mem[i] = b
}
