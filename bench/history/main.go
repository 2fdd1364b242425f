package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// config is what the command line asks for.
type config struct {
	command.Flags
	txns   int // per round
	keys   int // lists in use at a time
	reopen bool
}

// run is main without the process: it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	c := &config{Flags: command.Flags{Level: engine.Snapshot, Goroutines: 32, RecordMemory: 1 << 20}}
	fs := c.NewFlagSet("history", stderr)
	fs.IntVar(&c.txns, "txns", 20000, "transactions of a round; there is one, or as many as begin within -duration")
	fs.IntVar(&c.keys, "keys", 100, "lists in use at a time")
	fs.BoolVar(&c.reopen, "reopen", false, "close the store between rounds and open it again")
	err := c.Parse(fs, args, func() (faults []error) {
		if c.txns < 1 || c.txns > 1<<22 {
			faults = append(faults, fmt.Errorf("-txns %d is not between 1 and %d", c.txns, 1<<22))
		}
		if c.keys < 1 || c.keys > 1<<16 {
			faults = append(faults, fmt.Errorf("-keys %d is not between 1 and %d", c.keys, 1<<16))
		}
		return faults
	})
	return c.Main("history", err, stdout, stderr, func(ctx context.Context, dir string, stdout io.Writer) bool {
		res := newRunner(c, dir).run(ctx)
		res.writeTable(stdout)
		return res.ok()
	})
}
