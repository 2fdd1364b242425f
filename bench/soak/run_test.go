package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sakerdb/saker/bench/internal/command"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func soakConfig(t *testing.T, args ...string) *config {
	t.Helper()
	c, err := parseConfig(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runFake runs a soak on the fake store with a fault.
func runFake(t *testing.T, f fault, args ...string) (*result, string) {
	t.Helper()
	var stderr bytes.Buffer
	r := newRun(soakConfig(t, args...), t.TempDir(), newFakeDisk(f).open, &stderr)
	r.sweepLimit = 50 * time.Millisecond
	return r.execute(context.Background()), stderr.String()
}

// modes are the shapes of a run that must all be right.
var modes = map[string][]string{
	"key order":      {"-rows", "1500"},
	"random":         {"-rows", "1500", "-order", "random"},
	"writers":        {"-rows", "1501", "-writers", "3"},
	"random writers": {"-rows", "1501", "-writers", "4", "-order", "random"},
	"plain":          {"-rows", "1500", "-plain"},
	"straight":       {"-rows", "1500", "-plain", "-straight"},
	"rollback":       {"-rows", "1500", "-rollback"},
	"rollbacks":      {"-rows", "1500", "-rollback", "-writers", "2"},
	"one row":        {"-rows", "1"},
	"a batch less 1": {"-rows", "63"},
	"a batch":        {"-rows", "64"},
	"short values":   {"-rows", "1000", "-value-size", "9"},
	"long values":    {"-rows", "300", "-value-size", "20000"},
}

func TestRunOnRightStore(t *testing.T) {
	for name, args := range modes {
		t.Run(name, func(t *testing.T) {
			res, stderr := runFake(t, faultNone, args...)
			if !res.ok() {
				t.Fatalf("mismatches %d, error %v\n%s", res.mismatches, res.err, stderr)
			}
		})
	}
}

func TestRunFindsFaults(t *testing.T) {
	commits := []string{"-rows", "1500"}
	rollback := append(slices.Clone(commits), "-rollback")
	cases := map[fault][]string{
		faultLostRow: commits, faultLostUpdate: commits, faultDirtyRead: commits,
		faultUndead: commits, faultInnerMark: commits, faultReopenLoses: commits,
		faultReopenChanges: commits, faultReverse: commits, faultUnstable: commits,
		faultOverwrite: commits, faultTorn: commits, faultTwice: commits,
		faultPeak: commits, faultBystander: commits, faultCommitFails: commits,
		faultKeepsRows: rollback, faultKeepsFile: rollback,
		faultKeepsMemory: rollback, faultKeepsTemp: rollback,
	}
	for f, args := range cases {
		for _, order := range []string{orderKey, orderRandom} {
			t.Run(string(f)+"/"+order, func(t *testing.T) {
				res, _ := runFake(t, f, append([]string{"-order", order}, args...)...)
				if res.ok() {
					t.Fatalf("found nothing wrong though %s", f)
				}
			})
		}
	}
}

func TestSoakExitStatusAndJSON(t *testing.T) {
	jsonFile := filepath.Join(t.TempDir(), "out.json")
	dir := filepath.Join(t.TempDir(), "store")
	for _, tc := range []struct {
		fault  fault
		args   []string
		status int
	}{
		{faultNone, nil, command.ExitOK},
		{faultNone, []string{"-rollback"}, command.ExitOK},
		{faultLostRow, nil, command.ExitFailed},
		{faultCommitFails, nil, command.ExitFailed},
	} {
		t.Run(fmt.Sprint(tc.fault, tc.args), func(t *testing.T) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"-rows", "1000", "-json", jsonFile, "-dir", dir}, tc.args...)
			var stdout, stderr bytes.Buffer
			if got := soak(args, &stdout, &stderr, newFakeDisk(tc.fault).open); got != tc.status {
				t.Fatalf("exit status %d, want %d\n%s%s", got, tc.status, &stdout, &stderr)
			}
			checkJSON(t, jsonFile, tc.status == command.ExitOK)
			if want := tc.status == command.ExitOK; strings.HasSuffix(stdout.String(), "\nok\n") != want {
				t.Errorf("the table ends with %q", lastLine(stdout.String()))
			}
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("a named directory was not kept: %v", err)
			}
		})
	}
}

// checkJSON checks the names that scripts rely on.
func checkJSON(t *testing.T, file string, ok bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"rows", "seconds", "rows_per_second", "record_memory_cap_bytes", "record_memory_peak_bytes",
		"rss_peak_bytes", "low_memory_episodes", "chilled_records", "thawed_records", "backlogged_chains",
		"restored_chains", "disk_peak_bytes", "disk_written_bytes", "mismatches", "ok",
	} {
		if _, has := got[name]; !has {
			t.Errorf("JSON lacks %q", name)
		}
	}
	if got["ok"] != ok {
		t.Errorf("JSON says ok = %v, want %v", got["ok"], ok)
	}
	rates, _ := got["rows_per_second"].(map[string]any)
	for _, name := range []string{phaseInsert, rateFirstTenth, rateLastTenth} {
		if rates[name] == nil {
			t.Errorf("rows_per_second lacks %q: %v", name, rates)
		}
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestSoakRemovesTemporaryDirectory(t *testing.T) {
	for _, f := range []fault{faultNone, faultLostRow, faultCommitFails} {
		t.Setenv("TMPDIR", t.TempDir())
		soak([]string{"-rows", "200"}, io.Discard, io.Discard, newFakeDisk(f).open)
		entries, err := os.ReadDir(os.Getenv("TMPDIR"))
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 0 {
			t.Errorf("%q: left behind %v", f, entries)
		}
	}
}

func TestSoakUsage(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-rows", "0"}, {"-order", "up"}, {"x"}, {"-dir", full}, {"-record-memory", "many"}} {
		if got := soak(args, io.Discard, io.Discard, newFakeDisk(faultNone).open); got != command.ExitUsage {
			t.Errorf("%v: exit status %d, want %d", args, got, command.ExitUsage)
		}
	}
	if got := soak([]string{"-h"}, io.Discard, io.Discard, nil); got != command.ExitOK {
		t.Errorf("-h: exit status %d", got)
	}
}

// TestRunInterrupted ends the context from inside a put.
func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	disk := newFakeDisk(faultNone)
	open := func(ctx context.Context, dir string, c *config) (store, error) {
		s, err := disk.open(ctx, dir, c)
		return &interruptedStore{s, cancel}, err
	}
	r := newRun(soakConfig(t, "-rows", "5000", "-plain"), t.TempDir(), open, io.Discard)
	res := r.execute(ctx)
	if !errors.Is(res.err, errInterrupted) {
		t.Fatalf("error %v", res.err)
	}
	if len(disk.live) != 0 || r.store != nil {
		t.Fatalf("%d transactions and store %v were left open", len(disk.live), r.store)
	}
}

type interruptedStore struct {
	store
	cancel context.CancelCauseFunc
}

func (s *interruptedStore) begin(ctx context.Context, readOnly bool) (txn, error) {
	x, err := s.store.begin(ctx, readOnly)
	if !readOnly {
		s.cancel(errInterrupted)
	}
	return x, err
}
