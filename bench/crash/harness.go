package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// harness runs the rounds.
type harness struct {
	c   *config
	l   launcher
	dir string
	out io.Writer
	res result

	// between, if not nil, is called after each kill of the workload: a test
	// damages the store there.
	between func(o order)

	oracle  *oracle
	options storeOptions
	age     int // rounds that the store has seen
}

// The limits of what a child may need. A busy machine must not fail.
const (
	openLimit    = 2 * time.Minute
	inspectLimit = 5 * time.Minute
	opLimit      = 2 * time.Second // after which a child that was to kill itself is killed
)

func newHarness(c *config, program, dir string, out io.Writer) *harness {
	return &harness{c: c, l: launcher{program: program, dir: dir}, dir: dir, out: out, res: result{seed: c.seed}}
}

// run runs rounds until there have been enough, time is up, ctx ends or
// something is wrong. Every random choice of a round follows from the seed and
// the round's number; which goroutine comes first does not.
func (h *harness) run(ctx context.Context) *result {
	start := time.Now()
	for round := 1; ctx.Err() == nil; round++ {
		if h.c.rounds > 0 && round > h.c.rounds || h.c.duration > 0 && time.Since(start) > h.c.duration {
			break
		}
		faults, err := h.round(ctx, round)
		if ctx.Err() != nil {
			break
		}
		h.res.rounds++
		if h.res.faults, h.res.err = faults, err; err != nil || len(faults) > 0 {
			h.res.round = round
			break
		}
	}
	h.res.took = time.Since(start)
	return &h.res
}

func (h *harness) store() string  { return filepath.Join(h.dir, "store") }
func (h *harness) twin() string   { return filepath.Join(h.dir, "twin") }
func (h *harness) before() string { return filepath.Join(h.dir, "before") }
func (h *harness) journal(n int) string {
	return filepath.Join(h.dir, fmt.Sprintf("journal-%06d.jsonl", n))
}

// round is one round: work and kill, kills of the recovery, inspection.
func (h *harness) round(ctx context.Context, round int) ([]string, error) {
	rng := rand.New(rand.NewPCG(h.c.seed, uint64(round)))
	if h.oracle == nil || rng.IntN(25) == 0 {
		if err := h.fresh(rng); err != nil {
			return nil, err
		}
	}
	h.age++
	o := order{Dir: h.store(), Journal: h.journal(round), Round: round, Options: h.options, Seed: rng.Uint64()}
	killed, err := h.work(ctx, o, rng)
	if err != nil || ctx.Err() != nil {
		return nil, h.explain(err, o.Journal)
	}
	if h.between != nil {
		h.between(o)
	}
	// What the kill left, for whoever looks into a mismatch, and as a store that
	// was copied: it must open, and to the same rows.
	if err := copyStore(h.store(), h.before()); err != nil {
		return nil, err
	}
	kills := 0
	if rng.IntN(2) == 0 {
		kills = 1 + rng.IntN(4)
	}
	for range kills {
		if err := h.killRecovery(ctx, o, rng); err != nil {
			return nil, err
		}
	}
	d, err := h.inspect(o, rng.IntN(3) == 0)
	if err != nil {
		return nil, err
	}
	hist, err := readJournalFile(o.Journal)
	if err != nil {
		return nil, err
	}
	faults, t := h.oracle.judge(hist, d, killed)
	h.res.tally.add(t)
	h.res.seen.add(hist.seen)
	if h.c.verbose {
		fmt.Fprintf(h.out, "round %d: %d commits, %d rows, %d faults\n", round, t.acked, t.rows, len(faults))
	}
	if len(faults) > 0 || rng.IntN(4) > 0 {
		return faults, nil
	}
	return h.again(o, rng)
}

// again checks that recovery is idempotent: opened once more after more kills,
// and opened from the copy that was made before the first recovery, the store
// holds what it held.
func (h *harness) again(o order, rng *rand.Rand) (faults []string, err error) {
	for range rng.IntN(3) {
		if err := h.killRecovery(context.Background(), o, rng); err != nil {
			return nil, err
		}
	}
	d, err := h.inspect(o, rng.IntN(2) == 0)
	if err != nil {
		return nil, err
	}
	for what, dir := range map[string]string{"opened again": "", "the copy": h.twin()} {
		if dir != "" {
			if err := copyStore(h.before(), dir); err != nil {
				return nil, err
			}
			o.Dir = dir
			if d, err = h.inspect(o, true); err != nil {
				return nil, err
			}
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
		}
		found, rows := h.oracle.compare(d)
		h.res.tally.rows += rows
		for _, f := range found {
			faults = append(faults, what+": "+f)
		}
	}
	return faults, nil
}

// fresh begins with an empty store and options of its own.
func (h *harness) fresh(rng *rand.Rand) error {
	journals, err := filepath.Glob(filepath.Join(h.dir, "journal-*.jsonl"))
	if err != nil {
		return err
	}
	for _, name := range append(journals, h.store(), h.before()) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	h.oracle, h.options, h.age = newOracle(), randomOptions(rng, int64(h.c.recordMemory)), 0
	h.res.stores++
	return nil
}

// work runs the workload and kills it; it returns when that was.
func (h *harness) work(ctx context.Context, o order, rng *rand.Rand) (time.Time, error) {
	o.Job = jobWork
	delay := 20*time.Millisecond + time.Duration(rng.Int64N(int64(980*time.Millisecond)))
	if rng.IntN(4) == 0 { // at an operation instead
		o.KillAt, delay = logUniform(rng, 1, 5000), opLimit
	}
	p, err := h.l.start(o)
	if err != nil {
		return time.Time{}, err
	}
	if err := errors.Join(p.says(sayOpening, openLimit), p.says(sayReady, openLimit)); err != nil {
		return time.Time{}, errors.Join(err, p.kill())
	}
	p.sleep(ctx, delay)
	err = p.kill()
	h.res.kills++
	return time.Now(), err
}

// explain adds what a child that ended by itself wrote into its journal.
func (h *harness) explain(err error, journal string) error {
	if err == nil {
		return nil
	}
	if hist, jerr := readJournalFile(journal); jerr == nil && len(hist.faults) > 0 {
		return fmt.Errorf("%s\n%w", strings.Join(hist.faults, "\n"), err)
	}
	return err
}

// killRecovery opens the store and kills it while, or just after, it recovers.
func (h *harness) killRecovery(ctx context.Context, o order, rng *rand.Rand) error {
	o.Job = jobRecover
	delay := time.Duration(logUniform(rng, 300, 150_000)) * time.Microsecond
	if rng.IntN(2) == 0 {
		o.KillAt, delay = logUniform(rng, 1, 500), opLimit/4
	}
	p, err := h.l.start(o)
	if err != nil {
		return err
	}
	if err := p.says(sayOpening, openLimit); err != nil {
		return errors.Join(err, p.kill())
	}
	p.sleep(ctx, delay)
	open, err := p.killAndHear(sayReady)
	if h.res.recoveryKills++; !open {
		h.res.midRecovery++
	}
	return err
}

// logUniform returns a number from lo to hi, each order of magnitude as likely.
func logUniform(rng *rand.Rand, lo, hi int64) int64 {
	return int64(float64(lo) * math.Pow(float64(hi)/float64(lo), rng.Float64()))
}

// inspect opens the store in a child and returns all its rows. The child then
// closes the store or is killed.
func (h *harness) inspect(o order, closes bool) (*dump, error) {
	o.Job = jobInspect
	p, err := h.l.start(o)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.says(sayOpening, openLimit), p.says(sayReady, openLimit)); err != nil {
		return nil, errors.Join(err, p.kill())
	}
	stop := p.limit(inspectLimit)
	d, err := readDump(p.out)
	if err := errors.Join(stop(), err); err != nil {
		return nil, errors.Join(err, p.kill())
	}
	if closes {
		return d, p.close(inspectLimit)
	}
	return d, p.kill()
}

// copyStore copies a closed store to a new directory. Files that are written
// once are linked.
func copyStore(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o755)
		case strings.HasSuffix(name, ".run") || strings.HasSuffix(name, ".sst"):
			return os.Link(name, target)
		default:
			return copyFile(name, target)
		}
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, in.Close(), out.Close())
}
