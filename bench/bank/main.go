package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// config is what the command line asks for.
type config struct {
	command.Flags
	accounts int
	goal     int64 // transfers; 0: the time decides alone
	padding  int
	durable  bool
	json     string
}

func parse(args []string, usage io.Writer) (*config, error) {
	c := &config{Flags: command.Flags{Level: engine.Snapshot, Goroutines: 64, RecordMemory: 8 << 20, Duration: 10 * time.Second}}
	fs := c.NewFlagSet("bank", usage)
	fs.IntVar(&c.accounts, "accounts", 100_000, "number of accounts")
	fs.Int64Var(&c.goal, "transfers", 0, "end after so many transfers (default: -duration decides alone)")
	fs.IntVar(&c.padding, "padding", 100, "bytes of a row beside its balance")
	fs.BoolVar(&c.durable, "durable", false, "commits wait for the disk")
	fs.StringVar(&c.json, "json", "", "`file` for the result")
	return c, c.Parse(fs, args, func() (faults []error) {
		if c.accounts < 2 || c.accounts > 1<<26 {
			faults = append(faults, fmt.Errorf("-accounts %d is not between 2 and %d", c.accounts, 1<<26))
		}
		if c.padding < 0 || c.padding > 4096 {
			faults = append(faults, fmt.Errorf("-padding %d is not between 0 and 4096", c.padding))
		}
		return faults
	})
}

// run is main without the process: it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	return c.Main("bank", err, stdout, stderr, func(ctx context.Context, dir string, stdout io.Writer) bool {
		res := newBank(c, dir).run(ctx)
		if c.json != "" {
			if err := res.writeJSON(c.json); err != nil && res.Error == "" {
				res.Error = err.Error()
			}
		}
		res.writeTable(stdout)
		return res.ok()
	})
}

// result is what a run found. The names of its JSON are an interface.
type result struct {
	Level              string  `json:"level"`
	Accounts           int     `json:"accounts"`
	Goroutines         int     `json:"goroutines"`
	Seed               uint64  `json:"seed"`
	Seconds            float64 `json:"seconds"`
	Transfers          int64   `json:"transfers"`
	TransfersPerSecond float64 `json:"transfers_per_second"`
	Retries            int64   `json:"retries"`
	RolledBack         int64   `json:"rolled_back"`
	Savepoints         int64   `json:"savepoints_rolled_back"`
	Audits             int64   `json:"audits"`
	RowsRead           int64   `json:"rows_read"`

	RecordMemoryCapBytes  int64  `json:"record_memory_cap_bytes"`
	RecordMemoryPeakBytes int64  `json:"record_memory_peak_bytes"`
	BackloggedChains      uint64 `json:"backlogged_chains"`
	RestoredChains        uint64 `json:"restored_chains"`
	ColdReads             uint64 `json:"cold_reads"`
	Conflicts             uint64 `json:"conflicts"`
	Deadlocks             uint64 `json:"deadlocks"`
	Waits                 uint64 `json:"waits"`
	Error                 string `json:"error,omitempty"`
}

func (r *result) ok() bool { return r.Error == "" }

func (r *result) writeJSON(name string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

func (r *result) writeTable(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	line("accounts, goroutines", "%d, %d", r.Accounts, r.Goroutines)
	line("transfers", "%d in %.1f s, %.0f/s", r.Transfers, r.Seconds, r.TransfersPerSecond)
	line("retries", "%d, %.3f per transfer", r.Retries, float64(r.Retries)/float64(max(r.Transfers, 1)))
	line("conflicts, deadlocks, waits", "%d, %d, %d", r.Conflicts, r.Deadlocks, r.Waits)
	line("rolled back", "%d, and %d savepoints", r.RolledBack, r.Savepoints)
	line("audits", "%d, %d rows", r.Audits, r.RowsRead)
	line("record memory peak", "%.2f of %.2f MiB", float64(r.RecordMemoryPeakBytes)/(1<<20), float64(r.RecordMemoryCapBytes)/(1<<20))
	line("backlogged, restored", "%d, %d", r.BackloggedChains, r.RestoredChains)
	line("cold reads", "%d", r.ColdReads)
	t.Flush()
	if !r.ok() {
		fmt.Fprintf(out, "\n%s\n\nFAILED\n", r.Error)
		return
	}
	fmt.Fprintln(out, "\nok")
}
