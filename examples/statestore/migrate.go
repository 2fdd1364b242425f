package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// The history of the schema:
//
//	1  states in table "states", by block root and slot; the program knew nothing
//	   of temporary states
//	2  the same records; the number keeps programs out that would write in
//	   several transactions what belongs together
//	3  states in table "states-by-slot", by slot and block root, so that what
//	   finalization makes useless lies together
//
// A step makes its changes and raises the version in one transaction, however many
// records that are. Tables are made before it and dropped after it: both may be
// repeated, so a crash anywhere leaves a store that the next Open brings on.
const (
	schemaVersion  = 3
	oldStatesTable = "states"
)

// step brings the records from one version to the next.
type step func(ctx context.Context, s *Store) error

var steps = [schemaVersion]step{
	1: func(ctx context.Context, s *Store) error { return s.raise(ctx, 2, nil) },
	2: func(ctx context.Context, s *Store) error { return s.statesBySlot(ctx) },
}

// migrate takes all steps from version from on; none in a new store.
func (s *Store) migrate(ctx context.Context, from uint64) error {
	if from > schemaVersion {
		return fmt.Errorf("%w: %d, this program knows %d", ErrSchemaTooNew, from, schemaVersion)
	}
	if from == 0 {
		return nil
	}
	for v := from; v < schemaVersion; v++ {
		if err := steps[v](ctx, s); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", v+1, err)
		}
		s.o.Trace(Event{Step: StepMigrated})
	}
	err := s.db.DropTable(ctx, oldStatesTable)
	if errors.Is(err, engine.ErrTableNotFound) {
		return nil
	}
	return err
}

// raise makes the changes of a step, if any, and stores the version, in one
// transaction.
func (s *Store) raise(ctx context.Context, version uint64, changes func(*engine.Tx) error) error {
	return s.db.Update(ctx, func(tx *engine.Tx) error {
		if changes != nil {
			if err := changes(tx); err != nil {
				return err
			}
		}
		return tx.Put(s.meta, schemaKey, num(version))
	})
}

// statesBySlot copies all states under their new keys. Another transaction reads:
// its scan need not look again after each write.
func (s *Store) statesBySlot(ctx context.Context) error {
	old, err := s.table(ctx, oldStatesTable)
	if err != nil {
		return err
	}
	states, err := s.table(ctx, stateTable)
	if err != nil {
		return err
	}
	return s.raise(ctx, 3, func(tx *engine.Tx) error {
		return s.db.View(ctx, func(from *engine.Tx) error {
			for row, err := range from.Scan(old, engine.Range{}) {
				if err != nil {
					return err
				}
				if len(row.Key) != idSize || len(row.Value) < stateSizeMin {
					return fmt.Errorf("%w: state of schema 2", errRecord)
				}
				id := State(row.Value).ID()
				if err := tx.Insert(states, id.key(), row.Value); err != nil {
					return err
				}
				s.o.Trace(Event{Step: StepMigrating, State: id})
			}
			return nil
		})
	})
}
