package txn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/savepoint"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/versionchain"
)

// Isolation is what a transaction is promised about others.
type Isolation uint8

const (
	// Snapshot reads as of one moment; the first updater of a record wins.
	Snapshot Isolation = iota
	// ReadCommitted reads what is committed when a statement begins; a write waits
	// for whoever is changing the record and works on its newest version. A scan or
	// cursor is one statement: it reads as of when the scan begins, or the cursor is
	// made. An open transaction keeps the snapshot of its last statement.
	ReadCommitted
	// Serializable behaves as if transactions ran one after another.
	Serializable
)

// String names the level.
func (i Isolation) String() string {
	return base.Name(i, "isolation", "snapshot", "read committed", "serializable")
}

// Options of a transaction. The zero value is a durable snapshot transaction.
type Options struct {
	ReadOnly  bool
	Isolation Isolation
	// NoSync: Commit does not wait for the disk. A crash may lose the
	// transaction, whole, together with all later ones of its kind, as long as it
	// is younger than the store's SyncInterval.
	NoSync bool
	// LockTimeout bounds how long a statement waits for other transactions, in all;
	// then it fails with ErrLockTimeout, has changed nothing, and the transaction may
	// go on. 0 is the store's default. Below 0 a statement does not wait at all. Waits
	// for memory, the log or the disk do not count.
	LockTimeout time.Duration
}

// Row is one row of a scan. Its bytes are valid until the next iteration.
type Row struct{ Key, Value []byte }

// Range is [From, To) in bytewise key order; nil is open. Limit 0 is no limit.
type Range struct {
	From, To []byte
	Reverse  bool
	Limit    int
}

// Savepoint names a point of a transaction to which it can roll back.
type Savepoint struct {
	tx    *Tx
	start base.Epoch
}

// Tx is a transaction. Its methods may be called from one goroutine at a time;
// the store itself may end it at any moment (Close).
//
// A failed statement leaves the transaction as it was before the statement.
type Tx struct {
	// mu is held by every method, but not while a statement waits for memory, the
	// log or another transaction: Close takes it to end the transaction, the scavenger to
	// take the buffers of one that is idle or waits (M6).
	mu     sync.Mutex
	ended  error // ErrTxDone or ErrClosed once it has ended, or begins to
	*state       // nil once it has ended, and of a Tx that Begin did not make
}

// state is what a transaction needs while it is open. It is used again by a
// later one, its buffers included; a Tx is not, so that a call after the end is
// always told so.
type state struct {
	tx       *Tx
	m        *Manager
	ctx      context.Context
	readOnly bool
	noSync   bool
	iso      Isolation
	patience time.Duration // of a statement that waits for others; see waiter.limit
	begun    base.CommitTS // the clock when it began
	born     time.Duration // the coarse clock then
	told     bool          // of its age; guarded by Manager.mu
	stack    []byte        // of Begin, with DebugTransactions
	low      atomic.Bool   // the low-memory flag

	prev, next *state // of the open transactions, guarded by Manager.mu

	snap *snapshot
	out  *versionchain.Outcome // nil before the first write
	w    recordcache.Writer
	sc   recordcache.Scratch
	// owner is the id of the transaction, 0 before its first write. Who found the
	// state by it must look again under spMu or trackMu: it may serve another by now.
	owner atomic.Uint64

	spMu sync.Mutex // guards sp against Stretches
	sp   savepoint.Stack

	// While the transaction is small: what it wrote, for stamping and undo, and
	// its redo since the last group. Past ChillThreshold both are empty.
	refs    []ref
	keys    []byte
	redo    []byte
	bytes   int64 // of keys and values written
	charged int64
	writes  uint64     // statements that wrote: cursors look again after one
	written base.Epoch // every live write was in an epoch below
	changed base.Epoch // the same of writes that are no locks, if the transaction is serializable
	relief  uint       // writes since the transaction last looked for memory

	trackMu sync.Mutex // guards segs and first, since the scavenger chills too, and changes of tables
	segs    []uint64
	first   base.LSN
	tables  []*recordcache.Table // written, each once
	upkeep  *upkeep              // of indexes; nil before the first write of an indexed table
	noWait  bool                 // statements return ErrWait instead of waiting for another transaction
	waited  time.Duration        // by the statement under way, for other transactions

	cursors []*Cursor // open
	reads   readSet   // of a serializable transaction

	// Of the commit record, and of its place in the queue.
	record  seriallog.Commit
	pending pending
	queued  bool // for ever: the commit failed
}

// ref is one write of a small transaction.
type ref struct {
	t    *recordcache.Table
	leaf *recordcache.Leaf
	key  int // offset in keys
	klen int
	lock bool // no data: ModeLock
}

const (
	// maxRedo is how much redo a transaction keeps before it logs a group.
	maxRedo = 64 << 10
	// freeBytes is what a transaction's own buffers may take uncharged.
	freeBytes = 2 << 10
)

// alive returns nil, or why the transaction can do nothing any more.
// REQUIRES: tx.mu is held.
func (tx *Tx) alive() error {
	if tx.state != nil {
		return nil
	}
	if tx.ended == nil {
		return base.ErrTxDone // a zero Tx
	}
	return tx.ended
}

// enter begins a statement. REQUIRES: tx.mu is held.
func (tx *Tx) enter(t *recordcache.Table) error {
	if err := tx.alive(); err != nil {
		return err
	}
	tx.renew()
	return tx.knows(t, tx.w.Snapshot)
}

// renew lets a statement at ReadCommitted read as of now. What was found out under
// the snapshot before does not hold any more: Table.Write begins without a proof.
// REQUIRES: tx.mu is held, the transaction is open.
func (tx *Tx) renew() {
	if tx.iso == ReadCommitted {
		tx.snap = tx.m.snaps.renew(tx.snap)
		tx.w.Snapshot = tx.snap.ts
	}
}

// knows returns nil if the table exists as of ts. REQUIRES: the transaction is open.
func (tx *Tx) knows(t *recordcache.Table, ts base.CommitTS) error {
	if t == nil || !t.Of(tx.m.Cache) {
		return base.ErrTableNotFound
	}
	if d := base.CommitTS(t.Dropped.Load()); d != 0 && d <= ts {
		return base.ErrTableNotFound
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return base.ErrKeyEmpty
	}
	if len(key) > base.MaxKeySize {
		return base.ErrKeyTooLarge
	}
	return nil
}

// Get returns the value of key, a copy that the caller owns. ErrNotFound.
func (tx *Tx) Get(t *recordcache.Table, key []byte) ([]byte, error) {
	return tx.AppendGet(nil, t, key)
}

// AppendGet appends the value of key to dst and returns the extended slice; it
// allocates nothing if dst has room and the row is resident. ErrNotFound.
func (tx *Tx) AppendGet(dst []byte, t *recordcache.Table, key []byte) ([]byte, error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.enter(t); err != nil {
		return dst, err
	}
	if err := checkKey(key); err != nil {
		return dst, err
	}
	val, found, err := t.Get(&tx.w.Reader, &tx.sc, dst, key)
	if tx.reads.on {
		tx.readKey(t, key)
	}
	if err != nil {
		return dst, fmt.Errorf("saker: get: %w", err)
	}
	if !found {
		return dst, base.ErrNotFound
	}
	if val == nil {
		val = []byte{}
	}
	return val, nil
}

// GetForUpdate locks the record, present or absent, against writers until the
// transaction ends, and returns its value. ErrNotFound if it is absent; the
// lock is held all the same. ErrConflict, ErrDeadlock. If the value cannot be read
// from disk there is no lock.
func (tx *Tx) GetForUpdate(t *recordcache.Table, key []byte) ([]byte, error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.enter(t); err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	var val []byte
	var found bool
	read := func() (err error) {
		if val, found, err = t.Get(&tx.w.Reader, &tx.sc, nil, key); err != nil {
			return fmt.Errorf("saker: get: %w", err)
		}
		return nil
	}
	var err error
	if tx.iso == ReadCommitted { // what to read shows when the record is locked
		err = tx.atomically(func() error {
			if err := tx.write(t, recordcache.ModeLock, key, nil); err != nil {
				return err
			}
			return read()
		})
	} else if err = read(); err == nil { // the lock does not change what the snapshot has
		err = tx.write(t, recordcache.ModeLock, key, nil)
	}
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, base.ErrNotFound
	case val == nil:
		val = []byte{}
	}
	return val, nil
}

// Put inserts the row or replaces its value. It waits while another transaction
// that changed or locked the row is undecided. ErrConflict if one that did is
// committed after this one's snapshot, but at ReadCommitted: there the statement
// goes on with the newest version.
func (tx *Tx) Put(t *recordcache.Table, key, value []byte) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.write(t, recordcache.ModePut, key, value)
}

// Insert adds the row. ErrKeyExists if a visible row has the key, at ReadCommitted
// the newest; ErrConflict as Put.
func (tx *Tx) Insert(t *recordcache.Table, key, value []byte) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.write(t, recordcache.ModeInsert, key, value)
}

// Update replaces the value of the row. ErrNotFound; ErrConflict as Put.
func (tx *Tx) Update(t *recordcache.Table, key, value []byte) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.write(t, recordcache.ModeUpdate, key, value)
}

// Delete removes the row. ErrNotFound; ErrConflict as Put.
func (tx *Tx) Delete(t *recordcache.Table, key []byte) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.write(t, recordcache.ModeDelete, key, nil)
}

// write runs one statement. REQUIRES: tx.mu is held.
func (tx *Tx) write(t *recordcache.Table, m recordcache.Mode, key, value []byte) error {
	if err := tx.enterWrite(t); err != nil {
		return err
	}
	tx.waited = 0
	return tx.change(t, m, key, value)
}

// change is write, or one of several attempts at it, once enterWrite has succeeded.
func (tx *Tx) change(t *recordcache.Table, m recordcache.Mode, key, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > base.MaxValueSize {
		return base.ErrValueTooLarge
	}
	if tx.low.Load() {
		if err := tx.relieve(); err != nil {
			return err
		}
	}
	if set := t.Indexes.Load(); set != nil && m != recordcache.ModeLock {
		return tx.writeIndexed(*set, t, m, key, value)
	}
	err := tx.apply(t, m, key, value)
	if err == errMoved { //nolint:errorlint // nobody wraps it
		return tx.writeIndexed(nil, t, m, key, value)
	}
	return err
}

// apply writes one record. REQUIRES: tx.mu is held, enterWrite has succeeded.
func (tx *Tx) apply(t *recordcache.Table, m recordcache.Mode, key, value []byte) error {
	leaf, err := tx.attempt(t, m, key, value)
	if tx.state != nil && tx.reads.on {
		tx.readBy(t, m, key, err)
	}
	if err != nil {
		return err
	}
	tx.writes++
	tx.written = tx.w.Epoch + 1
	tx.bytes += int64(len(key) + len(value) + 16)
	if tx.w.Large {
		return nil
	}
	return tx.note(t, leaf, m, key, value)
}

// attempt does the write; if something is in its way, it insists.
func (tx *Tx) attempt(t *recordcache.Table, m recordcache.Mode, key, value []byte) (*recordcache.Leaf, error) {
	leaf, err := tx.once(t, m, key, value)
	if err != nil {
		return tx.insist(t, m, key, value, err)
	}
	return leaf, nil
}

// once does the write if nothing is in its way.
func (tx *Tx) once(t *recordcache.Table, m recordcache.Mode, key, value []byte) (*recordcache.Leaf, error) {
	if len(value) > base.LargeValueSize {
		return t.WriteLarge(tx.ctx, &tx.w, m, key, value)
	}
	return t.Write(&tx.w, m, key, value)
}

// insist repeats the write, which gave err, until it succeeds or fails for good,
// waiting for memory and for other transactions with nothing held in the cache (M7).
func (tx *Tx) insist(t *recordcache.Table, m recordcache.Mode, key, value []byte, err error) (leaf *recordcache.Leaf, _ error) {
	mgr, ctx := tx.m, tx.ctx // of the state, which is gone if the store ends the transaction
	var s *waiter
	for err != nil {
		switch {
		case recordcache.IsNoMemory(err):
			need := max(tx.w.NeedBytes, recordcache.NeedOf(err), 2<<10)
			err = tx.parked(func() error { return mgr.Scav.Wait(ctx, need) })
		case errors.Is(err, recordcache.ErrWait):
			if tx.noWait {
				return nil, err
			}
			if s == nil {
				s = &waiter{me: tx.out.ID, rec: record{t.ID, string(key)}, snapshot: tx.w.Snapshot, limit: tx.patience, slept: tx.waited}
				if tx.iso == ReadCommitted {
					s.snapshot = base.MaxTS
				}
			}
			o := obstacle{tx.w.WaitOn, tx.w.WaitEpoch, tx.w.WaitUndone}
			err = tx.parked(func() error { return mgr.waits.wait(ctx, mgr.closing, s, o) })
			if err == nil {
				err = mgr.Failure()
			}
		case errors.Is(err, base.ErrConflict) && tx.iso == ReadCommitted:
			mgr.commit.settle() // or the clock might not include that version yet
			err = nil
		}
		if err != nil {
			mgr.waits.leave(s, nil, 0)
			mgr.Counters.refused(err)
			return nil, err
		}
		if s != nil {
			tx.waited = s.slept
		}
		tx.renew()
		if tx.overtaken(t, m) {
			mgr.waits.leave(s, nil, 0)
			return nil, errMoved
		}
		leaf, err = tx.once(t, m, key, value)
	}
	mgr.waits.leave(s, tx.out, tx.w.Epoch)
	return leaf, nil
}

// parked waits without tx.mu, so that what the transaction keeps can be taken
// from it meanwhile (M6). If it was ended meanwhile, that is the answer, and it has
// no state any more: wait must not look at it.
func (tx *Tx) parked(wait func() error) error {
	tx.mu.Unlock()
	err := wait()
	tx.mu.Lock()
	if gone := tx.alive(); gone != nil {
		return gone
	}
	return err
}

// relieve takes the transaction's share of the scavenger's work while the
// low-memory flag is up: a leaf now and then, not everything (§4).
func (tx *Tx) relieve() error {
	if tx.relief++; tx.relief%32 != 0 {
		return nil
	}
	return tx.m.Scav.Help(tx.ctx, 1)
}

// errEpochs ends the savepoints of a transaction, after four billion of them.
var errEpochs = fmt.Errorf("saker: savepoint: too many in one transaction: %w", base.ErrNotSupported)

// Savepoint begins a savepoint.
func (tx *Tx) Savepoint() (Savepoint, error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.alive(); err != nil {
		return Savepoint{}, err
	}
	mark, err := tx.push()
	if err != nil {
		return Savepoint{}, err
	}
	return Savepoint{tx: tx, start: mark.Start}, nil
}

// push begins a savepoint. REQUIRES: tx.mu is held.
func (tx *Tx) push() (savepoint.Mark, error) {
	mark := savepoint.Mark{Refs: len(tx.refs), Written: tx.written, Changed: tx.changed}
	if tx.out != nil {
		mark.Departures = tx.out.Departures()
	}
	tx.spMu.Lock()
	defer tx.spMu.Unlock()
	start, ok := tx.sp.Push(mark)
	if !ok {
		return mark, errEpochs
	}
	mark.Start = start
	tx.setStretch()
	return mark, nil
}

func (tx *Tx) setStretch() { tx.w.Epoch, tx.w.Stretch = tx.sp.Now(), tx.sp.Stretch() }

// RollbackTo undoes everything since sp; sp stays usable. ErrSavepointNotFound
// if it was released or rolled away, or is another transaction's.
func (tx *Tx) RollbackTo(sp Savepoint) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.alive(); err != nil {
		return err
	}
	mark, ok := tx.sp.Find(sp.start)
	if sp.tx != tx || !ok {
		return base.ErrSavepointNotFound
	}
	if tx.sp.Full() {
		return errEpochs
	}
	tx.undo(mark)
	return nil
}

// undo undoes everything since the savepoint of mark, which stays. REQUIRES: tx.mu
// is held, the epochs are not used up.
func (tx *Tx) undo(mark savepoint.Mark) {
	tx.spMu.Lock()
	dead := tx.sp.RollbackTo(mark.Start)
	tx.spMu.Unlock()
	tx.setStretch()
	tx.writes++
	if tx.out == nil {
		return
	}
	if tx.written > dead.From {
		tx.kill(mark, dead)
	}
	tx.written, tx.changed = min(tx.written, mark.Written), min(tx.changed, mark.Changed)
	tx.out.CountUndone()
	tx.m.waits.wake(tx.out, dead.From)
}

// kill makes what was written in the dead epochs, since mark, garbage.
func (tx *Tx) kill(mark savepoint.Mark, dead base.EpochRange) {
	// What reached the log or a frame is dead by its epoch. The interval is
	// recorded first: from here on readers of the transaction and waiters know. It
	// begins behind the last epoch that has something live: so the intervals of
	// rollbacks with nothing between them are one.
	interval := base.EpochRange{From: mark.Written, To: dead.To}
	undone := !tx.w.Large
	recorded := tx.w.Large || tx.out.Departures() != mark.Departures
	if recorded {
		tx.out.SetDead(tx.out.Dead().Add(interval))
	}
	if !tx.w.Large {
		for i := len(tx.refs) - 1; i >= mark.Refs; i-- {
			r := &tx.refs[i]
			if !r.t.Undo(r.leaf, tx.keys[r.key:r.key+r.klen], tx.out.ID, dead.From) {
				undone = false
			}
		}
		if len(tx.refs) > mark.Refs {
			tx.keys = tx.keys[:tx.refs[mark.Refs].key]
			tx.refs = tx.refs[:mark.Refs]
		}
		tx.truncateRedo(mark)
	}
	if !recorded && (!undone || tx.out.Departures() != mark.Departures) {
		tx.out.SetDead(tx.out.Dead().Add(interval)) // the scavenger may have moved some meanwhile
	}
}

// truncateRedo drops the redo of dead epochs. If a group was logged since the
// mark, everything kept now is younger than it.
func (tx *Tx) truncateRedo(mark savepoint.Mark) {
	n := 0
	for n < len(tx.redo) {
		row, size, err := seriallog.DecodeRow(tx.redo[n:])
		if err != nil || row.Epoch >= mark.Start {
			break
		}
		n += size
	}
	tx.redo = tx.redo[:n]
}

// Release forgets sp and the savepoints inside it; what was done since belongs
// to what lies around. ErrSavepointNotFound.
func (tx *Tx) Release(sp Savepoint) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if err := tx.alive(); err != nil {
		return err
	}
	if _, ok := tx.sp.Find(sp.start); sp.tx != tx || !ok {
		return base.ErrSavepointNotFound
	}
	tx.pop(sp.start)
	return nil
}

// pop releases the savepoint that began with start. REQUIRES: tx.mu is held.
func (tx *Tx) pop(start base.Epoch) {
	tx.spMu.Lock()
	tx.sp.Release(start)
	tx.spMu.Unlock()
	tx.setStretch()
}
