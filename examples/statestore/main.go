package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/examples/internal/program"
)

func main() { program.Main(run) }

// config is what the command line asks for.
type config struct {
	dir       string // "": a temporary one, removed afterwards
	rounds    int
	slots     int
	stateSize int
	memoryMiB int
	fail      int
	finalize  int
	die       int
}

func parseConfig(args []string, usage io.Writer) (*config, error) {
	c := &config{}
	f := flag.NewFlagSet("statestore", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&c.dir, "dir", "", "`directory` of the store, kept (default: a temporary one, removed)")
	f.IntVar(&c.rounds, "rounds", 8, "rounds of two blocks that fork, imported at the same time")
	f.IntVar(&c.slots, "slots", 2000, "slots, and so states, between a block and its parent")
	f.IntVar(&c.stateSize, "state-size", stateSize, "`bytes` of a state, for a new store")
	f.IntVar(&c.memoryMiB, "record-memory-mib", defaultMiB, "hard cap of record memory, in `MiB`")
	f.IntVar(&c.fail, "fail", 3, "every so many rounds one block is invalid; 0: never")
	f.IntVar(&c.finalize, "finalize", 4, "every so many rounds the head's parent becomes final; 0: never")
	f.IntVar(&c.die, "die", 0, "kill the process in the middle of a block of this `round`")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var faults program.Faults
	faults.Unless(f.NArg() == 0, "unexpected argument %q", f.Arg(0))
	faults.Unless(c.rounds >= 0, "-rounds %d is below 0", c.rounds)
	faults.Unless(c.slots >= 1 && c.slots < slotsMax, "-slots %d is not between 1 and %d", c.slots, slotsMax-1)
	faults.Unless(c.stateSize >= stateSizeMin && c.stateSize <= 1<<20, "-state-size %d is not between %d and %d", c.stateSize, stateSizeMin, 1<<20)
	faults.Unless(c.memoryMiB >= 1 && c.memoryMiB <= 1<<16, "-record-memory-mib %d is not between 1 and %d", c.memoryMiB, 1<<16)
	faults.Unless(c.fail >= 0, "-fail %d is below 0", c.fail)
	faults.Unless(c.finalize >= 0, "-finalize %d is below 0", c.finalize)
	faults.Unless(c.die >= 0, "-die %d is below 0", c.die)
	return c, errors.Join(faults...)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, stderr)
	if err != nil {
		return program.Refuse("statestore", err, stderr)
	}
	return program.InDir("statestore", c.dir, stderr, func(dir string) error {
		c.dir = dir
		return work(ctx, c, stdout)
	})
}

// engineOptions give the store a record memory that is small beside a block.
func engineOptions(recordMemory int64) engine.Options {
	return engine.Options{Memory: 16 << 20, RecordMemory: recordMemory, LogLimit: 8 << 20, LogSegmentSize: 1 << 20}
}

// work opens the store, imports blocks, checks everything, and closes it.
func work(ctx context.Context, c *config, out io.Writer) (err error) {
	n := newNode(c, out)
	s, o, err := Open(ctx, c.dir, Options{Engine: engineOptions(int64(c.memoryMiB) << 20), StateSize: c.stateSize, Trace: n.trace})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	switch {
	case o.New:
		fmt.Fprintf(out, "new store, schema %d\n", schemaVersion)
	case o.Schema != schemaVersion:
		fmt.Fprintf(out, "migrated from schema %d to %d\n", o.Schema, schemaVersion)
	}
	if r := o.Recovery; !o.New {
		fmt.Fprintf(out, "left by the last run: %d committed transactions redone, %d files of temporary states removed\n", r.Transactions, r.FilesRemoved)
		if err := n.check(ctx, s); err != nil {
			return err
		}
	}
	if err := n.run(ctx, s); err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	// What is begun is finished: the check does not mind the interrupt.
	if err := n.check(context.WithoutCancel(ctx), s); err != nil {
		return err
	}
	n.printf("%v", s.Metrics())
	return nil
}
