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

	"github.com/sakerdb/saker/bench/internal/command"
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
		return command.ExitOK
	}
	var program, dir string
	if err == nil {
		program, err = os.Executable()
	}
	if err == nil {
		dir, err = command.Directory("crash", c.dir)
	}
	if err != nil {
		fmt.Fprintf(stderr, "crash: %v\n", err)
		return command.ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(stdout, "seed %d, in %s\n", c.seed, dir)
	res := newHarness(c, program, dir, stdout).run(ctx)
	res.writeTable(stdout, dir)
	switch {
	case !res.ok():
		return command.ExitFailed
	case c.dir == "":
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(stderr, "crash: %v\n", err)
		}
	}
	if ctx.Err() != nil {
		return command.ExitInterrupted
	}
	return command.ExitOK
}
