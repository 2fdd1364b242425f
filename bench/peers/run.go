package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// cellKey names a line of the result.
type cellKey struct {
	workload   string
	goroutines int
	store      string
}

// run goes through all workloads in directories below dir and returns one
// summary per cell. progress is told about each cell.
func run(c *config, all []named, dir string, progress io.Writer) ([]summary, error) {
	var out []summary
	for _, name := range c.workloads {
		i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
		w := &workloads[i]
		samples, err := runWorkload(c, w, all, filepath.Join(dir, name), progress)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, g := range c.goroutinesOf(w) {
			var part []summary
			for _, store := range c.stores {
				part = append(part, summarize(cellKey{name, g, store}, samples[cellKey{name, g, store}]))
			}
			compare(part)
			out = append(out, part...)
		}
	}
	return out, nil
}

// goroutinesOf returns the numbers of goroutines that w is run with.
func (c *config) goroutinesOf(w *workload) []int {
	if w.concurrent {
		return c.goroutines
	}
	return []int{1}
}

// runWorkload runs the cells of one workload, the stores taking turns.
func runWorkload(c *config, w *workload, all []named, dir string, progress io.Writer) (samples map[cellKey][]sample, err error) {
	sessions := make(map[string]session)
	defer func() {
		for _, store := range c.stores {
			if s := sessions[store]; s != nil {
				if ferr := s.finish(); ferr != nil {
					err = errors.Join(err, fmt.Errorf("%s: %w", store, ferr))
				}
			}
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, store := range c.stores {
		n, ok := findStore(all, store)
		if !ok {
			return nil, fmt.Errorf("no store %q", store)
		}
		e := env{c: c, open: n.open, dir: filepath.Join(dir, store)}
		if sessions[store], err = w.start(e); err != nil {
			delete(sessions, store)
			return nil, fmt.Errorf("%s: %w", store, err)
		}
	}
	samples = make(map[cellKey][]sample)
	for round := range c.rounds {
		for _, g := range c.goroutinesOf(w) {
			for i := range c.stores {
				store := c.stores[(round+i)%len(c.stores)]
				s, err := sessions[store].cell(g)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", store, err)
				}
				k := cellKey{w.name, g, store}
				samples[k] = append(samples[k], s)
				fmt.Fprintf(progress, "round %d/%d  %s  %d goroutines  %-9s  %.0f/s\n",
					round+1, c.rounds, w.name, g, store, float64(s.ops)/s.seconds)
			}
		}
	}
	return samples, nil
}
