//go:build saker_seeded_bugs

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/internal/seeded"
)

// What the tellers and auditors are for: each bug makes a sum wrong.
func TestSeededBugsAreFound(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for name, tc := range map[string]struct {
		bug   seeded.Bug
		level string
	}{
		"visible too new":                  {seeded.VisibleTooNew, "snapshot"},
		"visible undecided":                {seeded.VisibleUndecided, "readcommitted"},
		"skipped conflict, snapshot":       {seeded.SkippedConflict, "snapshot"},
		"skipped conflict, read committed": {seeded.SkippedConflict, "readcommitted"},
	} {
		t.Run(name, func(t *testing.T) {
			defer seeded.Set(seeded.None)
			seeded.Set(tc.bug)
			var out bytes.Buffer
			got := run([]string{"-level", tc.level, "-accounts", "200", "-record-memory", "1MiB", "-transfers", "50000", "-duration", "1h", "-seed", "5"}, &out, &out)
			if got != command.ExitFailed || !strings.Contains(out.String(), " accounts, not ") {
				t.Errorf("exit status %d\n%s", got, &out)
			}
		})
	}
}
