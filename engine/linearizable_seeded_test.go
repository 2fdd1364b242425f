//go:build saker_seeded_bugs

package engine

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/sakerdb/saker/internal/seeded"
)

// Each bug makes the histories of single records impossible to explain. What is found
// usually comes in the first few rounds; with ten of them CI missed one, once.
func TestSeededBugsAreNotLinearizable(t *testing.T) {
	const rounds = 200
	for name, tc := range map[string]struct {
		bug   seeded.Bug
		level Isolation
	}{
		"skipped conflict, snapshot":       {seeded.SkippedConflict, Snapshot},
		"skipped conflict, read committed": {seeded.SkippedConflict, ReadCommitted},
		"skipped frames":                   {seeded.SkippedFrames, Snapshot},
		"first frame":                      {seeded.FirstFrame, Snapshot},
	} {
		t.Run(name, func(t *testing.T) {
			defer seeded.Set(seeded.None)
			for seed := range uint64(rounds) {
				seeded.Set(tc.bug)
				if checkRecords(t, tc.level, seed, 200) == porcupine.Illegal {
					return
				}
			}
			t.Fatalf("not found in %d rounds", rounds)
		})
	}
}
