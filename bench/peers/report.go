package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// summary is one store's result of one cell: medians over the rounds.
type summary struct {
	Workload   string  `json:"workload"`
	Goroutines int     `json:"goroutines"`
	Store      string  `json:"store"`
	Rounds     int     `json:"rounds"`
	PerSecond  float64 `json:"per_second"`
	Min        float64 `json:"per_second_min"`
	Max        float64 `json:"per_second_max"`
	P50        float64 `json:"p50_us"` // 0: single operations were not timed
	P99        float64 `json:"p99_us"`
	// OfBest is PerSecond divided by that of the best other store in the cell;
	// 0 when there is no other.
	OfBest float64 `json:"of_best_other"`
}

// result is what -json writes.
type result struct {
	Started    time.Time `json:"started"`
	Rows       uint64    `json:"rows"`
	ValueSize  int       `json:"value_size"`
	Memory     int64     `json:"memory_bytes"`
	CellMillis int64     `json:"cell_ms"`
	Cells      []summary `json:"cells"`
}

func summarize(k cellKey, samples []sample) summary {
	var rates, p50, p99 []float64
	for i := range samples {
		s := &samples[i]
		rates = append(rates, float64(s.ops)/s.seconds)
		p50 = append(p50, micros(s.lat.quantile(0.50)))
		p99 = append(p99, micros(s.lat.quantile(0.99)))
	}
	return summary{
		Workload: k.workload, Goroutines: k.goroutines, Store: k.store, Rounds: len(samples),
		PerSecond: median(rates), Min: slices.Min(rates), Max: slices.Max(rates),
		P50: median(p50), P99: median(p99),
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median returns the middle one, or the mean of the two in the middle.
func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	n := len(v)
	return (v[n/2] + v[(n-1)/2]) / 2
}

// compare fills in OfBest for the stores of one cell.
func compare(part []summary) {
	for i := range part {
		best := 0.0
		for j := range part {
			if j != i {
				best = max(best, part[j].PerSecond)
			}
		}
		if best > 0 {
			part[i].OfBest = part[i].PerSecond / best
		}
	}
}

func writeTable(out io.Writer, cells []summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "workload\tgoroutines\tstore\tper second\tmin\tmax\tp50 µs\tp99 µs\tof best other\t")
	for i := range cells {
		c := &cells[i]
		p50, p99 := "-", "-"
		if c.P50 > 0 {
			p50, p99 = fmt.Sprintf("%.0f", c.P50), fmt.Sprintf("%.0f", c.P99)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%.0f\t%.0f\t%.0f\t%s\t%s\t%.2f\t\n",
			c.Workload, c.Goroutines, c.Store, c.PerSecond, c.Min, c.Max, p50, p99, c.OfBest)
	}
	return w.Flush()
}

func (r *result) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
