package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sakerdb/saker/examples/internal/program"
	"github.com/sakerdb/saker/examples/internal/programtest"
)

func TestMain(m *testing.M) { programtest.Main(m, "registry", main) }

// child runs the program in another process, with a line for each block.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	errs  bytes.Buffer
}

func startChild(t *testing.T, dir string, seed int) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{}
	c.cmd = exec.Command(exe, "-registry.program", "--", "-dir", dir, "-slot", "1ms", "-tick", "1ms", "-queries", "1",
		"-stakers", "8", "-blocks", "-seed", fmt.Sprint(seed))
	c.cmd.Stderr = &c.errs
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	return c
}

// acked reads on until n more blocks are acknowledged, all of them for n below 0,
// and returns the height and hash of the last one, or ok false at the end.
func (c *child) acked(n int) (height uint64, hash string, ok bool) {
	for n != 0 && c.lines.Scan() {
		var slot, staker uint64
		var h uint64
		var s string
		if _, err := fmt.Sscanf(c.lines.Text(), "block %d slot %d staker %d hash %s", &h, &slot, &staker, &s); err == nil {
			height, hash, ok = h, s, true
			n--
		}
	}
	return height, hash, ok
}

// TestKill kills the node at moments that chance chooses. Each time the registry
// is ready at once: whole, with every acknowledged block, without its history.
func TestKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	last := uint64(0)
	for round := range 5 {
		c := startChild(t, dir, round)
		height, hash, ok := c.acked(1 + rng.IntN(20))
		if !ok {
			t.Fatalf("round %d: the node ended: %s", round, &c.errs)
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond) // where in a block it hits
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		// What it acknowledged before the signal reached it counts as well.
		if h, s, more := c.acked(-1); more {
			height, hash = h, s
		}
		_ = c.cmd.Wait() // killed
		last = checkKilled(t, dir, max(height, last), height, hash)
	}
	if last == 0 {
		t.Fatal("no block was applied")
	}
}

// checkKilled opens the registry and returns its height, least at the least.
func checkKilled(t *testing.T, dir string, least, height uint64, hash string) uint64 {
	t.Helper()
	r, o, err := openRegistry(ctx, dir, options(), genesis{})
	if err != nil {
		t.Fatalf("open after a kill: %v", err)
	}
	defer mustClose(t, r)
	if o.New || o.Records > 2 {
		t.Fatalf("new %v, %d records read", o.New, o.Records)
	}
	if o.State.Height < least {
		t.Fatalf("height %d, but block %d was acknowledged", o.State.Height, least)
	}
	query(t, r, func(v *View) {
		row, err := v.Block(height)
		if err != nil || row.Hash.String() != hash {
			t.Fatalf("block %d: %v %v, acknowledged with hash %s", height, row.Hash, err, hash)
		}
	})
	mustCheck(t, r)
	return o.State.Height
}

// TestInterrupt: the first signal ends the program in good order.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir, 1)
	if _, _, ok := c.acked(5); !ok {
		t.Fatalf("the node ended: %s", &c.errs)
	}
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var rest strings.Builder
	for c.lines.Scan() {
		rest.WriteString(c.lines.Text() + "\n")
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("exit after SIGINT: %v: %s", err, &c.errs)
	}
	if !strings.Contains(rest.String(), "consistent") {
		t.Fatalf("no summary:\n%s", rest.String())
	}
	r, o, err := openRegistry(ctx, dir, options(), genesis{})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, r)
	if o.Recovery.Transactions != 0 {
		t.Fatalf("%d transactions were redone after an orderly end", o.Recovery.Transactions)
	}
	mustCheck(t, r)
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	for i, want := range []string{"new registry, 5 stakers", "no block replayed"} {
		var out, errs bytes.Buffer
		args := []string{"-dir", dir, "-for", "100ms", "-slot", "2ms", "-stakers", "5", "-audit", "-queries", "1"}
		if code := run(context.Background(), args, &out, &errs); code != program.ExitOK {
			t.Fatalf("run %d: status %d: %s", i, code, &errs)
		}
		for _, want := range []string{want, "audit: a replay of", "blocks applied", "consistent"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("run %d prints no %q:\n%s", i, want, &out)
			}
		}
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"-slot", "0"}, {"-tick", "-1s"}, {"-stakers", "0"}, {"-queries", "-1"}, {"-for", "-1s"}, {"-nonsense"}, {"argument"},
	} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, &out, &errs); code != program.ExitUsage || errs.Len() == 0 {
			t.Errorf("%v: status %d, %q", args, code, &errs)
		}
	}
	var errs bytes.Buffer
	if _, err := parseConfig([]string{"-slot", "0", "-stakers", "0"}, &errs); err == nil ||
		!strings.Contains(err.Error(), "-slot") || !strings.Contains(err.Error(), "-stakers") {
		t.Errorf("not all faults are told: %v", err)
	}
}
