package main

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
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArgument {
		os.Exit(child(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(crash(os.Args[1:], os.Stdout, os.Stderr))
}

// crash is main without the process: it returns the exit status.
func crash(args []string, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	var program, dir string
	if err == nil {
		program, err = os.Executable()
	}
	if err == nil {
		dir, err = directory(c.dir)
	}
	if err != nil {
		fmt.Fprintf(stderr, "crash: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(stdout, "seed %d, in %s\n", c.seed, dir)
	res := newHarness(c, program, dir, stdout).run(ctx)
	res.writeTable(stdout, dir)
	switch {
	case !res.ok():
		return exitFailed
	case c.dir == "":
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(stderr, "crash: %v\n", err)
		}
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return exitOK
}

// directory returns the directory to work in: a temporary one, or one that is
// new or empty.
func directory(name string) (string, error) {
	if name == "" {
		return os.MkdirTemp("", "saker-crash-")
	}
	if err := os.MkdirAll(name, 0o755); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(name)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("-dir %s is not empty", name)
	}
	return name, err
}
