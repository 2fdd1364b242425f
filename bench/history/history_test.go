package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/history"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var allLevels = []engine.Isolation{engine.ReadCommitted, engine.Snapshot, engine.Serializable}

// Two rounds with a reopening between, at each level: nothing that the level
// forbids, and the backlog at work.
func TestRounds(t *testing.T) {
	for _, level := range allLevels {
		t.Run(level.String(), func(t *testing.T) {
			c := &config{
				Flags: command.Flags{Level: level, Goroutines: 16, RecordMemory: 1 << 20, Seed: 7},
				txns:  1500, keys: 60, reopen: true,
			}
			r := newRunner(c, t.TempDir())
			if err := r.open(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := r.round(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := r.store.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			res := r.run(context.Background())
			var out bytes.Buffer
			res.writeTable(&out)
			if !res.ok() {
				t.Fatalf("seed %d\n%s", c.Seed, &out)
			}
			n, m := res.tally, res.metrics
			for name, n := range map[string]int{
				"commits": n.commits, "rollbacks": n.rollbacks, "readers": n.readOnly, "big transactions": n.big, "undone savepoints": n.undone,
				"backlogged chains": int(m.BackloggedChains), "restored chains": int(m.RestoredChains), "cold reads": int(m.ColdReads), "waits": int(m.Waits),
			} {
				if n == 0 {
					t.Errorf("no %s\n%s", name, &out)
				}
			}
		})
	}
}

// What is forbidden makes the command fail, what is allowed does not.
func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		level engine.Isolation
		kind  history.Kind
		want  bool
	}{
		{engine.ReadCommitted, history.G1a, false},
		{engine.ReadCommitted, history.LostUpdate, false},
		{engine.ReadCommitted, history.GSingle, true},
		{engine.Snapshot, history.GSingle, false},
		{engine.Snapshot, history.G2, true},
		{engine.Serializable, history.G2, false},
	} {
		r := newRunner(&config{Flags: command.Flags{Level: tc.level}}, "")
		r.res.counts[tc.kind] = 1
		if a := (history.Anomaly{Kind: tc.kind}); r.res.forbids(tc.kind) {
			r.res.forbidden = append(r.res.forbidden, a)
		}
		var out bytes.Buffer
		r.res.writeTable(&out)
		if r.res.ok() != tc.want || strings.HasSuffix(out.String(), "\nok\n") != tc.want {
			t.Errorf("%v, %s: ok is %v\n%s", tc.level, tc.kind, r.res.ok(), &out)
		}
	}
}

// The whole command, and the history of a violation told in full.
func TestCommand(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	args := []string{"-txns", "300", "-goroutines", "4", "-level", "serializable", "-seed", "3"}
	if got := run(args, &stdout, &stderr); got != command.ExitOK || !strings.Contains(stdout.String(), "seed 3, level serializable") {
		t.Fatalf("exit status %d\n%s%s", got, &stdout, &stderr)
	}
	for _, args := range [][]string{{"-level", "best"}, {"-txns", "0"}, {"-keys", "0"}, {"-goroutines", "0"}, {"-record-memory", "1"}, {"-duration", "-1s"}, {"x"}, {"-dir", "/dev/null"}} {
		if got := run(args, &stdout, &stderr); got != command.ExitUsage {
			t.Errorf("%v: exit status %d", args, got)
		}
	}
	if got := run([]string{"-h"}, &stdout, &stderr); got != command.ExitOK {
		t.Errorf("-h: exit status %d", got)
	}
	h := &history.History{Txns: []history.Txn{{Ops: []history.Op{
		{Kind: history.Mark},
		{Kind: history.Append, Key: 3, Value: 4},
		{Kind: history.Undo, To: 0},
		{Kind: history.Read, Key: 3, List: []int32{4}},
		{Kind: history.Scan, From: 1, To: 2},
	}}}}
	found := history.Check(h).Found
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	for _, want := range []string{"savepoint", "append 4 to 3", "back to operation 0", "read 3: [4]", "scan [1, 2)"} {
		if text := describe(h, found[0]); !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestRowCodec(t *testing.T) {
	for _, list := range [][]int32{{1}, {1, 2, 300}, {-1, 70000}} {
		for _, padding := range []int{0, 1, 500} {
			row := encode(nil, list, padding)
			got, err := decode(row)
			if err != nil || !slices.Equal(got, list) {
				t.Errorf("%v with %d: %v %v", list, padding, got, err)
			}
			for n := range min(len(row), 2+4*len(list)) {
				if got, err := decode(row[:n]); err == nil {
					t.Errorf("%d bytes of %v: %v", n, list, got)
				}
			}
			if padding > 0 {
				row[len(row)-1]++
				if _, err := decode(row); err == nil {
					t.Error("padding of another row")
				}
			}
		}
	}
	if _, err := decode(fmt.Append(nil, "\x00\x00")); err == nil {
		t.Error("a row without elements")
	}
}
