package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"time"
)

func main() { os.Exit(peers(os.Args[1:], openers, os.Stdout, os.Stderr)) }

// peers is main without the process. It returns the exit status: 1 when a store
// failed or did not hold what it had acknowledged, 2 for bad flags.
func peers(args []string, all []named, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, all, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "peers: %v\n", err)
		return 2
	}
	if err := measure(c, all, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "peers: %v\n", err)
		return 1
	}
	return 0
}

func measure(c *config, all []named, stdout, stderr io.Writer) (err error) {
	if c.dir != "" {
		if err := os.MkdirAll(c.dir, 0o755); err != nil {
			return err
		}
	}
	// Below -dir as well in a directory of its own: only that is removed.
	dir, err := os.MkdirTemp(c.dir, "peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if c.profile != "" {
		f, ferr := os.Create(c.profile)
		if ferr != nil {
			return ferr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	res := result{
		Started: time.Now(), Rows: c.rows, ValueSize: c.valueSize, Memory: c.memory, CellMillis: c.cell.Milliseconds(),
	}
	if res.Cells, err = run(c, all, dir, stderr); err != nil {
		return err
	}
	if err := writeTable(stdout, res.Cells); err != nil {
		return err
	}
	if c.jsonFile != "" {
		return res.writeJSON(c.jsonFile)
	}
	return nil
}
