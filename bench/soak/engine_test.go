package main

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"

	"github.com/sakerdb/saker/bench/internal/command"
)

// The harness on the real engine, small and with so little memory that rows must
// leave it: the same runs as `go run ./bench/soak`, in a test.
func TestSoakOnEngine(t *testing.T) {
	rows := "60000"
	if testing.Short() {
		rows = "15000"
	}
	for name, args := range map[string][]string{
		"key order": {},
		"random":    {"-order", "random"},
		"writers":   {"-writers", "4"},
		"plain":     {"-plain"},
		"straight":  {"-plain", "-straight"},
		"rollback":  {"-rollback"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			args = append([]string{"-rows", rows, "-record-memory", "1MiB", "-dir", dir}, args...)
			var stdout, stderr bytes.Buffer
			if status := soak(args, &stdout, &stderr, openEngine); status != command.ExitOK {
				t.Fatalf("exit status %d\n%s%s", status, &stderr, &stdout)
			}
		})
	}
}

// A run must show every part of the low-memory path at work, or its checks show
// nothing about them.
func TestSoakReachesLowMemoryPath(t *testing.T) {
	c := soakConfig(t, "-rows", "100000", "-record-memory", "1MiB")
	res := newRun(c, t.TempDir(), openEngine, io.Discard).execute(t.Context())
	if !res.ok() {
		t.Fatalf("mismatches %d, error %v", res.mismatches, res.err)
	}
	g := res.gauges
	for name, n := range map[string]uint64{
		"low-memory episodes": g.lowMemoryEpisodes, "chilled": g.chilledRecords, "thawed": g.thawedRecords,
		"backlogged": g.backloggedChains, "restored": g.restoredChains,
	} {
		if n == 0 {
			t.Errorf("%s: none", name)
		}
	}
}
