package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/scavenger"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Config is what a Manager stands on.
type Config struct {
	Arena   *arena.Arena
	Space   *tablespace.Space
	Log     *seriallog.Log
	Backlog *backlog.Store
	Cache   *recordcache.Cache
	Reg     *versionchain.Registry
	Scav    *scavenger.Scavenger

	Incarnation    uint32
	ChillThreshold int64
	NoSync         bool
	ReadOnly       bool
	LockTimeout    time.Duration // of transactions that do not say
	// DebugTransactions notes the stack of each Begin.
	DebugTransactions bool
	// LogLimit is how far the log may grow beyond the checkpoint before new
	// writers wait (L9).
	LogLimit int64
	// ClockGap is by how much recovery has advanced the clock, durably, and will
	// again; at least 2.
	ClockGap base.CommitTS
	// ReadSpans is how many spans a serializable transaction keeps of what it has
	// read before they become coarser; 0 is the default.
	ReadSpans int
	// Behind is told that the log has grown; it must not block.
	Behind func()
	// Stuck returns how often the log could not be let go, and nil, or why it cannot now:
	// a first write that has waited in vain gets that.
	Stuck func() (failed int, err error)
	// Crowded returns nil, or what a first write has to wait for: superseded rows
	// take more space than they should.
	Crowded func() <-chan struct{}
	// Validated, if not nil, is called by the commit of a serializable transaction
	// between looking through what it has read and taking the timestamp: tests force
	// what may happen there.
	Validated func()
	// Failure returns the error that poisoned the store, or nil.
	Failure func() error
}

// Manager runs the transactions of one store.
type Manager struct {
	Config
	snaps     *Snapshots
	commit    committer
	waits     *waits
	seq       atomic.Uint64
	buffered  atomic.Int64 // bytes charged for what small transactions keep
	readBytes atomic.Int64 // bytes charged for read sets
	coarse    atomic.Int64 // the coarse clock, see Tick

	mu      sync.Mutex // guards the fields below
	open    *state     // list of the open transactions
	opened  int        // its length
	closed  bool
	low     bool // the low-memory flag, for transactions to come
	retired []retired
	pins    []segmentPins

	closing  chan struct{}
	sweeps   chan *sweep
	sweepers sync.WaitGroup
	sweeping atomic.Int64
	relaxed  chan struct{} // closed and replaced when the log shrinks
	spares   spares
	Counters Counters
}

// Counters count since Open.
type Counters struct {
	Commits, Rollbacks, Conflicts, Deadlocks, LockTimeouts atomic.Uint64
	// Unserializable counts, among Conflicts, the commits that failed because others
	// had changed what was read; MaybeSerializable those of them that a more precise
	// read set might have let pass.
	Unserializable, MaybeSerializable atomic.Uint64
}

// refused counts a statement that failed.
func (c *Counters) refused(err error) {
	switch {
	case errors.Is(err, base.ErrConflict):
		c.Conflicts.Add(1)
	case errors.Is(err, base.ErrDeadlock):
		c.Deadlocks.Add(1)
	case errors.Is(err, base.ErrLockTimeout):
		c.LockTimeouts.Add(1)
	}
}

// Waits returns how often a transaction has gone to sleep to wait for another since
// Open; woken is how often one was woken by another.
func (m *Manager) Waits() (slept, woken uint64) { return m.waits.slept.Load(), m.waits.woken.Load() }

// Snapshots is the published clock and the register of snapshots; it exists
// before the Manager, because the record cache needs it.
type Snapshots struct{ snapshots }

// Recovering sets the clock while no transaction runs: recovery applies commits
// in the order of the log, and all of them are published.
func (s *Snapshots) Recovering(ts base.CommitTS) { s.clock.Store(uint64(ts)) }

// Horizon returns the timestamps as of which somebody may read (S1).
func (s *Snapshots) Horizon() versionchain.Horizon { return s.horizon() }

// retired is a decided transaction whose id may still stand in some leaf; it
// leaves the registry after a checkpoint has seen every leaf.
type retired struct {
	out  *versionchain.Outcome
	temp bool
}

// segmentPins are log segments that hold groups of a committed transaction;
// they are let go when the checkpoint passes its commit record (L5).
type segmentPins struct {
	end  base.LSN
	segs []uint64
}

// NewManager returns a manager that continues after the recovered clock last;
// pos is the end of the last recovered commit record.
func NewManager(c Config, snaps *Snapshots, last base.CommitTS, pos base.LSN) *Manager {
	m := &Manager{
		Config: c, snaps: snaps, waits: newWaits(c.Failure),
		closing: make(chan struct{}), sweeps: make(chan *sweep, 1024), relaxed: make(chan struct{}),
	}
	m.commit.last, m.commit.safe, m.commit.pubEnd = last, last, pos
	m.commit.ahead = c.ClockGap / 2
	snaps.clock.Store(uint64(last))
	m.sweepers.Add(1)
	go m.sweepLoop()
	return m
}

// Clock returns the published clock.
func (m *Manager) Clock() base.CommitTS { return m.snaps.now() }

// Published returns the published clock and the end of its commit record.
func (m *Manager) Published() (base.LSN, base.CommitTS) {
	return m.commit.published(&m.snaps.snapshots)
}

// Active returns the number of open transactions.
func (m *Manager) Active() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// SetLowMemory raises or lowers the flag of every active transaction.
func (m *Manager) SetLowMemory(low bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.low = low
	for st := m.open; st != nil; st = st.next {
		st.low.Store(low)
	}
}

// Unburden takes from small transactions what they keep in charged buffers, of
// those that are idle or wait included (M6), and reports whether that freed
// memory: their redo goes to the log, and with all the lists of what they wrote
// go too, which makes them large. Whoever is in the middle of a statement is
// passed over: a statement ends, or waits. It never blocks on a transaction.
func (m *Manager) Unburden(all bool) bool {
	if m.buffered.Load() == 0 {
		return false
	}
	m.mu.Lock()
	active := make([]*Tx, 0, m.opened)
	for st := m.open; st != nil; st = st.next {
		active = append(active, st.tx)
	}
	m.mu.Unlock()
	freed := false
	for _, tx := range active {
		if tx.mu.TryLock() {
			freed = tx.unburden(all) || freed
			tx.mu.Unlock()
		}
	}
	return freed
}

// unburden is Unburden for one transaction. An error is the log's, which has
// poisoned the store. REQUIRES: tx.mu is held.
func (tx *Tx) unburden(all bool) bool {
	if tx.alive() != nil {
		return false
	}
	had := tx.charged
	if had == 0 || (!all && len(tx.redo) == 0) {
		return false
	}
	return tx.shed(all, false) == nil && tx.charged < had
}

// find returns the state of an open transaction that has written, or that of another
// one: its owner tells. Nil if it has ended.
func (m *Manager) find(id base.TxnID) *state {
	o := m.Reg.Get(id)
	if o == nil {
		return nil
	}
	st, _ := o.Keeper.Load().(*state)
	return st
}

// Stretches returns the epochs that began the live savepoints of a transaction.
// A savepoint made later begins above every epoch that is stored anywhere, so
// the answer does not age.
func (m *Manager) Stretches(id base.TxnID) []base.Epoch {
	st := m.find(id)
	if st == nil {
		return nil
	}
	st.spMu.Lock()
	defer st.spMu.Unlock()
	if st.owner.Load() != uint64(id) {
		return nil // it has ended meanwhile
	}
	return st.sp.Starts()
}

// Begin starts a transaction. ctx ends its waits; it is not a deadline for the
// transaction itself, which stays open until Commit or Rollback.
func (m *Manager) Begin(ctx context.Context, o Options) (*Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("saker: begin: %w", err)
	}
	if o.Isolation > Serializable {
		return nil, fmt.Errorf("saker: begin: isolation %v: %w", o.Isolation, base.ErrNotSupported)
	}
	tx := m.spares.newTx()
	st := m.spares.newState()
	st.tx, st.m, st.ctx, st.w.Reg = tx, m, ctx, m.Reg
	st.readOnly, st.noSync, st.iso = o.ReadOnly || m.ReadOnly, o.NoSync || m.NoSync, o.Isolation
	if st.patience = o.LockTimeout; st.patience == 0 {
		st.patience = m.LockTimeout
	}
	if m.DebugTransactions {
		st.stack = debug.Stack()
	}
	tx.state = st
	if o.Isolation == Serializable && !st.readOnly {
		tx.beginReads()
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, fmt.Errorf("saker: begin: %w", base.ErrClosed)
	}
	st.snap = m.snaps.open()
	st.w.Snapshot, st.begun = st.snap.ts, st.snap.ts
	st.born, st.told = time.Duration(m.coarse.Load()), false
	m.linkLocked(st)
	st.low.Store(m.low)
	m.mu.Unlock()
	return tx, nil
}

// linkLocked enters st into the list of open transactions. REQUIRES: m.mu is held.
func (m *Manager) linkLocked(st *state) {
	if st.next = m.open; st.next != nil {
		st.next.prev = st
	}
	m.open = st
	m.opened++
}

// unlinkLocked takes st out of it. REQUIRES: m.mu is held.
func (m *Manager) unlinkLocked(st *state) {
	if st.next != nil {
		st.next.prev = st.prev
	}
	if st.prev != nil {
		st.prev.next = st.next
	} else {
		m.open = st.next
	}
	st.prev, st.next = nil, nil
	m.opened--
}

// Relaxed tells writers that wait for the log that it has shrunk.
func (m *Manager) Relaxed() {
	m.mu.Lock()
	close(m.relaxed)
	m.relaxed = make(chan struct{})
	m.mu.Unlock()
}

// Owed returns how many bytes of the log a checkpoint made now would let go: what
// was appended since the last one, up to the newest published commit. What live
// transactions have logged behind that does not count, since no checkpoint can
// pass it: whoever waited for it might wait for a transaction that waits for them.
func (m *Manager) Owed() int64 {
	since := m.Log.SinceCheckpoint()
	if since <= m.LogLimit/2 {
		return since // too little to look closer
	}
	pos, _ := m.Published()
	return since - m.Log.BytesSince(pos)
}

// admit delays a transaction's first write while the log is over its limit (L9), and
// refuses it if it has waited for checkpoints that fail.
func (m *Manager) admit(ctx context.Context) error {
	failed, _ := m.Stuck()
	for m.Owed() > m.LogLimit {
		m.mu.Lock()
		ch := m.relaxed
		m.mu.Unlock()
		m.Behind()
		if m.Owed() <= m.LogLimit {
			break
		}
		if err := m.pause(ctx, ch); err != nil {
			return err
		}
		// One that failed may have been at work before; the one after it was not.
		if n, err := m.Stuck(); err != nil && n > failed+1 && m.Owed() > m.LogLimit {
			return cmp.Or(m.Failure(), ctx.Err(), err)
		}
	}
	if m.Owed() > m.LogLimit/2 {
		m.Behind()
	}
	for ch := m.Crowded(); ch != nil; ch = m.Crowded() {
		if err := m.pause(ctx, ch); err != nil {
			return err
		}
	}
	return nil
}

// pause waits until ch is closed, a second at most: then the caller looks again.
func (m *Manager) pause(ctx context.Context, ch <-chan struct{}) error {
	if err := m.Failure(); err != nil {
		return err
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.closing:
		return base.ErrClosed
	case <-time.After(time.Second): // the store may have failed meanwhile
		return nil
	}
}

// register gives the transaction an id before its first write.
func (m *Manager) register(tx *Tx) error {
	ctx := tx.ctx
	if err := tx.parked(func() error { return m.admit(ctx) }); err != nil {
		return err
	}
	id := base.TxnID(uint64(m.Incarnation)<<base.TxnSeqBits | m.seq.Add(1))
	tx.out = versionchain.NewOutcome(id)
	tx.w.Self = tx.out
	tx.w.Savepoints = &tx.sp
	tx.w.Logged = true
	tx.owner.Store(uint64(id))
	tx.out.Keeper.Store(tx.state)
	m.Reg.Add(tx.out)
	return nil
}

// leave takes an ended transaction out of all registers, and its state from it.
// REQUIRES: tx.mu is held.
func (m *Manager) leave(tx *Tx) {
	m.snaps.close(tx.snap)
	m.mu.Lock()
	m.unlinkLocked(tx.state)
	m.mu.Unlock()
	if tx.out != nil {
		tx.out.Keeper.Store((*state)(nil)) // it may be known for long
	}
	st := tx.state
	tx.state = nil
	m.spares.giveState(st)
}

// retire keeps a decided transaction known until every leaf has been seen.
func (m *Manager) retire(out *versionchain.Outcome, temp bool) {
	m.mu.Lock()
	m.retired = append(m.retired, retired{out, temp})
	m.mu.Unlock()
}

// Retired returns how many decided transactions wait for a checkpoint.
func (m *Manager) Retired() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.retired)
}

// TakeRetired returns the transactions that a walk over all leaves, begun after
// the call, makes forgettable; Forget forgets them.
func (m *Manager) TakeRetired() (list []retired) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list, m.retired = m.retired, nil
	return list
}

// Forget removes transactions from the registry.
func (m *Manager) Forget(list []retired) {
	for _, r := range list {
		m.Reg.Remove(r.out.ID)
	}
}

// HoldSegments takes over pins of log segments that are needed until a checkpoint
// reaches pos.
func (m *Manager) HoldSegments(pos base.LSN, segs []uint64) {
	if len(segs) == 0 {
		return
	}
	m.mu.Lock()
	m.pins = append(m.pins, segmentPins{end: pos, segs: segs})
	m.mu.Unlock()
}

// Checkpointed lets go of the log segments of transactions whose commit records
// end at or below pos.
func (m *Manager) Checkpointed(pos base.LSN) {
	m.mu.Lock()
	keep := m.pins[:0]
	var free []uint64
	for _, p := range m.pins {
		if p.end <= pos {
			free = append(free, p.segs...)
		} else {
			keep = append(keep, p)
		}
	}
	m.pins = keep
	m.mu.Unlock()
	for _, s := range free {
		m.Log.Unpin(s)
	}
}

// Close ends every open transaction, as a rollback would, and waits for the
// sweeper. Begin fails from now on.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return base.ErrClosed
	}
	m.closed = true
	close(m.closing)
	m.Scav.Interrupt()
	open := make([]*Tx, 0, m.opened)
	for st := m.open; st != nil; st = st.next {
		open = append(open, st.tx)
	}
	m.mu.Unlock()
	var errs []error
	for _, tx := range open {
		if err := tx.end(base.ErrClosed); err != nil && !errors.Is(err, base.ErrTxDone) {
			errs = append(errs, err)
		}
	}
	close(m.sweeps)
	m.sweepers.Wait()
	return errors.Join(errs...)
}
