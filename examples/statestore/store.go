package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// Errors of the store, beside those of the engine.
var (
	// ErrInvalid is returned for a block that breaks the rules.
	ErrInvalid = errors.New("block is invalid")
	// ErrUnknownParent is returned for a block whose parent is not here.
	ErrUnknownParent = errors.New("parent is unknown")
	// ErrFinalized is returned for a block that is on no branch of the finalized one.
	ErrFinalized = errors.New("block is behind the finalized one")
	// ErrNotFound is returned for what is not there, or not permanent.
	ErrNotFound = engine.ErrNotFound
	// ErrSchemaTooNew is returned by Open when a newer program wrote the store.
	ErrSchemaTooNew = errors.New("schema is too new")
	// ErrInconsistent is returned by Check.
	ErrInconsistent = errors.New("records do not agree")
)

// refused reports whether err is about a block, and not about the store.
func refused(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnknownParent) || errors.Is(err, ErrFinalized)
}

// Options of a store. Zero values mean the default.
type Options struct {
	// Engine are the options of the engine.
	Engine engine.Options
	// StateSize is the size of a state in a new store, in bytes; default 4096.
	StateSize int
	// Verify judges a block after all of its states are stored; what takes its
	// time in verification. An error is a refusal. It may be called again for the
	// same block, and by several imports at a time.
	Verify func(context.Context, *Block) error
	// Trace is told what happens, from within: it may wait, and must not call the
	// store's Import or Finalize on the same goroutine.
	Trace func(Event)
}

// Step is a step that Trace is told.
type Step string

// The steps.
const (
	StepMissing   Step = "missing"   // a state is not there and is going to be computed
	StepStored    Step = "stored"    // it is stored, temporary
	StepAdopted   Step = "adopted"   // a permanent state was there
	StepVerifying Step = "verifying" // all states of the block are stored
	StepFinishing Step = "finishing" // verified; the guard is locked and the commit next
	StepMigrating Step = "migrating" // a record was rewritten
	StepMigrated  Step = "migrated"  // a step of the migration is committed
)

// Event is one step.
type Event struct {
	Step  Step
	Block ID // that is imported
	State ID // that the step is about
}

const (
	metaTable   = "meta"
	blockTable  = "blocks"
	stateTable  = "states-by-slot"
	guardTable  = "guards"
	importsMax  = 16
	stateSize   = 4096
	defaultMiB  = 2
	pruneStride = 256 // rows deleted between two looks at the table
)

var (
	schemaKey    = []byte("schema")
	finalizedKey = []byte("finalized")
)

// Store keeps blocks and states.
type Store struct {
	db                           *engine.DB
	o                            Options
	meta, blocks, states, guards *engine.Table
	guard                        chan byte // guards that no import holds
}

// Opening tells what Open found and did.
type Opening struct {
	New      bool
	Schema   uint64 // before migration
	Recovery engine.RecoveryInfo
}

// Open opens the store in dir, or makes one. Left-overs of blocks that were under
// way in a crash are gone then, and the schema is the newest. ErrSchemaTooNew.
func Open(ctx context.Context, dir string, o Options) (*Store, Opening, error) {
	if o.StateSize == 0 {
		o.StateSize = stateSize
	}
	if o.Trace == nil {
		o.Trace = func(Event) {}
	}
	var info Opening
	o.Engine.Events = &engine.EventListener{Recovered: func(i engine.RecoveryInfo) { info.Recovery = i }}
	db, err := engine.Open(dir, &o.Engine)
	if err != nil {
		return nil, info, fmt.Errorf("statestore: %w", err)
	}
	s := &Store{db: db, o: o, guard: make(chan byte, importsMax)}
	for i := range byte(importsMax) {
		s.guard <- i
	}
	if err := s.open(ctx, &info); err != nil {
		return nil, info, errors.Join(fmt.Errorf("statestore: open: %w", err), db.Close())
	}
	return s, info, nil
}

func (s *Store) open(ctx context.Context, info *Opening) (err error) {
	if s.meta, err = s.table(ctx, metaTable); err != nil {
		return err
	}
	if info.Schema, err = s.schema(ctx); err != nil {
		return err
	}
	info.New = info.Schema == 0
	if err := s.migrate(ctx, info.Schema); err != nil {
		return err
	}
	for name, t := range map[string]**engine.Table{blockTable: &s.blocks, stateTable: &s.states, guardTable: &s.guards} {
		if *t, err = s.table(ctx, name); err != nil {
			return err
		}
	}
	if info.New {
		return s.genesis(ctx)
	}
	return nil
}

// table returns a table, made if it is missing: a crash may have come between.
func (s *Store) table(ctx context.Context, name string) (*engine.Table, error) {
	t, err := s.db.Table(name)
	if errors.Is(err, engine.ErrTableNotFound) {
		return s.db.CreateTable(ctx, name)
	}
	return t, err
}

// schema returns the schema version, 0 in a new store.
func (s *Store) schema(ctx context.Context) (v uint64, err error) {
	err = s.db.View(ctx, func(tx *engine.Tx) error {
		b, err := tx.Get(s.meta, schemaKey)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(b) != 8 {
			return fmt.Errorf("%w: schema", errRecord)
		}
		v = binary.BigEndian.Uint64(b)
		return nil
	})
	return v, err
}

// genesis writes the first block, its state and the schema version, all or none.
func (s *Store) genesis(ctx context.Context) error {
	b := &Block{}
	st := newState(s.o.StateSize)
	b.StateRoot = st.root()
	id := b.ID()
	copy(st[8:], id.Root[:])
	return s.db.Update(ctx, func(tx *engine.Tx) error {
		return errors.Join(
			tx.Insert(s.blocks, id.key(), b.encode()),
			tx.Insert(s.states, id.key(), st),
			tx.Put(s.meta, finalizedKey, id.key()),
			tx.Put(s.meta, schemaKey, num(schemaVersion)),
		)
	})
}

// Close closes the store; imports under way fail.
func (s *Store) Close() error { return s.db.Close() }

// Metrics returns the engine's figures.
func (s *Store) Metrics() engine.Metrics { return s.db.Metrics() }
