package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/sakerdb/saker/bench/internal/command"
)

const (
	orderKey    = "key"
	orderRandom = "random"
)

// config is what the command line asks for.
type config struct {
	rows         int64
	recordMemory command.ByteSize
	memory       command.ByteSize // 0: the engine's default
	chill        command.ByteSize // 0: the engine's default
	valueSize    int
	order        string
	dir          string // "": a temporary one, removed afterwards
	rollback     bool
	plain        bool
	straight     bool
	writers      int
	seed         uint64
	jsonFile     string
	cpuProfile   string
	memProfile   string
}

// The default run is small enough for two minutes on two cores and far enough
// above its cap to show chill, thaw, backlog and restore at work.
const (
	defaultRows         = 8_000_000
	defaultRecordMemory = 64 << 20
	defaultValueSize    = 100
	valueSizeMax        = 64 << 20
	writersMax          = 1024
	rowsMax             = 1 << 40
	seedMax             = 1<<16 - 1
)

// parseConfig reads the command line. It reports every option at fault at once.
func parseConfig(args []string, usage io.Writer) (*config, error) {
	c := &config{recordMemory: defaultRecordMemory}
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.SetOutput(usage)
	f.Int64Var(&c.rows, "rows", defaultRows, "rows to insert, all writers together")
	f.Var(&c.recordMemory, "record-memory", "hard `cap` of record memory, such as 250MiB or 64MB")
	f.Var(&c.memory, "memory", "whole memory `budget` of the engine (default: the engine's)")
	f.Var(&c.chill, "chill-threshold", "uncommitted `bytes` from which a transaction leaves memory unasked (default: the engine's)")
	f.IntVar(&c.valueSize, "value-size", defaultValueSize, "`bytes` of a value")
	f.StringVar(&c.order, "order", orderKey, "order of the keys inserted: key or random")
	f.StringVar(&c.dir, "dir", "", "empty or new `directory` for the store, kept (default: a temporary one, removed)")
	f.BoolVar(&c.rollback, "rollback", false, "roll back instead of committing, and check that nothing is left")
	f.BoolVar(&c.plain, "plain", false, "no savepoints, no updates, no bystander: for rates")
	f.BoolVar(&c.straight, "straight", false, "commit straight after the insert, without the writer's SELECT between them: for rates")
	f.IntVar(&c.writers, "writers", 1, "concurrent transactions, over interleaved, disjoint rows")
	f.Uint64Var(&c.seed, "seed", 1, "seed of contents and of random keys")
	f.StringVar(&c.jsonFile, "json", "", "`file` to write the results to")
	f.StringVar(&c.cpuProfile, "cpuprofile", "", "`file` to write a CPU profile of the run to")
	f.StringVar(&c.memProfile, "memprofile", "", "`file` to write a heap profile to, taken at the end of the insert")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return c, c.check()
}

func (c *config) check() error {
	var faults []error
	bound := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	bound(c.rows >= 1 && c.rows <= rowsMax, "-rows %d is not between 1 and %d", c.rows, int64(rowsMax))
	bound(c.recordMemory > 0, "-record-memory must be above 0")
	bound(c.valueSize >= 0 && c.valueSize <= valueSizeMax, "-value-size %d is not between 0 and %d", c.valueSize, valueSizeMax)
	bound(c.order == orderKey || c.order == orderRandom, "-order %q is neither key nor random", c.order)
	bound(c.writers >= 1 && c.writers <= writersMax, "-writers %d is not between 1 and %d", c.writers, writersMax)
	bound(int64(c.writers) <= c.rows, "-writers %d is more than -rows %d", c.writers, c.rows)
	bound(c.seed <= seedMax, "-seed %d is above %d", c.seed, seedMax)
	return errors.Join(faults...)
}

// grouped formats a count with a comma between thousands.
func grouped[T int | int64 | uint64](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
