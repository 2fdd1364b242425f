package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/examples/internal/program"
)

func main() { program.Main(run) }

// config is what the command line asks for.
type config struct {
	dir     string // "": a temporary one, removed afterwards
	runFor  time.Duration
	slot    time.Duration
	tick    time.Duration
	stakers int
	queries int
	blocks  bool
	audit   bool
	seed    uint64
}

func parseConfig(args []string, usage io.Writer) (*config, error) {
	c := &config{}
	f := flag.NewFlagSet("registry", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&c.dir, "dir", "", "`directory` of the store, kept (default: a temporary one, removed)")
	f.DurationVar(&c.runFor, "for", 0, "how long to run (default: until interrupted)")
	f.DurationVar(&c.slot, "slot", 20*time.Millisecond, "length of a slot, for a new registry")
	f.DurationVar(&c.tick, "tick", 5*time.Millisecond, "pause between two looks at the clock")
	f.IntVar(&c.stakers, "stakers", 24, "stakers at genesis, for a new registry")
	f.IntVar(&c.queries, "queries", 2, "goroutines that query")
	f.BoolVar(&c.blocks, "blocks", false, "print a line for each block when it is on stable storage")
	f.BoolVar(&c.audit, "audit", false, "also compute the registry from its history, and compare")
	f.Uint64Var(&c.seed, "seed", 1, "seed of the network's behaviour")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var faults program.Faults
	faults.Unless(f.NArg() == 0, "unexpected argument %q", f.Arg(0))
	faults.Unless(c.runFor >= 0, "-for %v is below 0", c.runFor)
	faults.Unless(c.slot >= time.Microsecond, "-slot %v is below 1µs", c.slot)
	faults.Unless(c.tick >= time.Microsecond, "-tick %v is below 1µs", c.tick)
	faults.Unless(c.stakers >= 1 && c.stakers <= 10000, "-stakers %d is not between 1 and 10000", c.stakers)
	faults.Unless(c.queries >= 0 && c.queries <= 64, "-queries %d is not between 0 and 64", c.queries)
	return c, errors.Join(faults...)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, stderr)
	if err != nil {
		return program.Refuse("registry", err, stderr)
	}
	return program.InDir("registry", c.dir, stderr, func(dir string) error {
		c.dir = dir
		return serve(ctx, c, stdout)
	})
}

// options suit a small store: what it keeps in the log is what it reads at start.
func options() engine.Options {
	return engine.Options{Memory: 16 << 20, LogLimit: 4 << 20, LogSegmentSize: 1 << 20}
}

// serve opens the registry, runs it until ctx or the time ends, and closes it.
func serve(ctx context.Context, c *config, out io.Writer) (err error) {
	r, o, err := openRegistry(ctx, c.dir, options(), genesis{Start: time.Now(), SlotTime: c.slot, Stakers: c.stakers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	o.print(out)
	if c.audit {
		if err := printAudit(ctx, r, &o, out); err != nil {
			return err
		}
	}
	n := newNode(r, c, out)
	before, start := r.db.Metrics(), time.Now()
	limited, cancel := ctx, func() {}
	if c.runFor > 0 {
		limited, cancel = context.WithTimeout(ctx, c.runFor)
	}
	err = n.run(limited)
	cancel()
	if err != nil {
		return err
	}
	took := time.Since(start)
	// From here on the context does not count: what is begun is finished.
	ctx = context.WithoutCancel(ctx)
	if err := n.summary(ctx, took, before); err != nil {
		return err
	}
	if c.audit {
		return printAudit(ctx, r, &o, out)
	}
	return nil
}

func (o *opening) print(out io.Writer) {
	if o.New {
		fmt.Fprintf(out, "new registry, %d stakers, slots of %v, in %.1f ms\n", o.State.Stakers, time.Duration(o.State.SlotTime), ms(o.Took))
		return
	}
	fmt.Fprintf(out, "ready in %.1f ms at height %d, slot %d, hash %v: %d records read, no block replayed\n",
		ms(o.Took), o.State.Height, o.State.Slot, o.State.Hash, o.Records)
	fmt.Fprintf(out, "the store redid %d transactions since its checkpoint in %.1f ms\n", o.Recovery.Transactions, ms(o.Recovery.Duration))
}

func printAudit(ctx context.Context, r *Registry, o *opening, out io.Writer) error {
	start := time.Now()
	blocks, err := r.audit(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "audit: a replay of %d blocks gives the same records, in %.1f ms; opening took %.1f ms\n",
		blocks, ms(time.Since(start)), ms(o.Took))
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// summary checks the registry and prints what happened.
func (n *node) summary(ctx context.Context, took time.Duration, before engine.Metrics) error {
	return n.r.Query(ctx, func(v *View) error {
		size, err := v.Check()
		if err != nil {
			return err
		}
		m, s := n.r.db.Metrics(), took.Seconds()
		rate := func(n uint64) string { return fmt.Sprintf("%d\t%.1f/s", n, float64(n)/s) }
		w := tabwriter.NewWriter(n.out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "blocks applied\t%s\n", rate(n.blocks.Load()))
		fmt.Fprintf(w, "slots ended\t%s\n", rate(n.slots.Load()))
		fmt.Fprintf(w, "ticks\t%s\n", rate(n.ticks.Load()))
		fmt.Fprintf(w, "queries, all consistent\t%s\n", rate(n.queries.Load()))
		for _, r := range refusals {
			if c := n.refused[r]; c > 0 {
				fmt.Fprintf(w, "refused: %v\t%d\n", r, c)
			}
		}
		fmt.Fprintf(w, "transactions\t%s\t%d ran again after a conflict\n", rate(m.Commits-before.Commits), m.Conflicts-before.Conflicts)
		fmt.Fprintf(w, "log\t%d syncs\t%.1f kB/s\n", m.LogSyncs-before.LogSyncs, float64(m.LogBytes-before.LogBytes)/s/1000)
		fmt.Fprintf(w, "frames read from disk\t%d\n", m.ColdReads-before.ColdReads)
		fmt.Fprintf(w, "registry\t%d records\t%.1f kB\n", size.Records, float64(size.Bytes)/1000)
		fmt.Fprintf(w, "height %d, slot %d\thash %v\tconsistent\n", v.State.Height, v.State.Slot, v.State.Hash)
		return w.Flush()
	})
}
