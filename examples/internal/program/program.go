// Package program is what the example programs have around their work: signals,
// options, exit statuses, a directory for the run.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Main ends the process with what run returns. The first signal ends run's context;
// a second one kills.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Faults collects what is wrong with options, to tell all of it at once.
type Faults []error

// Unless notes a fault if ok is false.
func (f *Faults) Unless(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf(format, args...))
	}
}

// Refuse reports the error of a command line and returns the exit status.
func Refuse(name string, err error, stderr io.Writer) int {
	if errors.Is(err, flag.ErrHelp) {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return ExitUsage
}

// InDir calls work with dir, or with a temporary directory that it removes
// afterwards, and returns the exit status.
func InDir(name, dir string, stderr io.Writer, work func(dir string) error) int {
	if dir == "" {
		temp, err := os.MkdirTemp("", "saker-"+name+"-")
		if err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", name, err)
			return ExitFailed
		}
		defer func() { _ = os.RemoveAll(temp) }()
		dir = temp
	}
	if err := work(dir); err != nil {
		fmt.Fprintf(stderr, "%v\n", err)
		return ExitFailed
	}
	return ExitOK
}
