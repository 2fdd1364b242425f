package recordcache

import (
	"bytes"
	"context"
	"errors"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/savepoint"
	"github.com/sakerdb/saker/versionchain"
)

// Mode says what a write demands of the record.
type Mode uint8

const (
	// ModePut inserts or replaces.
	ModePut Mode = iota
	// ModeInsert demands that no visible record has the key.
	ModeInsert
	// ModeUpdate demands a visible record.
	ModeUpdate
	// ModeDelete demands a visible record and leaves a tombstone.
	ModeDelete
	// ModeLock locks the record, present or absent, and leaves its value.
	ModeLock
	// ModeErase leaves a tombstone, of a record present or absent.
	ModeErase
)

// Writer is the part of a transaction that the cache writes for. It belongs to
// one goroutine at a time.
type Writer struct {
	versionchain.Reader            // Self is the transaction's outcome
	Epoch               base.Epoch // current savepoint epoch
	Stretch             base.Epoch // since when no live savepoint began (S6)
	// Savepoints are the live ones; nil is none. The writer's goroutine changes them.
	Savepoints *savepoint.Stack
	Logged     bool    // the caller keeps redo of what it writes
	Large      bool    // past ChillThreshold: full leaves go to the temp table
	Hint       *Leaf   // where the last write went
	Scratch    Scratch // for frames that a write must read

	// LastLeave is the leave number of the version that the last write made.
	LastLeave base.Leave

	// NeedBytes is, after errNoMemory, the block that could not be had.
	NeedBytes int

	// WaitOn and WaitEpoch say who is in the way after ErrWait, WaitUndone is its
	// Outcome.Undone when that was seen.
	WaitOn     *versionchain.Outcome
	WaitEpoch  base.Epoch
	WaitUndone uint32

	proof proof
}

// proof is what reading the frames of one list told about one key. It holds as
// long as the leaf lists exactly these frames, wherever it was meanwhile, and the
// outcomes relied on stand.
type proof struct {
	list    *frameList
	verdict versionchain.Verdict
	on      *versionchain.Outcome
	epoch   base.Epoch
	found   best   // the newest version in frames that the writer sees
	value   []byte // its value, reused; not kept if it is large
	large   bool   // it is
	locked  bool   // a frame has something newer of the record: a lock
	owner   base.TxnID
}

// Write adds a version of key in mode m. It returns the leaf that it went to.
// The statement takes effect as a whole or, on any error, not at all.
//
// errNoMemory (see IsNoMemory) and ErrWait ask the caller to wait, holding
// nothing, and to call again. REQUIRES: key and value have legal sizes, and a
// value above base.LargeValueSize is written with WriteLarge.
func (t *Table) Write(w *Writer, m Mode, key, value []byte) (*Leaf, error) {
	w.proof.list = nil
	need := versionchain.VersionSize(len(key), len(value), true)
	for {
		l, err := t.lockFor(w, key, need)
		if err != nil {
			return nil, err
		}
		i, exact, act := l.judge(w, m, key)
		switch act.todo {
		case doFail:
			l.mu.Unlock()
			return nil, act.err
		case doAsk:
			if err := l.ask(w, key, act.value); err != nil { // unlocks
				return nil, err
			}
			continue
		case doWrite:
		}
		if l.add(w, m, i, exact, key, value) {
			l.mu.Unlock()
			w.Hint = l
			return l, nil
		}
		l.mu.Unlock()
		if err := t.cache.makeRoom(w, l, key, need); err != nil {
			return nil, err
		}
	}
}

// lockFor returns the leaf that covers key, locked exclusively. If it must become
// present first, it gets a page with need bytes free. REQUIRES: no lock is held
// and nothing is reserved.
func (t *Table) lockFor(w *Writer, key []byte, need int) (*Leaf, error) {
	for {
		l, err := t.lockOrBring(w, key, need)
		if !errors.Is(err, errLongList) {
			return l, err
		}
		if err := t.shorten(context.Background(), key); err != nil {
			return nil, err
		}
	}
}

// lockOrBring is lockFor; errLongList when the list must be made shorter.
func (t *Table) lockOrBring(w *Writer, key []byte, need int) (*Leaf, error) {
	if l := w.Hint; l != nil && l.table == t {
		l.mu.Lock()
		if l.covers(key) {
			return l, nil
		}
		l.mu.Unlock()
	}
	if l := t.guess(key); l != nil {
		l.mu.Lock()
		if l.covers(key) {
			return l, nil
		}
		l.mu.Unlock()
	}
	for {
		l, version := t.search(key)
		if l != nil {
			l.mu.Lock()
			if l.covers(key) {
				return l, nil
			}
			l.mu.Unlock()
			if t.version.Load() != version {
				continue
			}
		}
		l, err := t.bring(key, need)
		if err != nil {
			w.NeedBytes = 0 // the error says it
			return nil, err
		}
		if l != nil {
			return l, nil
		}
	}
}

type todo uint8

const (
	doWrite todo = iota
	doFail
	doAsk
)

type action struct {
	todo  todo
	value bool // ask for the visible value too
	err   error
}

// judge decides whether w may write key in l now. REQUIRES: l.mu is held.
func (l *Leaf) judge(w *Writer, m Mode, key []byte) (i int, exact bool, act action) {
	l.touch()
	verdict := versionchain.Unknown
	i, exact = l.page.Find(key, int(l.prefix))
	if exact {
		v, on, epoch, err := l.page.CheckWrite(i, &w.Reader)
		if err != nil {
			return i, exact, action{todo: doFail, err: err}
		}
		verdict = v
		w.WaitOn, w.WaitEpoch = on, epoch
	}
	if verdict == versionchain.Unknown {
		verdict = versionchain.Go
		if l.list != nil {
			proven := false
			if w.proof.list.same(l.list) {
				verdict, proven = w.proof.recheck(w)
			}
			if !proven && l.sole != w.Self && l.list.mustRead(w, key) { // own frames never conflict
				return i, exact, action{todo: doAsk, value: m != ModePut && m != ModeErase}
			}
		}
	}
	switch verdict {
	case versionchain.Conflict:
		return i, exact, action{todo: doFail, err: base.ErrConflict}
	case versionchain.Wait:
		w.WaitUndone = w.WaitOn.Undone()
		return i, exact, action{todo: doFail, err: ErrWait}
	default:
	}
	if m == ModePut || m == ModeLock || m == ModeErase {
		return i, exact, action{}
	}
	exists, known, err := l.exists(w, i, exact)
	switch {
	case err != nil:
		return i, exact, action{todo: doFail, err: err}
	case !known && !w.proof.list.same(l.list):
		if l.list.mayHold(w, key) {
			return i, exact, action{todo: doAsk, value: true}
		}
	}
	if m == ModeInsert && exists {
		return i, exact, action{todo: doFail, err: base.ErrKeyExists}
	}
	if m != ModeInsert && !exists {
		return i, exact, action{todo: doFail, err: base.ErrNotFound}
	}
	return i, exact, action{}
}

// exists reports whether w sees a record. known is false when frames must be
// read first.
func (l *Leaf) exists(w *Writer, i int, exact bool) (exists, known bool, err error) {
	var f versionchain.Found
	if exact {
		if f, err = l.page.Visible(i, &w.Reader); err != nil {
			return false, false, err
		}
	}
	inMemory := f.Off != 0 && f.Ver.Kind() == base.KindValue
	if l.list == nil || f.Off != 0 {
		return inMemory, true, nil
	}
	if !w.proof.list.same(l.list) {
		return false, false, nil
	}
	b := w.proof.found
	return b.have && b.kind == base.KindValue, true, nil
}

// mustRead reports whether some frame must be read to decide on a conflict (S3).
// Two cases are decided unread: all of it published and not newer than the
// snapshot, or the filter does not know the key. Own frames never conflict.
func (fl *frameList) mustRead(w *Writer, key []byte) bool {
	if seeded.On(seeded.SkippedFrames) {
		return false
	}
	hash, hashed := uint64(0), false
	for i := range fl.frames {
		f := &fl.frames[i]
		newest := f.Newest
		if f.out != nil {
			if f.out == w.Self {
				continue
			}
			st, ts := f.out.Status()
			switch st {
			case versionchain.Aborted:
				continue
			case versionchain.Committed:
				newest = ts
			default:
				newest = base.MaxTS
			}
		}
		if newest <= w.Snapshot {
			continue
		}
		if !hashed {
			hash, hashed = base.Hash(key), true
		}
		if f.holds(key, hash) {
			return true
		}
	}
	return false
}

// mayHold reports whether some frame may hold a version that w sees.
func (fl *frameList) mayHold(w *Writer, key []byte) bool {
	hash := base.Hash(key)
	for i := range fl.frames {
		if !fl.skip(i, &w.Reader, key, hash, &best{}) {
			return true
		}
	}
	return false
}

// recheck repeats the part of the verdict that time may have changed: what was
// decided when the frames were read stays decided; an active owner may be done. The
// proof does not hold any more if he rolled his version back, for what lies below was
// not looked at, nor if the writer sees it by now, for then what was found is older.
func (p *proof) recheck(w *Writer) (verdict versionchain.Verdict, holds bool) {
	if p.on == nil || p.verdict != versionchain.Wait {
		return p.verdict, true
	}
	verdict, decided := w.CheckOwner(p.on, p.epoch)
	if !decided || verdict == versionchain.Go {
		p.list = nil
		return versionchain.Go, false
	}
	if verdict == versionchain.Wait {
		w.WaitOn, w.WaitEpoch = p.on, p.epoch
	}
	return verdict, true
}

// ask reads the frames of the leaf for key and leaves the proof in w.
// REQUIRES: l.mu is held exclusively; it is released.
func (l *Leaf) ask(w *Writer, key []byte, value bool) error {
	c := l.table.cache
	list := l.list
	held := c.acquire(list)
	l.mu.Unlock()
	defer held.release()
	p := &w.proof
	*p = proof{list: list, verdict: versionchain.Go, value: p.value[:0]}
	hash := base.Hash(key)
	var newest base.Order
	decided := false
	for i := range list.frames {
		f := &list.frames[i]
		if !f.holds(key, hash) || (f.out != nil && f.out.Aborted()) {
			continue
		}
		b, err := c.space.ReadFrame(f.Addr, w.Scratch.frame[:0])
		w.Scratch.frame = b
		if err != nil && f.out != nil && f.out.Aborted() {
			continue // its run went meanwhile, and it does not matter any more
		}
		if err != nil {
			return err
		}
		c.Stats.ColdReads.Add(1)
		if err := p.judgeFrame(w, f, b, key, &newest, &decided); err != nil {
			return err
		}
		if value {
			had := p.found
			if p.value, err = c.consult(f, b, &w.Reader, &w.Scratch, p.value, 0, key, &p.found); err != nil {
				return err
			}
			if p.found != had {
				p.owner = f.Owner
			}
		}
	}
	w.Scratch.trim()
	p.locked = decided && newest.Newer(p.found.ord)
	p.large = len(p.value) > base.LargeValueSize
	switch {
	case cap(p.value) <= maxScratch:
	case p.large:
		p.value = nil // nobody restores it, and the transaction may stay open
	default:
		p.value = bytes.Clone(p.value)
	}
	return nil
}

// judgeFrame applies first-updater-wins to the versions of key in one frame.
// Of all frames the newest version that is not garbage decides.
func (p *proof) judgeFrame(w *Writer, f *frame, b, key []byte, newest *base.Order, decided *bool) error {
	fr, err := versionchain.ParseFrame(b)
	if err != nil {
		return err
	}
	row := &w.Scratch.row
	i, exact := fr.Search(key)
	for ; exact && i < fr.Len(); i++ {
		fr.Row(i, row)
		if string(row.Key) != string(key) {
			return nil
		}
		verdict, ord := versionchain.Go, row.Order
		if f.out != nil {
			var ok bool
			if verdict, ok = w.CheckOwner(f.out, row.Epoch); !ok {
				continue
			}
			st, ts := f.out.Status()
			ord.TS = base.MaxTS
			if st == versionchain.Committed {
				ord.TS = ts
			}
		} else if row.TS > w.Snapshot {
			verdict = versionchain.Conflict
		}
		if !*decided || ord.Newer(*newest) {
			*decided, *newest = true, ord
			p.verdict, p.on, p.epoch = verdict, nil, 0
			if f.out != nil && f.out != w.Self {
				p.on, p.epoch = f.out, row.Epoch
			}
		}
		return nil
	}
	return nil
}

// add links the new version. It returns false, having changed nothing that a
// reader can tell, when the page has no room. REQUIRES: l.mu is held.
func (l *Leaf) add(w *Writer, m Mode, i int, exact bool, key, value []byte) bool {
	v := versionchain.Ver{
		Stamp: versionchain.UndecidedStamp(w.Self.ID),
		Epoch: w.Epoch,
		Leave: w.Self.Leave(),
		Flags: versionchain.FlagListed,
	}
	w.LastLeave = v.Leave
	switch m {
	case ModeDelete, ModeErase:
		v.Flags |= uint8(base.KindTombstone)
	case ModeLock:
		v.Flags |= uint8(base.KindLock)
	default:
	}
	if w.Logged {
		v.Flags |= versionchain.FlagLogged
	}
	for exact && l.popGarbage(w, i) {
		i, exact = l.page.Find(key, int(l.prefix))
	}
	if exact {
		head := l.page.Version(l.page.Newest(i))
		own := head.Undecided() && head.Txn() == w.Self.ID
		if own && m == ModeLock {
			return true // its own version is lock enough
		}
		if own && !w.Large && head.Epoch == v.Epoch && head.Leave == v.Leave {
			w.Self.Supersede()
			v.Leave = w.Self.Leave()
			w.LastLeave = v.Leave
		}
		if own {
			l.dropMerged(w, i, &head)
		}
		if own && head.Epoch >= w.Stretch && !head.Pinned() {
			return l.page.Replace(i, value, &v)
		}
		if !l.page.Push(i, value, &v) {
			return false
		}
		l.live++
		return true
	}
	if ok, done := l.restore(w, i, key, value, &v); done {
		return ok
	}
	if !l.page.Insert(i, key, value, int(l.prefix), &v) {
		return false
	}
	l.live++
	return true
}

// dropMerged leaves one version of record i in the stretch of its newest one, which
// is w's own: releasing savepoints merged the stretches of those below (S6). Whoever
// takes a savepoint for each statement would else pile up versions, in memory and
// then in frames (M5). A lock hides nothing.
func (l *Leaf) dropMerged(w *Writer, i int, head *versionchain.Ver) {
	if w.Savepoints == nil || head.Prior == 0 || head.Kind() == base.KindLock {
		return
	}
	from := w.Savepoints.StretchOf(head.Epoch)
	l.live = max(0, l.live-l.page.DropSuperseded(l.page.Newest(i), w.Self.ID, from))
}

// popGarbage removes the newest version of record i if its transaction aborted
// or rolled it back, and reports whether it did.
func (l *Leaf) popGarbage(w *Writer, i int) bool {
	v := l.page.Version(l.page.Newest(i))
	if v.Dropped() { // a settling of the leaf found it to be garbage, uncounted
		l.page.Pop(i)
		return true
	}
	if !v.Undecided() || v.Pinned() {
		return false
	}
	o := w.Self
	if o.ID != v.Txn() {
		o = l.table.cache.reg.Get(v.Txn())
	}
	if o == nil {
		return false
	}
	if st, _ := o.Status(); st != versionchain.Aborted && !o.DeadEpoch(v.Epoch) {
		return false
	}
	l.page.Pop(i)
	l.live--
	return true
}

// restore brings the newest version of a backlogged chain back to memory below
// the writer's new version. The frame keeps it; what returns is a clean copy,
// which memory may drop at any time. done is false when there is nothing to
// restore.
func (l *Leaf) restore(w *Writer, i int, key, value []byte, v *versionchain.Ver) (ok, done bool) {
	p := &w.proof
	if l.list == nil || !p.list.same(l.list) || !p.found.have || p.large || p.locked {
		return false, false // what is in memory must be newer than what frames have (P1)
	}
	own := p.found.ord.TS == base.MaxTS
	if own && p.found.ord.Epoch >= w.Stretch {
		// Replaced in the same stretch: the new version supersedes the frame's.
		l.table.cache.Stats.RestoredChains.Add(1)
		return false, false
	}
	need := versionchain.VersionSize(len(key), len(p.value), true) + versionchain.VersionSize(len(key), len(value), false)
	if l.page.Free() < need {
		return false, false // a copy in memory is a convenience
	}
	c := versionchain.Ver{
		Stamp: uint64(p.found.ord.TS),
		Epoch: p.found.ord.Epoch,
		Leave: p.found.ord.Leave,
		Flags: versionchain.FlagClean | uint8(p.found.kind),
	}
	if own {
		c.Stamp = versionchain.UndecidedStamp(w.Self.ID)
		l.live++
	}
	if !l.page.Insert(i, key, p.value, int(l.prefix), &c) || !l.page.Push(i, value, v) {
		return false, true
	}
	l.live++
	l.table.cache.Stats.RestoredChains.Add(1)
	return true, true
}
