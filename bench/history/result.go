package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/history"
)

// result is what the rounds found.
type result struct {
	config    *config
	rounds    int
	tally     tally
	edges     int
	counts    map[history.Kind]int
	forbidden []history.Anomaly
	context   []string // of the first ones: the transactions in full
	metrics   engine.Metrics
	took      time.Duration
	checking  time.Duration
	err       error
}

// shown is how many anomalies are told in full.
const shown = 3

func (r *result) ok() bool {
	return r.err == nil && len(r.forbidden) == 0 && r.tally.contradictions == 0
}

// forbids reports whether the level forbids the anomaly, in transactions that
// lock what they append to.
func (r *result) forbids(k history.Kind) bool {
	level := history.ReadCommitted
	switch r.config.Level {
	case engine.Snapshot:
		level = history.Snapshot
	case engine.Serializable:
		level = history.Serializable
	default:
	}
	return level.Forbids(k) || k == history.LostUpdate
}

// writeTable prints the result for people.
func (r *result) writeTable(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	n, m := &r.tally, &r.metrics
	ended := n.commits + n.rollbacks + n.conflicts + n.deadlocks + n.serialization
	line("transactions", "%d in %d rounds, %.0f s, %d goroutines", ended, r.rounds, r.took.Seconds(), r.config.Goroutines)
	line("committed, rolled back", "%d, %d", n.commits, n.rollbacks)
	line("conflicts, deadlocks", "%d, %d; %d at commit", n.conflicts, n.deadlocks, n.serialization)
	line("read-only, big", "%d, %d", n.readOnly, n.big)
	line("savepoints, rolled back to", "%d, %d", n.savepoints, n.undone)
	line("waits", "%d", m.Waits)
	if n.contradictions > 0 {
		line("contradictions", "%d, FORBIDDEN: a write said otherwise than the read before it, or a row was rolled back", n.contradictions)
	}
	line("low-memory episodes", "%d, peak %.2f of %.2f MiB", m.LowMemoryEpisodes, mib(m.RecordMemoryPeak), mib(m.RecordMemoryCap))
	line("chilled, thawed", "%d, %d", m.ChilledRecords, m.ThawedRecords)
	line("backlogged, restored", "%d, %d", m.BackloggedChains, m.RestoredChains)
	line("cold reads, merges", "%d, %d", m.ColdReads, m.FrameMerges)
	line("dependencies", "%d, checked in %.1f s", r.edges, r.checking.Seconds())
	kinds := make([]string, 0, len(r.counts))
	for k := range r.counts {
		kinds = append(kinds, string(k))
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		verdict := "allowed"
		if r.forbids(history.Kind(k)) {
			verdict = "FORBIDDEN"
		}
		line(k, "%d, %s", r.counts[history.Kind(k)], verdict)
	}
	t.Flush()
	if r.ok() {
		fmt.Fprintln(out, "\nok")
		return
	}
	fmt.Fprintln(out)
	for i, a := range r.forbidden {
		fmt.Fprintln(out, a)
		if i < len(r.context) {
			fmt.Fprint(out, r.context[i])
		}
	}
	if r.err != nil {
		fmt.Fprintf(out, "%v\n", r.err)
	}
	fmt.Fprintln(out, "\nFAILED")
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// describe tells the transactions of an anomaly, an operation per line.
func describe(h *history.History, a history.Anomaly) string {
	var b strings.Builder
	for _, id := range a.Txns {
		t := &h.Txns[id]
		fmt.Fprintf(&b, "  T%d, %d to %d, status %d\n", id, t.Begin, t.End, t.Status)
		for _, op := range t.Ops {
			switch op.Kind {
			case history.Read:
				fmt.Fprintf(&b, "    read %d: %v\n", op.Key, op.List)
			case history.Append:
				fmt.Fprintf(&b, "    append %d to %d\n", op.Value, op.Key)
			case history.Scan:
				fmt.Fprintf(&b, "    scan [%d, %d): %.1000s\n", op.From, op.To, fmt.Sprint(op.Rows))
			case history.Mark:
				fmt.Fprintf(&b, "    savepoint\n")
			case history.Undo:
				fmt.Fprintf(&b, "    back to operation %d\n", op.To)
			}
		}
	}
	return b.String()
}
