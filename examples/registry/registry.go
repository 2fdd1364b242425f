package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/engine"
)

// slotsPerChange bounds an advance after a pause: each such part is whole.
const slotsPerChange = 4096

var errGenesis = errors.New("a new registry needs stakers and a slot time")

// genesis describes a registry to be made; an existing one keeps its own.
type genesis struct {
	Start    time.Time
	SlotTime time.Duration
	Stakers  int
}

// opening tells what it took to be ready.
type opening struct {
	New      bool
	State    state
	Records  int // of the registry, read
	Took     time.Duration
	Recovery engine.RecoveryInfo // of the store
}

// Registry is the stored registry. Its methods may be called from any goroutine.
type Registry struct {
	db      *engine.DB
	tables  [tableCount]*engine.Table
	genesis time.Time
	slot    time.Duration
	known   atomic.Uint64 // a slot that is stored: most ticks look no further

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; guarded by mu

	// trace, if not nil, is called inside changes; tests stop there.
	trace func(at moment)
}

// moment is a place in a change.
type moment string

const (
	blockBegun     moment = "block begun"     // it has a snapshot and nothing else
	blockValidated moment = "block validated" // and the state is locked
	blockWritten   moment = "block written"   // all but committed
	slotBegun      moment = "slot begun"
)

// openRegistry opens the registry in dir, or makes it. It reads the state and the
// newest block, never the history.
func openRegistry(ctx context.Context, dir string, opts engine.Options, g genesis) (*Registry, opening, error) {
	start := time.Now()
	var o opening
	opts.Events = &engine.EventListener{Recovered: func(i engine.RecoveryInfo) { o.Recovery = i }}
	db, err := engine.Open(dir, &opts)
	if err != nil {
		return nil, o, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{db: db, changed: make(chan struct{})}
	if err := r.open(ctx, g, &o); err != nil {
		return nil, o, errors.Join(fmt.Errorf("registry: open: %w", err), db.Close())
	}
	o.Took = time.Since(start)
	return r, o, nil
}

func (r *Registry) open(ctx context.Context, g genesis, o *opening) error {
	for i, name := range tableNames {
		t, err := r.db.Table(name)
		if errors.Is(err, engine.ErrTableNotFound) {
			t, err = r.db.CreateTable(ctx, name)
		}
		if err != nil {
			return err
		}
		r.tables[i] = t
	}
	err := r.ready(ctx, o)
	if errors.Is(err, engine.ErrNotFound) {
		if err := r.create(ctx, g); err != nil {
			return err
		}
		o.New = true
		err = r.ready(ctx, o)
	}
	return err
}

// create writes the genesis, in one transaction: a crash leaves none or all of it.
func (r *Registry) create(ctx context.Context, g genesis) error {
	if g.Stakers <= 0 || g.SlotTime <= 0 {
		return errGenesis
	}
	return r.db.Update(ctx, func(tx *engine.Tx) error {
		c := change{r: txRecords{r, tx}, st: state{Genesis: g.Start.UnixNano(), SlotTime: int64(g.SlotTime), Founders: uint64(g.Stakers)}}
		return c.genesis()
	})
}

// ready reads what is needed to go on: two records. ErrNotFound in a new store.
func (r *Registry) ready(ctx context.Context, o *opening) error {
	return r.Query(ctx, func(v *View) error {
		o.State, o.Records = v.State, 1
		r.genesis, r.slot = time.Unix(0, v.State.Genesis), time.Duration(v.State.SlotTime)
		r.known.Store(v.State.Slot)
		if v.State.Height == 0 {
			return nil
		}
		o.Records++
		return v.checkNewest()
	})
}

// Close closes the store.
func (r *Registry) Close() error { return r.db.Close() }

// Apply validates a block and applies it, whole, or leaves everything as it was.
// It returns when the block is on stable storage. Errors for which refused is
// true are about the block.
func (r *Registry) Apply(ctx context.Context, b *block) error {
	h := b.hash()
	err := r.db.Update(ctx, func(tx *engine.Tx) error {
		r.at(blockBegun)
		c, err := r.lock(tx)
		if err != nil {
			return err
		}
		if err := c.validate(b, h); err != nil {
			return err
		}
		r.at(blockValidated)
		if err := c.apply(b, h); err != nil {
			return err
		}
		r.at(blockWritten)
		return nil
	})
	if err != nil {
		return fmt.Errorf("registry: block %d: %w", b.Height, err)
	}
	r.notify()
	return nil
}

// Advance ends the slots whose time is over at now, and returns how many.
func (r *Registry) Advance(ctx context.Context, now time.Time) (uint64, error) {
	since := now.Sub(r.genesis)
	if since < 0 {
		return 0, nil
	}
	slot, ended := uint64(since/r.slot), uint64(0)
	for r.known.Load() < slot {
		var from, to uint64
		err := r.db.Update(ctx, func(tx *engine.Tx) error {
			r.at(slotBegun)
			c, err := r.lock(tx)
			if err != nil {
				return err
			}
			from = c.st.Slot
			err = c.advance(slot, slotsPerChange)
			to = c.st.Slot
			return err
		})
		if err != nil {
			return ended, fmt.Errorf("registry: advance: %w", err)
		}
		ended += to - from
		r.known.Store(to)
		r.notify()
	}
	return ended, nil
}

// lock begins a change: from here on no other change gets between what this one
// reads and what it writes. It waits for a change that is under way.
func (r *Registry) lock(tx *engine.Tx) (*change, error) {
	b, err := tx.GetForUpdate(r.tables[stateTable], stateKey)
	if err != nil {
		return nil, err
	}
	st, err := decodeState(b)
	return &change{r: txRecords{r, tx}, st: st}, err
}

// next returns a channel that is closed after the next change.
func (r *Registry) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *Registry) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Registry) at(m moment) {
	if r.trace != nil {
		r.trace(m)
	}
}

// txRecords are the records as a transaction sees them.
type txRecords struct {
	r  *Registry
	tx *engine.Tx
}

func (t txRecords) get(of table, key []byte) ([]byte, error) {
	return t.tx.Get(t.r.tables[of], key)
}

func (t txRecords) put(of table, key, value []byte) error {
	return t.tx.Put(t.r.tables[of], key, value)
}
