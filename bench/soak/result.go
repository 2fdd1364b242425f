package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"

	"github.com/sakerdb/saker/bench/internal/command"
)

// result is what a run found, as the table at its end and as JSON.
type result struct {
	config *config

	order         []string // of the phases run
	seconds       map[string]float64
	rowsPerSecond map[string]float64

	firstTenth, lastTenth float64 // of the insert, rows/s, all writers together
	rollbackSeconds       float64 // the longest rollback call
	rssPeak, diskPeak     int64
	gauges                gauges
	mismatches            int64
	err                   error
}

// The names of the rates that are not of one phase.
const (
	rateFirstTenth = "insert_first_tenth"
	rateLastTenth  = "insert_last_tenth"
	rateDurable    = "insert_to_commit" // rows by the seconds of insert and commit
)

func newResult(c *config) *result {
	return &result{config: c, seconds: map[string]float64{}, rowsPerSecond: map[string]float64{}}
}

// phase notes a phase that has ended.
func (r *result) phase(name string, rows int64, seconds float64) {
	r.order = append(r.order, name)
	r.seconds[name] = seconds
	if rows > 0 && seconds > 0 {
		r.rowsPerSecond[name] = math.Round(float64(rows) / seconds)
	}
}

// finish takes what is known at the end.
func (r *result) finish(g gauges, mismatches int64, err error) {
	r.gauges, r.mismatches, r.err = g, mismatches, err
	if r.firstTenth > 0 && r.lastTenth > 0 {
		r.rowsPerSecond[rateFirstTenth] = math.Round(r.firstTenth)
		r.rowsPerSecond[rateLastTenth] = math.Round(r.lastTenth)
	}
	if commit, ok := r.seconds[phaseCommit]; ok {
		r.rowsPerSecond[rateDurable] = math.Round(float64(r.config.rows) / (r.seconds[phaseInsert] + commit))
	}
}

func (r *result) ok() bool { return r.err == nil && r.mismatches == 0 }

// report is the JSON of a result. The names are an interface: scripts read them.
type report struct {
	Rows                  int64              `json:"rows"`
	Seconds               map[string]float64 `json:"seconds"`
	RowsPerSecond         map[string]float64 `json:"rows_per_second"`
	RecordMemoryCapBytes  int64              `json:"record_memory_cap_bytes"`
	RecordMemoryPeakBytes int64              `json:"record_memory_peak_bytes"`
	RSSPeakBytes          int64              `json:"rss_peak_bytes"`
	LowMemoryEpisodes     uint64             `json:"low_memory_episodes"`
	ChilledRecords        uint64             `json:"chilled_records"`
	ThawedRecords         uint64             `json:"thawed_records"`
	BackloggedChains      uint64             `json:"backlogged_chains"`
	RestoredChains        uint64             `json:"restored_chains"`
	DiskPeakBytes         int64              `json:"disk_peak_bytes"`
	DiskWrittenBytes      uint64             `json:"disk_written_bytes"`
	RollbackSeconds       *float64           `json:"rollback_seconds,omitempty"`
	Mismatches            int64              `json:"mismatches"`
	OK                    bool               `json:"ok"`

	Error     string `json:"error,omitempty"`
	Order     string `json:"order"`
	Writers   int    `json:"writers"`
	ValueSize int    `json:"value_size"`
	Plain     bool   `json:"plain"`
	Straight  bool   `json:"straight"`
	Rollback  bool   `json:"rollback"`
	Seed      uint64 `json:"seed"`
}

func (r *result) report() *report {
	g, c := r.gauges, r.config
	out := &report{
		Rows: c.rows, Seconds: r.seconds, RowsPerSecond: r.rowsPerSecond,
		RecordMemoryCapBytes: g.recordMemoryCap, RecordMemoryPeakBytes: g.recordMemoryPeak,
		RSSPeakBytes: r.rssPeak, LowMemoryEpisodes: g.lowMemoryEpisodes,
		ChilledRecords: g.chilledRecords, ThawedRecords: g.thawedRecords,
		BackloggedChains: g.backloggedChains, RestoredChains: g.restoredChains,
		DiskPeakBytes: r.diskPeak, DiskWrittenBytes: g.diskBytesWritten,
		Mismatches: r.mismatches, OK: r.ok(),
		Order: c.order, Writers: c.writers, ValueSize: c.valueSize,
		Plain: c.plain, Straight: c.straight, Rollback: c.rollback, Seed: c.seed,
	}
	if c.rollback {
		out.RollbackSeconds = &r.rollbackSeconds
	}
	if r.err != nil {
		out.Error = r.err.Error()
	}
	return out
}

func (r *result) writeJSON(name string) error {
	text, err := json.MarshalIndent(r.report(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// writeTable prints the result for people.
func (r *result) writeTable(out io.Writer) {
	g, c := r.gauges, r.config
	fmt.Fprintf(out, "\n%s rows of %d bytes, %s order, %d writer(s), seed %d\n\n",
		grouped(c.rows), c.valueSize, c.order, c.writers, c.seed)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "phase\tseconds\trows/s\t")
	for _, name := range r.order {
		fmt.Fprintf(t, "%s\t%.3f\t%s\t\n", name, r.seconds[name], r.rate(name))
	}
	for _, name := range []string{rateFirstTenth, rateLastTenth, rateDurable} {
		if _, ok := r.rowsPerSecond[name]; ok {
			fmt.Fprintf(t, "%s\t\t%s\t\n", name, r.rate(name))
		}
	}
	t.Flush()
	fmt.Fprintln(out)

	t = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "record memory peak\t%s of %s MiB\n", command.MiB(g.recordMemoryPeak), command.MiB(g.recordMemoryCap))
	fmt.Fprintf(t, "RSS peak\t%s MiB\n", command.MiB(r.rssPeak))
	fmt.Fprintf(t, "low-memory episodes\t%s\n", grouped(g.lowMemoryEpisodes))
	fmt.Fprintf(t, "chilled / thawed records\t%s / %s\n", grouped(g.chilledRecords), grouped(g.thawedRecords))
	fmt.Fprintf(t, "backlogged / restored chains\t%s / %s\n", grouped(g.backloggedChains), grouped(g.restoredChains))
	fmt.Fprintf(t, "disk peak / written\t%s / %s MiB\n", command.MiB(r.diskPeak), command.MiB(int64(g.diskBytesWritten)))
	if c.rollback {
		fmt.Fprintf(t, "longest rollback call\t%.3f ms\n", r.rollbackSeconds*1e3)
	}
	fmt.Fprintf(t, "mismatches\t%s\n", grouped(r.mismatches))
	t.Flush()

	switch {
	case r.err != nil:
		fmt.Fprintf(out, "\nFAILED: %v\n", r.err)
	case !r.ok():
		fmt.Fprintf(out, "\nFAILED: %s mismatches\n", grouped(r.mismatches))
	default:
		fmt.Fprintln(out, "\nok")
	}
}

func (r *result) rate(name string) string {
	if v, ok := r.rowsPerSecond[name]; ok {
		return grouped(int64(v))
	}
	return ""
}
