package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/sakerdb/saker/bench/internal/command"
)

// config is what the command line asks for.
type config struct {
	rounds       int
	duration     time.Duration // 0: rounds decide
	seed         uint64        // 0: a random one
	dir          string        // "": a temporary one, kept if something is wrong
	recordMemory command.ByteSize
	verbose      bool
}

const (
	defaultRounds       = 100
	defaultRecordMemory = 1 << 20
	leastRecordMemory   = 1 << 20
	mostRecordMemory    = 1 << 34
)

// parseConfig reads the command line. It reports every option at fault at once.
func parseConfig(args []string, usage io.Writer) (*config, error) {
	c := &config{recordMemory: defaultRecordMemory}
	f := flag.NewFlagSet("crash", flag.ContinueOnError)
	f.SetOutput(usage)
	f.IntVar(&c.rounds, "rounds", 0, fmt.Sprintf("rounds of work, kill and inspection (default %d, or what -duration allows)", defaultRounds))
	f.DurationVar(&c.duration, "duration", 0, "time after which no further round begins")
	f.Uint64Var(&c.seed, "seed", 0, "seed of the workload, of the kills and of the store's options (default: a random one)")
	f.StringVar(&c.dir, "dir", "", "empty or new `directory`, kept (default: a temporary one, kept if something is wrong)")
	f.Var(&c.recordMemory, "record-memory", "`size` of record memory, such as 1MiB")
	f.BoolVar(&c.verbose, "v", false, "a line per round")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if c.rounds == 0 && c.duration == 0 {
		c.rounds = defaultRounds
	}
	for c.seed == 0 {
		c.seed = rand.Uint64() >> 32
	}
	return c, c.check()
}

func (c *config) check() error {
	var faults []error
	if c.rounds < 0 || c.rounds >= 1<<19 {
		faults = append(faults, fmt.Errorf("-rounds %d is not between 1 and %d", c.rounds, 1<<19-1))
	}
	if c.duration < 0 {
		faults = append(faults, fmt.Errorf("-duration %v is below 0", c.duration))
	}
	if c.recordMemory < leastRecordMemory || c.recordMemory > mostRecordMemory {
		faults = append(faults, fmt.Errorf("-record-memory %d is not between %d and %d", c.recordMemory, leastRecordMemory, int64(mostRecordMemory)))
	}
	return errors.Join(faults...)
}
