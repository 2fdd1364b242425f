//go:build saker_seeded_bugs

package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/history"
	"github.com/sakerdb/saker/internal/seeded"
)

var seed = flag.Uint64("saker.seed", 1, "seed of the transactions")

// Each bug is found in a bounded number of transactions, at the level that it
// breaks, and the same transactions are clean without it: what the checker says of
// a store is worth as much as this test.
func TestSeededBugsAreFound(t *testing.T) {
	const (
		rc   = engine.ReadCommitted
		snap = engine.Snapshot
		ser  = engine.Serializable
	)
	for _, tc := range []struct {
		name  string
		bug   seeded.Bug
		level engine.Isolation
		names []history.Kind // it shows as one of these; empty: anything forbidden
	}{
		{"none", seeded.None, rc, nil},
		{"none", seeded.None, snap, nil},
		{"none", seeded.None, ser, nil},
		{"visible too new", seeded.VisibleTooNew, snap, []history.Kind{history.GSingle, history.GSingleRealtime, history.GNonadjacent}},
		{"visible undecided", seeded.VisibleUndecided, snap, []history.Kind{history.G1a, history.G1b, history.G1c}},
		{"visible undecided", seeded.VisibleUndecided, rc, []history.Kind{history.G1a, history.G1b, history.G1c}},
		{"visible undecided", seeded.VisibleUndecided, ser, []history.Kind{history.G1a, history.G1b, history.G1c}},
		{"visible rolled back", seeded.VisibleRolledBack, snap, []history.Kind{history.G1a}},
		{"skipped conflict", seeded.SkippedConflict, snap, []history.Kind{history.LostUpdate}},
		{"skipped conflict", seeded.SkippedConflict, rc, []history.Kind{history.LostUpdate}},
		{"skipped frames", seeded.SkippedFrames, snap, []history.Kind{history.LostUpdate, history.Incompatible}},
		{"dirty frame", seeded.DirtyFrame, snap, nil},
		{"first frame", seeded.FirstFrame, snap, nil},
		{"skipped validation", seeded.SkippedValidation, ser, []history.Kind{history.G2Item, history.G2}},
		{"validated too old", seeded.ValidatedTooOld, ser, []history.Kind{history.G2Item, history.G2}},
		{"untracked range", seeded.UntrackedRange, ser, []history.Kind{history.G2}},
		{"untold readers", seeded.UntoldReaders, ser, []history.Kind{history.G2Item, history.G2}},
	} {
		t.Run(fmt.Sprintf("%s/%v", tc.name, tc.level), func(t *testing.T) {
			seeded.Set(tc.bug)
			defer seeded.Set(seeded.None)
			for try := range uint64(tries) {
				c := &config{
					Flags: command.Flags{Level: tc.level, Goroutines: 32, RecordMemory: 1 << 20, Seed: *seed + try},
					txns:  2500, keys: 60,
				}
				res := newRunner(c, t.TempDir()).run(context.Background())
				if tc.bug == seeded.None {
					if !res.ok() {
						t.Fatalf("seed %d: %v %v", c.Seed, res.err, res.forbidden)
					}
					return
				}
				for _, a := range res.forbidden {
					if len(tc.names) == 0 || slices.Contains(tc.names, a.Kind) {
						t.Logf("seed %d, %d transactions: %v", c.Seed, c.txns*(int(try)+1), a)
						return
					}
				}
				t.Logf("seed %d: not found; error %v, %v", c.Seed, res.err, res.counts)
			}
			t.Fatalf("not found in %d rounds", tries)
		})
	}
}

// tries is in how many rounds a bug must be found.
const tries = 8
