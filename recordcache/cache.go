package recordcache

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

type tablespaceEntry = tablespace.Entry

// errNoMemory is returned, with no lock held, when record memory has no room.
// The caller waits for the scavenger and tries again (M3).
var errNoMemory = errors.New("saker: record memory is full")

// errLongList is errNoMemory for a leaf whose list is too long to become present:
// it must be made shorter first.
var errLongList = fmt.Errorf("%w: long list", errNoMemory)

// needError is errNoMemory with the bytes that could not be had.
type needError struct{ need int64 }

func (e *needError) Error() string { return errNoMemory.Error() }

func (e *needError) Is(target error) bool { return target == errNoMemory }

// NeedOf returns the bytes that an error of record memory asks for, 0 if it does
// not say.
func NeedOf(err error) int {
	if e, ok := errors.AsType[*needError](err); ok {
		return int(e.need)
	}
	return 0
}

// IsNoMemory reports whether err asks the caller to wait for record memory.
func IsNoMemory(err error) bool { return errors.Is(err, errNoMemory) }

// ErrWait is returned by Write when another live transaction is in the way; the
// Writer says which one.
var ErrWait = errors.New("saker: another transaction wrote the record")

// Options are the parts that the cache stands on.
type Options struct {
	Arena       *arena.Arena
	Space       *tablespace.Space
	Log         *seriallog.Log
	Backlog     *backlog.Store
	Reg         *versionchain.Registry
	Incarnation uint32
	// Horizon returns the timestamps that are read (S1).
	Horizon func() versionchain.Horizon
	// ColdBytes is the budget of the cold-row cache, 0 for none.
	ColdBytes int64
}

// Stats are counters since Open.
type Stats struct {
	ChilledRecords   atomic.Uint64
	ThawedRecords    atomic.Uint64
	BackloggedChains atomic.Uint64
	RestoredChains   atomic.Uint64
	RetiredVersions  atomic.Uint64
	PrunedVersions   atomic.Uint64
	SealedLeaves     atomic.Uint64
	Splits           atomic.Uint64
	Merges           atomic.Uint64
	FramedRows       atomic.Uint64 // written to frames, those of merges included
	WholeLeaves      atomic.Uint64 // written whole by checkpoints
	CollectedBytes   atomic.Uint64 // of frames rewritten to collect space
	ColdReads        atomic.Uint64
	ColdHits         atomic.Uint64
}

// Cache is the record cache of a store.
type Cache struct {
	arena       *arena.Arena
	space       *tablespace.Space
	log         *seriallog.Log
	backlog     *backlog.Store
	reg         *versionchain.Registry
	incarnation uint32
	horizon     func() versionchain.Horizon
	cold        *coldRows
	ring        ring
	ckpt        atomic.Uint64
	replaying   atomic.Bool
	// AfterLookup, if not nil, is called between reading an entry of the leaf map
	// and asking for the owners in it: tests force what may happen there.
	AfterLookup func()
	// BeforeBacklog, if not nil, is called by BacklogOwner with the low fence of each
	// leaf before its turn: tests hold the work back while the walk goes on.
	BeforeBacklog func(low []byte)
	// AlwaysWhole, if set, makes checkpoints write every leaf whole that may be (P9),
	// worth it or not: tests have small leaves.
	AlwaysWhole atomic.Bool
	shortMu     sync.Mutex // held, over I/O, by whoever makes a list in the map shorter
	acquitted   acquittals
	undone      undoneShares
	Stats       Stats

	mu       sync.RWMutex // guards tables and owners
	tables   map[base.TableID]*Table
	owners   map[base.TxnID]decided // with frames in the map
	outcomes int64                  // bytes of owners, uncharged ones included
	mergeReq func(*Table, []byte)   // asks for a merge of the leaf at a key
	live     func(base.TxnID) []base.Epoch

	workers sync.Pool
}

// New returns an empty cache.
func New(o Options) (*Cache, error) {
	c := &Cache{
		arena: o.Arena, space: o.Space, log: o.Log, backlog: o.Backlog, reg: o.Reg,
		incarnation: o.Incarnation, horizon: o.Horizon,
		tables: make(map[base.TableID]*Table),
		owners: make(map[base.TxnID]decided),
	}
	c.ring.init()
	c.workers.New = func() any { return newWorker() }
	if o.ColdBytes > 0 {
		cold, err := newColdRows(o.ColdBytes)
		if err != nil {
			return nil, err
		}
		c.cold = cold
	}
	return c, nil
}

// Close frees what the cache holds outside record memory.
func (c *Cache) Close() {
	if c.cold != nil {
		c.cold.close()
	}
}

// OnMerge sets the function that is asked to merge the leaf at a key; it must
// not block. Call it before the first write.
func (c *Cache) OnMerge(fn func(*Table, []byte)) { c.mergeReq = fn }

// OnStretches sets the function that returns the epochs which began the live
// savepoints of a transaction. Call it before the first write.
func (c *Cache) OnStretches(fn func(base.TxnID) []base.Epoch) { c.live = fn }

// AddTable makes a table known; it opens as one gap.
func (c *Cache) AddTable(id base.TableID, name string) *Table {
	t := newTable(c, id, name)
	c.mu.Lock()
	c.tables[id] = t
	c.mu.Unlock()
	return t
}

// Table returns the table with that id, or nil.
func (c *Cache) Table(id base.TableID) *Table {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tables[id]
}

// ForgetTable drops a table from the cache; its leaves must be gone.
func (c *Cache) ForgetTable(id base.TableID) {
	c.mu.Lock()
	delete(c.tables, id)
	c.mu.Unlock()
}

// OutcomeBytes is what the outcome of a decided owner takes at least.
const OutcomeBytes = 256

// decided is the outcome of a transaction whose frames are in the given runs.
type decided struct {
	out     *versionchain.Outcome
	runs    []base.RunID
	cost    int64
	charged bool
}

// AddOwner keeps the outcome of a decided transaction whose frames are listed,
// charged to record memory, until all its runs are gone.
func (c *Cache) AddOwner(o *versionchain.Outcome, runs []base.RunID) {
	d := decided{out: o, runs: runs, cost: int64(OutcomeBytes + 8*len(runs) + 8*len(o.Dead()))}
	d.charged = c.arena.Charge(d.cost) // a commit cannot be refused; M1 counts what it can
	c.mu.Lock()
	c.forgetLocked(o.ID)
	c.owners[o.ID] = d
	c.outcomes += d.cost
	c.mu.Unlock()
}

// forgetLocked drops an outcome, if there is one. REQUIRES: c.mu is held.
func (c *Cache) forgetLocked(id base.TxnID) {
	d, ok := c.owners[id]
	if !ok {
		return
	}
	if d.charged {
		c.arena.Uncharge(d.cost)
	}
	c.outcomes -= d.cost
	delete(c.owners, id)
}

// ManyOutcomes returns by how many bytes the outcomes of decided owners exceed half
// of their share of record memory, once they exceed all of it, an eighth. They are
// charged, and only the end of their frames takes them away.
func (c *Cache) ManyOutcomes() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	share := c.arena.Cap() / 8
	if c.outcomes <= share {
		return 0
	}
	return c.outcomes - share/2
}

// Unnamed returns the committed transactions that no listed frame names any more,
// all their runs having been unlinked, and whose commit record lies before the
// durable checkpoint: the outcome row of a later one says that its runs are gone
// for good (L11). A run that is gone and listed was lost: the outcome stays, or its
// rows would pass for those of an owner that never committed.
func (c *Cache) Unnamed() []base.TxnID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var ids []base.TxnID
	for id, d := range c.owners {
		st, ts := d.out.Status()
		gone := st == versionchain.Committed && ts <= c.Checkpoint()
		for _, r := range d.runs {
			gone = gone && !c.space.Named(r)
		}
		if gone {
			ids = append(ids, id)
		}
	}
	return ids
}

// ForgetOwner drops an outcome that no listed frame names any more.
func (c *Cache) ForgetOwner(id base.TxnID) {
	c.mu.Lock()
	c.forgetLocked(id)
	c.mu.Unlock()
}

// KnowsOwner reports whether the transaction has an outcome.
func (c *Cache) KnowsOwner(id base.TxnID) bool { return c.owner(id) != nil }

// Owner returns the outcome of the owner of a frame; nil when unknown.
func (c *Cache) Owner(id base.TxnID) *versionchain.Outcome { return c.owner(id) }

// Committed reports whether the transaction is committed and published.
func (c *Cache) Committed(id base.TxnID) bool {
	o := c.owner(id)
	if o == nil {
		return false
	}
	st, _ := o.Status()
	return st == versionchain.Committed
}

// owner finds the outcome of the owner of a frame; nil when unknown.
func (c *Cache) owner(id base.TxnID) *versionchain.Outcome {
	if o := c.reg.Get(id); o != nil {
		return o
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.owners[id].out
}

func unknownOwner(id base.TxnID) error {
	return &base.CorruptionError{File: "leaf map", Why: fmt.Sprintf("frame of unknown transaction %v", id)}
}

// SetCheckpoint notes the clock of the last durable checkpoint: what was committed
// up to it is not replayed any more.
func (c *Cache) SetCheckpoint(ts base.CommitTS) { c.ckpt.Store(uint64(ts)) }

// Checkpoint returns the clock of the last durable checkpoint.
func (c *Cache) Checkpoint() base.CommitTS { return base.CommitTS(c.ckpt.Load()) }

// Replaying says that rows of the log are being replayed, or not any more. The log
// may hold a copy of an older version of a record behind a newer one, for instance
// of one that was chilled after the transaction's redo was logged: until all of it
// is replayed no tombstone goes for having nothing below it.
func (c *Cache) Replaying(on bool) { c.replaying.Store(on) }

// Leaves returns the number of present leaves.
func (c *Cache) Leaves() int { return c.ring.len() }

// ReleaseMemory frees all record memory; nobody may use the cache after it.
func (c *Cache) ReleaseMemory() {
	c.ring.walk(func(l *Leaf) bool {
		l.mu.Lock()
		if b := l.page.Block(); b != nil {
			c.arena.Free(b)
		}
		for _, b := range l.mem {
			if b != nil {
				c.arena.Free(b)
			}
		}
		l.page, l.mem, l.dead = versionchain.Page{}, nil, true
		l.mu.Unlock()
		c.ring.remove(l)
		return true
	})
}

// Tables returns the tables that the cache knows, by id.
func (c *Cache) Tables() []*Table {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.SortedFunc(maps.Values(c.tables), func(a, b *Table) int { return cmp.Compare(a.ID, b.ID) })
}
