package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// peersRun runs the whole program in a directory of the test's.
func peersRun(t *testing.T, all []named, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	var out, diag bytes.Buffer
	status = peers(append([]string{"-dir", dir, "-seconds", "0.01", "-rows", "500"}, args...), all, &out, &diag)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("it leaves %v behind", left)
	}
	return status, out.String(), diag.String()
}

// The five stores go through all workloads, and each holds what it acknowledged.
func TestAllStores(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	status, stdout, stderr := peersRun(t, openers,
		"-workloads", "all", "-goroutines", "1,4", "-rounds", "2", "-memory", "8", "-json", file)
	if status != 0 {
		t.Fatalf("status %d\n%s", status, stderr)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	cells := map[string]int{}
	for _, c := range r.Cells {
		cells[c.Workload]++
		if c.Rounds != 2 || c.PerSecond <= 0 || c.Min > c.PerSecond || c.Max < c.PerSecond || c.OfBest <= 0 {
			t.Errorf("%+v", c)
		}
		if timed := c.Workload == "commits"; timed != (c.P50 > 0) || c.P50 > c.P99 {
			t.Errorf("%+v", c)
		}
		if !strings.Contains(stdout, c.Store) {
			t.Errorf("%s is not in the table:\n%s", c.Store, stdout)
		}
	}
	for w, n := range map[string]int{"commits": 10, "load-key": 5, "load-random": 5, "get": 10, "update": 10} {
		if cells[w] != n {
			t.Errorf("%d cells of %s, want %d", cells[w], w, n)
		}
	}
}

// A store that loses, adds or changes a row ends the run with an error, whatever
// its rates are; one that does not passes.
func TestFaultsAreCaught(t *testing.T) {
	for fault, want := range map[string]string{
		"":                             "",
		"fails":                        errFake.Error(),
		"loses a row":                  "rows of",
		"loses a row when closed":      "rows of",
		"adds a row":                   "never acknowledged",
		"adds a key of another length": "never written",
		"changes a value":              "value of another row",
		"cuts a value":                 "value of another row",
		"scans a row twice":            "found after",
		"scans backward":               "found after",
	} {
		for _, w := range []string{"commits", "load-key", "load-random"} {
			t.Run(fault+"/"+w, func(t *testing.T) {
				all := []named{{"good", fakes("")}, {"odd", fakes(fault)}}
				status, _, stderr := peersRun(t, all, "-workloads", w, "-goroutines", "1", "-rounds", "2")
				if fault == "" {
					if status != 0 {
						t.Errorf("status %d: %s", status, stderr)
					}
					return
				}
				if status != 1 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "odd: ") {
					t.Errorf("status %d: %s", status, stderr)
				}
			})
		}
	}
	for _, fault := range []string{"loses an update", "loses a row when closed"} {
		all := []named{{"odd", fakes(fault)}}
		if status, _, stderr := peersRun(t, all, "-workloads", "update"); status != 1 || !strings.Contains(stderr, "verify: ") {
			t.Errorf("%s: status %d: %s", fault, status, stderr)
		}
	}
	all := []named{{"odd", fakes("loses a row")}}
	if status, _, stderr := peersRun(t, all, "-workloads", "get"); status != 1 || !strings.Contains(stderr, errMissing.Error()) {
		t.Errorf("a get of a lost row: status %d: %s", status, stderr)
	}
}

// The stores take turns, and no store is the first in every round.
func TestRoundsAreInterleaved(t *testing.T) {
	all := []named{{"a", fakes("")}, {"b", fakes("")}, {"c", fakes("")}}
	status, _, stderr := peersRun(t, all, "-goroutines", "1", "-rounds", "3")
	if status != 0 {
		t.Fatal(stderr)
	}
	var got []string
	for line := range strings.Lines(stderr) {
		got = append(got, strings.Fields(line)[5])
	}
	if want := strings.Fields("a b c b c a c a b"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{
		{"-stores", "saker,nosuch"},
		{"-stores", "saker,saker"},
		{"-workloads", ""},
		{"-goroutines", "0"},
		{"-goroutines", "1,x"},
		{"-goroutines", "8,8"},
		{"-seconds", "0"},
		{"-seconds", "NaN"},
		{"-rounds", "0"},
		{"-rows", "0"},
		{"-value-size", "0"},
		{"-memory", "1"},
		{"-nosuch"},
		{"argument"},
	} {
		if status, _, stderr := peersRun(t, openers, args...); status != 2 || stderr == "" {
			t.Errorf("%v: status %d: %s", args, status, stderr)
		}
	}
}

func TestOrdersAreBijections(t *testing.T) {
	for range 10000 {
		id := rand.Uint64()
		for _, o := range []order{inOrder, atRandom} {
			if got := o.id(o.key(id)); got != id {
				t.Fatalf("%v: %x becomes %x", o, id, got)
			}
		}
	}
	if inOrder.key(7) != 7 || atRandom.key(7) < 1<<32 && atRandom.key(8) < 1<<32 {
		t.Error("keys are not in order, or not at random")
	}
}

func TestLatencies(t *testing.T) {
	var a, b latencies
	if a.quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
	for i := range 1000 {
		l := &a
		if i%2 == 0 {
			l = &b
		}
		l.add(time.Duration(i+1) * time.Microsecond)
	}
	a.merge(&b)
	for q, want := range map[float64]time.Duration{0: time.Microsecond, 0.5: 501 * time.Microsecond, 0.99: 991 * time.Microsecond, 1: time.Millisecond} {
		if got := a.quantile(q); got > want || got < want-want/32 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	a.add(-1)
	a.add(1<<63 - 1)
	last := -1
	for ns := uint64(1); ns < 1<<62; ns += 1 + ns/50 {
		c := class(ns)
		if c < last || c >= len(a.classes) || floorOf(c) > ns || floorOf(c+1) <= ns {
			t.Fatalf("%d ns are in class %d, [%d, %d)", ns, c, floorOf(c), floorOf(c+1))
		}
		last = c
	}
}

func TestSummary(t *testing.T) {
	s := []sample{{ops: 30, seconds: 1}, {ops: 10, seconds: 1}, {ops: 40, seconds: 2}}
	a := summarize(cellKey{"w", 8, "a"}, s)
	if a.PerSecond != 20 || a.Min != 10 || a.Max != 30 || a.Rounds != 3 {
		t.Errorf("%+v", a)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %v", m)
	}
	part := []summary{{PerSecond: 10}, {PerSecond: 40}, {PerSecond: 20}}
	compare(part)
	for i, want := range []float64{0.25, 2, 0.5} {
		if part[i].OfBest != want {
			t.Errorf("store %d: %v of the best other one, want %v", i, part[i].OfBest, want)
		}
	}
}
