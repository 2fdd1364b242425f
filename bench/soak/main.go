package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/sakerdb/saker/bench/internal/command"
)

var errInterrupted = errors.New("interrupted")

func main() {
	os.Exit(soak(os.Args[1:], os.Stdout, os.Stderr, openEngine))
}

// soak is main without the process: it returns the exit status.
func soak(args []string, stdout, stderr io.Writer, open opener) int {
	c, err := parseConfig(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return command.ExitOK
	case err != nil:
		fmt.Fprintf(stderr, "soak: %v\n", err)
		return command.ExitUsage
	}
	dir, remove, err := directory(c.dir)
	if err != nil {
		fmt.Fprintf(stderr, "soak: %v\n", err)
		return command.ExitUsage
	}
	defer remove()
	ctx, stop := interruptible(stderr, remove)
	defer stop()
	stopProfile, err := cpuProfile(c.cpuProfile)
	if err != nil {
		fmt.Fprintf(stderr, "soak: %v\n", err)
		return command.ExitUsage
	}
	res := newRun(c, dir, open, stderr).execute(ctx)
	res.err = errors.Join(res.err, stopProfile())
	res.writeTable(stdout)
	if c.jsonFile != "" {
		if err := res.writeJSON(c.jsonFile); err != nil {
			fmt.Fprintf(stderr, "soak: %v\n", err)
			return command.ExitFailed
		}
	}
	switch {
	case res.ok():
		return command.ExitOK
	case context.Cause(ctx) != nil:
		return command.ExitInterrupted
	default:
		return command.ExitFailed
	}
}

// directory returns the store's directory and what removes it: a temporary one
// goes with everything in it, a named one stays.
func directory(name string) (dir string, remove func(), err error) {
	dir, err = command.Directory("soak", name)
	if name != "" {
		return dir, func() {}, err
	}
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

// interruptible returns a context that the first interrupt ends; the run then
// closes the store and cleans up. The second one does not wait for that.
func interruptible(stderr io.Writer, remove func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-signals:
			}
			if ctx.Err() != nil {
				remove()
				os.Exit(command.ExitInterrupted)
			}
			fmt.Fprintln(stderr, "\ninterrupted: closing the store (once more: at once)")
			cancel(errInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
	}
}

// cpuProfile profiles until the returned function is called, if a file is named.
func cpuProfile(name string) (stop func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
