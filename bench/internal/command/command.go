// Package command is what the commands below bench share: flags, sizes, the
// directory of a store, the sum of its metrics over several openings.
//
// Concurrency: a Store belongs to one goroutine while it is opened or closed.
//
// Not promised: an interface to others.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sakerdb/saker/engine"
)

// Exit statuses.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Flags are those of every command.
type Flags struct {
	Level        engine.Isolation
	Goroutines   int
	RecordMemory ByteSize
	Seed         uint64
	Duration     time.Duration
	Dir          string // "": a temporary one, kept if something is wrong
}

// NewFlagSet returns a flag set with f in it; its values are the defaults.
func (f *Flags) NewFlagSet(name string, usage io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.Func("level", fmt.Sprintf("isolation `level`: readcommitted, snapshot or serializable (default %s)", levelName(f.Level)), func(s string) (err error) {
		f.Level, err = parseLevel(s)
		return err
	})
	fs.IntVar(&f.Goroutines, "goroutines", f.Goroutines, "goroutines that run transactions")
	fs.Var(&f.RecordMemory, "record-memory", "`size` of record memory, such as 8MiB")
	fs.Uint64Var(&f.Seed, "seed", 0, "seed of what is done (default: a random one)")
	fs.DurationVar(&f.Duration, "duration", f.Duration, "how long to go on")
	fs.StringVar(&f.Dir, "dir", "", "empty or new `directory`, kept (default: a temporary one, kept if something is wrong)")
	return fs
}

// Parse parses the arguments. It reports every fault at once, those in more too.
func (f *Flags) Parse(fs *flag.FlagSet, args []string, more func() []error) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	for f.Seed == 0 {
		f.Seed = rand.Uint64() >> 32
	}
	faults := more()
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if f.Goroutines < 1 || f.Goroutines > 1024 {
		faults = append(faults, fmt.Errorf("-goroutines %d is not between 1 and 1024", f.Goroutines))
	}
	if f.RecordMemory < 1<<20 || f.RecordMemory > 1<<34 {
		faults = append(faults, fmt.Errorf("-record-memory %d is not between %d and %d", f.RecordMemory, 1<<20, int64(1<<34)))
	}
	if f.Duration < 0 {
		faults = append(faults, fmt.Errorf("-duration %v is below 0", f.Duration))
	}
	return errors.Join(faults...)
}

var levels = []engine.Isolation{engine.ReadCommitted, engine.Snapshot, engine.Serializable}

func levelName(l engine.Isolation) string { return strings.ReplaceAll(l.String(), " ", "") }

func parseLevel(s string) (engine.Isolation, error) {
	for _, l := range levels {
		if s == levelName(l) {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is no level", s)
}

// Run is a run of a command on a directory: it reports whether all was well.
type Run func(ctx context.Context, dir string, stdout io.Writer) (ok bool)

// Main runs the command after its flags were read with the given error, and
// returns the exit status.
func (f *Flags) Main(name string, parsed error, stdout, stderr io.Writer, run Run) int {
	if errors.Is(parsed, flag.ErrHelp) {
		return ExitOK
	}
	var dir string
	if parsed == nil {
		dir, parsed = Directory(name, f.Dir)
	}
	if parsed != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, parsed)
		return ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(stdout, "seed %d, level %v, in %s\n", f.Seed, f.Level, dir)
	if !run(ctx, dir, stdout) {
		fmt.Fprintf(stdout, "the store is kept in %s\n", dir)
		return ExitFailed
	}
	if f.Dir == "" {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(stderr, "%s: %v\n", name, err)
		}
	}
	if ctx.Err() != nil {
		return ExitInterrupted
	}
	return ExitOK
}

// Directory returns the directory to work in: dir, which must be new or empty, or a
// temporary one with the command's name.
func Directory(name, dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "saker-"+name+"-")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("-dir %s is not empty", dir)
	}
	return dir, err
}
