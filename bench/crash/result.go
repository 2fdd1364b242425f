package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// result is what the rounds found.
type result struct {
	seed   uint64
	took   time.Duration
	rounds int
	stores int

	kills         int // of the workload
	recoveryKills int
	midRecovery   int // of them, before the store was open

	tally tally
	seen  seen

	round  int // the one that failed
	faults []string
	err    error
}

func (r *result) ok() bool { return r.err == nil && len(r.faults) == 0 }

// faultsShown is how many differences are printed; the file has all of them.
const faultsShown = 20

// writeTable prints the result for people.
func (r *result) writeTable(out io.Writer, dir string) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, name+"\t"+format+"\n", args...)
	}
	fmt.Fprintln(out)
	line("seed", "%d", r.seed)
	line("rounds", "%d on %d stores, %.0f s", r.rounds, r.stores, r.took.Seconds())
	line("kills at work", "%d", r.kills)
	line("kills during recovery", "%d, %d of them before the store was open", r.recoveryKills, r.midRecovery)
	line("commits acknowledged", "%d, %d of them durable", r.tally.acked, r.tally.durable)
	line("NoSync commits lost", "%d, the oldest %v old", r.tally.lost, r.tally.lostAge.Round(time.Millisecond))
	line("calls cut short", "%d, %d of them came true", r.tally.pending, r.tally.alivePending)
	line("tables changed, syncs", "%d, %d", r.tally.ddl, r.tally.syncs)
	s := r.seen
	line("chilled, thawed", "%d, %d", s.Chilled, s.Thawed)
	line("backlogged, restored", "%d, %d", s.Backlogged, s.Restored)
	line("merges, low-memory episodes", "%d, %d", s.Merges, s.Episodes)
	line("conflicts, deadlocks", "%d, %d", s.Conflicts, s.Deadlocks)
	line("log", "%d MiB", s.LogBytes>>20)
	line("rows checked", "%d", r.tally.rows)
	line("mismatches", "%d", len(r.faults))
	t.Flush()
	if r.ok() {
		fmt.Fprintln(out, "\nok")
		return
	}
	fmt.Fprintf(out, "\nFAILED in round %d of seed %d; the store, what the kill left (before) and the journals are in %s\n", r.round, r.seed, dir)
	if r.err != nil {
		fmt.Fprintf(out, "%v\n", r.err)
	}
	for i, f := range r.faults {
		if i == faultsShown {
			fmt.Fprintf(out, "… and %d more\n", len(r.faults)-i)
			break
		}
		fmt.Fprintf(out, "  %s\n", f)
	}
	fmt.Fprintf(out, "replay: go run ./bench/crash -seed %d -rounds %d\n", r.seed, r.round)
}
