package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	stores     []string
	workloads  []string
	goroutines []int
	rounds     int
	cell       time.Duration // measured time of a cell
	warm       time.Duration // unmeasured work before the first round
	rows       uint64        // of all workloads but commits
	valueSize  int
	memory     int64 // of each store's caches, bytes
	dir        string
	jsonFile   string
	profile    string
}

// names returns what the functions of a list call its members.
func names[T any](list []T, name func(T) string) (out []string) {
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

func parseConfig(args []string, all []named, stderr io.Writer) (*config, error) {
	c := &config{}
	allStores := names(all, func(n named) string { return n.name })
	allWork := names(workloads, func(w workload) string { return w.name })
	fs := flag.NewFlagSet("peers", flag.ContinueOnError)
	fs.SetOutput(stderr)
	stores := fs.String("stores", strings.Join(allStores, ","), "stores to compare")
	work := fs.String("workloads", "commits", "of "+strings.Join(allWork, ",")+", or all")
	gs := fs.String("goroutines", "1,8,64", "numbers of goroutines")
	seconds := fs.Float64("seconds", 2, "measured seconds per cell")
	fs.IntVar(&c.rounds, "rounds", 5, "rounds; medians over them are reported")
	fs.Uint64Var(&c.rows, "rows", 1_000_000, "rows of all workloads but commits")
	fs.IntVar(&c.valueSize, "value-size", 100, "bytes of a value")
	mib := fs.Int64("memory", 256, "MiB for each store's caches")
	fs.StringVar(&c.dir, "dir", "", "directory on the disk to measure; default: a temporary one, removed after")
	fs.StringVar(&c.jsonFile, "json", "", "write the result to this file as well")
	fs.StringVar(&c.profile, "cpuprofile", "", "write a CPU profile of the run to this file")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if fs.NArg() > 0 {
		bad("unexpected argument %q", fs.Arg(0))
	}
	pick := func(what, given string, from []string) (list []string) {
		for s := range strings.SplitSeq(given, ",") {
			if !slices.Contains(from, s) || slices.Contains(list, s) {
				bad("%s %q: give each of %s once at most", what, s, strings.Join(from, ","))
			}
			list = append(list, s)
		}
		return list
	}
	c.stores = pick("store", *stores, allStores)
	if *work == "all" {
		*work = strings.Join(allWork, ",")
	}
	c.workloads = pick("workload", *work, allWork)
	for s := range strings.SplitSeq(*gs, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 4096 || slices.Contains(c.goroutines, n) {
			bad("goroutines %q: numbers from 1 to 4096, each once", s)
		}
		c.goroutines = append(c.goroutines, n)
	}
	if !(*seconds > 0 && *seconds <= 3600) {
		bad("seconds %v: above 0, at most 3600", *seconds)
	}
	c.cell = time.Duration(*seconds * float64(time.Second))
	c.warm = c.cell
	if c.rounds < 1 || c.rounds > 1000 {
		bad("rounds %d: 1 to 1000", c.rounds)
	}
	if c.rows < 1 || c.rows > 1<<idBits {
		bad("rows %d: 1 to 2^40", c.rows)
	}
	if c.valueSize < 1 || c.valueSize > 1<<20 {
		bad("value size %d: 1 to 2^20", c.valueSize)
	}
	if *mib < 4 || *mib > 1<<20 {
		bad("memory %d: 4 to 2^20 MiB", *mib)
	}
	c.memory = *mib << 20
	return c, errors.Join(errs...)
}
