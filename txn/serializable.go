package txn

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/recordcache"
)

// A serializable transaction reads a snapshot, as others do, and keeps what it has
// read (readset.go). When it has something to commit, it commits at timestamp ts
// only if nobody changed anything of that between its snapshot and ts (S4). So
// what it read is what it would have read at ts: it takes place at ts, whole, and
// the order of commits is a serial order. One of which no write remains, for it has
// only read and locked, or has taken all back, takes place at its snapshot, which is a
// moment of that order, and needs no check: nobody has read anything of it, and all
// that its statements were told was as of the snapshot.
//
// What it wrote or locked needs no check either: first updater wins (S3), unless a
// rollback to a savepoint gives it back. So what a statement under a savepoint has
// learned is kept as a read.
//
// To look through the read set takes reads of leaves, perhaps of the disk, while
// others commit; to hold the committer meanwhile would stop them all. Therefore:
//
//  1. under committer.mu: the read set is registered
//  2. with nothing held: what others have changed since the snapshot is looked for,
//     everything that has a timestamp by now included (recordcache.Table.Changed)
//  3. whoever gets a timestamp meanwhile compares what it writes with the registered
//     read sets, under committer.mu: a key that was read dooms the reader. One with
//     too many keys for that, or a large one, which has no list of them, tells the
//     reader to look again
//  4. under committer.mu, in the step that takes the timestamp: doomed is
//     ErrConflict, again begins anew with 1, some times
//
// Nothing is missed: let U have written what T read, with snapshot < ts(U) < ts(T).
// U took its timestamp before T did, under the same mutex. If that was before T
// registered, for the last time, its outcome had the timestamp and its version was
// in a leaf or a frame before 2 began, and that, or a newer one of the record that has a
// timestamp, too, is found. If it was afterwards, U has told T.
//
// A drop of a table puts its timestamp into Table.Dropped in the step that takes it,
// under committer.mu; 4 looks at it. A drop that is announced only, and waits for whoever
// has written the table, is no change yet: it comes later, if at all.

const (
	// maxRounds is how often a read set is looked through: more often only if writers
	// without list of keys never cease to commit to what was read.
	maxRounds = 8
	// maxTold is how many keys a commit compares with read sets under committer.mu.
	maxTold = 128
)

// errAgain says that the read set must be looked through again.
var errAgain = errors.New("saker: others have committed meanwhile")

// verdict is what others have told a registered read set.
type verdict struct {
	doomed bool // somebody wrote what was read
	vague  bool // it was in a coarse span
	again  bool // somebody may have
}

// readKey notes that the transaction has read the key, present or absent.
// REQUIRES: tx.mu is held, tx.reads.on.
func (tx *Tx) readKey(t *recordcache.Table, key []byte) {
	tx.reads.addKey(t, key)
	tx.tendReads()
}

// readBy notes what a statement in mode m that ended with err has read, and whether it
// has changed anything.
func (tx *Tx) readBy(t *recordcache.Table, m recordcache.Mode, key []byte, err error) {
	switch {
	case tx.w.Snapshot == newest:
		return // the entry of an index as it is now: it follows from the row, which was read
	case err == nil:
		if m != recordcache.ModeLock {
			tx.changed = tx.w.Epoch + 1
		}
		if m == recordcache.ModePut || m == recordcache.ModeErase || tx.w.Stretch == 0 {
			return // it asked for nothing, or what it learned cannot change
		}
	case errors.Is(err, base.ErrNotFound), errors.Is(err, base.ErrKeyExists):
	default:
		return // nothing was learned
	}
	tx.readKey(t, key)
}

// track notes what the cursor has read since it was positioned: from where it began
// up to its row, or the rest of the range if it has passed the last one.
// REQUIRES: tx.mu is held, the transaction is alive.
func (c *Cursor) track() {
	if !c.tracks || seeded.On(seeded.UntrackedRange) {
		return
	}
	c.tracks = false
	from, to := c.it.Bounds()
	switch {
	case !c.valid:
	case c.reverse:
		from = c.it.Key()
	default:
		to = c.it.Key()
	}
	c.tx.reads.addRange(c.t, from, to, c.valid && !c.reverse)
	c.tx.tendReads()
}

// tendReads keeps the read set within its limits and charged (M1).
func (tx *Tx) tendReads() {
	rs := &tx.reads
	if rs.full() {
		rs.shrink()
	}
	if n := rs.size(); n != rs.cost {
		rs.cost = n
		if !tx.chargeReads(n) && !rs.poor {
			rs.impoverish()
			rs.cost = rs.size()
			tx.chargeReads(rs.cost) // what is left is as good as nothing
		}
	}
}

// chargeReads charges what a read set of n bytes takes beyond what is free. All read
// sets together get a share of record memory: nobody can take them away.
func (tx *Tx) chargeReads(n int64) bool {
	m, rs := tx.m, &tx.reads
	if n <= freeBytes {
		n = 0
	}
	more := n - rs.charged
	if more > 0 && (m.readBytes.Load()+more > m.Arena.Cap()/readShare || !m.Arena.Charge(more)) {
		return false
	}
	if more < 0 {
		m.Arena.Uncharge(-more)
	}
	m.readBytes.Add(more)
	rs.charged = n
	return true
}

// readShare is the part of record memory that read sets may take: a sixteenth.
const readShare = 16

// beginReads prepares the read set of a serializable transaction.
func (tx *Tx) beginReads() {
	rs := &tx.reads
	rs.on, rs.maxSpans, rs.maxBytes = true, tx.m.ReadSpans, readBytes
	if rs.maxSpans == 0 {
		rs.maxSpans = readSpans
	}
	rs.cost = rs.size()
}

// forgetReads lets go of the read set.
func (tx *Tx) forgetReads() {
	if tx.reads.charged > 0 {
		tx.chargeReads(0)
	}
}

// validates reports whether the transaction's reads must be validated: something that
// it wrote remains.
func (st *state) validates() bool {
	return st.reads.on && st.changed > 0 && !seeded.On(seeded.SkippedValidation)
}

// enqueueValidated is enqueue for a serializable transaction. ErrConflict if others
// have changed what it has read.
func (tx *Tx) enqueueValidated() error {
	m, rs := tx.m, &tx.reads
	tx.completeReads()
	err, vague := errAgain, false
	for round := 0; round < maxRounds && errors.Is(err, errAgain); round++ {
		m.commit.watch(rs)
		if vague, err = tx.validate(); err == nil {
			if m.Validated != nil {
				m.Validated()
			}
			for n := 0; n < 1000 && seeded.On(seeded.UntoldReaders); n++ {
				runtime.Gosched() // the moment that the bug needs is short
			}
			err = tx.enqueue(&tx.record, &tx.pending)
		}
	}
	if err == nil {
		return nil
	}
	told := m.commit.unwatch(rs)
	vague = vague || (told.doomed && told.vague)
	if errors.Is(err, errAgain) {
		err, vague = base.ErrConflict, true
	}
	return tx.countConflict(err, vague)
}

// foresee tells a transaction that is about to write and sync much whether it does so
// in vain: a first look at the reads, which proves nothing if it finds nothing.
func (tx *Tx) foresee() error {
	if !tx.validates() {
		return nil
	}
	tx.completeReads()
	vague, err := tx.validate()
	return tx.countConflict(err, vague)
}

// completeReads adds to the read set what open cursors have read, and puts it in
// order.
func (tx *Tx) completeReads() {
	for _, c := range tx.cursors {
		c.track()
	}
	tx.reads.sort()
}

// countConflict returns err, having counted it if it is a conflict.
func (tx *Tx) countConflict(err error, vague bool) error {
	if errors.Is(err, base.ErrConflict) {
		n := &tx.m.Counters
		n.Conflicts.Add(1)
		n.Unserializable.Add(1)
		if vague {
			n.MaybeSerializable.Add(1)
		}
	}
	return err
}

// validate looks for what others have changed of the read set (2). It is vague if
// the change lies in a coarse span.
func (tx *Tx) validate() (vague bool, err error) {
	rs := &tx.reads
	if err := tx.checkDropped(); err != nil {
		return false, err
	}
	var s *span
	wasRead := func(key []byte) bool { return rs.passes(s, key) }
	for i := range rs.spans {
		s = &rs.spans[i]
		only := wasRead
		if !s.coarse {
			only = nil
		}
		changed, err := rs.tables[s.column/2].Changed(&tx.w.Reader, &tx.sc, rs.get(s.from), rs.get(s.to), only)
		if err != nil {
			return false, fmt.Errorf("validate: %w", err)
		}
		if changed {
			return s.coarse, base.ErrConflict
		}
	}
	return false, nil
}

// checkDropped returns ErrConflict if the drop of a table that was read has a timestamp.
func (tx *Tx) checkDropped() error {
	for _, t := range tx.reads.tables {
		if ts := t.Dropped.Load(); ts != 0 && ts != uint64(base.MaxTS) {
			return base.ErrConflict
		}
	}
	return nil
}

// watch registers a read set (1).
func (c *committer) watch(rs *readSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rs.verdict = verdict{}
	if !slices.Contains(c.readers, rs) {
		c.readers = append(c.readers, rs)
	}
}

// unwatch takes it off again and returns what it was told.
func (c *committer) unwatch(rs *readSet) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwatchLocked(rs)
	return rs.verdict
}

func (c *committer) unwatchLocked(rs *readSet) {
	if i := slices.Index(c.readers, rs); i >= 0 {
		last := len(c.readers) - 1
		c.readers[i], c.readers[last] = c.readers[last], nil
		c.readers = c.readers[:last]
	}
}

// judgeLocked decides whether a serializable transaction may have the next
// timestamp (4); then its read set is not registered any more. REQUIRES: c.mu is
// held until the timestamp is taken.
func (c *committer) judgeLocked(tx *Tx) error {
	switch rs := &tx.reads; {
	case rs.doomed:
		return base.ErrConflict
	case rs.again:
		return errAgain
	}
	if err := tx.checkDropped(); err != nil {
		return err
	}
	c.unwatchLocked(&tx.reads)
	return nil
}

// tellLocked tells the registered read sets what tx writes (3). REQUIRES: c.mu is
// held, and tx has its timestamp.
func (c *committer) tellLocked(tx *Tx) {
	left := maxTold
	if seeded.On(seeded.UntoldReaders) {
		return
	}
	for _, rs := range c.readers {
		if rs.doomed {
			continue
		}
		if tx.w.Large || len(tx.refs) > left {
			rs.again = rs.again || rs.readsAny(tx.tables)
			continue
		}
		left -= len(tx.refs)
		for i := range tx.refs {
			r := &tx.refs[i]
			if r.lock {
				continue // changes nothing
			}
			if s := rs.covers(r.t, tx.keys[r.key:r.key+r.klen]); s != nil {
				rs.doomed, rs.vague = true, s.coarse
				break
			}
		}
	}
}

// readsAny reports whether something of one of the tables was read.
func (rs *readSet) readsAny(tables []*recordcache.Table) bool {
	if len(tables)*len(rs.tables) > maxTold {
		return true // too many to compare
	}
	return slices.ContainsFunc(tables, func(t *recordcache.Table) bool { return slices.Contains(rs.tables, t) })
}
