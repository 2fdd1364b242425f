package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

// What a child does.
const (
	jobWork    = "work"    // the workload, until it is killed
	jobRecover = "recover" // open the store, make a checkpoint, wait to be killed
	jobInspect = "inspect" // open the store, verify it, tell all rows
)

// What children say on their standard output.
const (
	sayOpening = "opening" // before engine.Open
	sayReady   = "ready"   // after it; for the workload, after the first rows
)

// order is what a child is told to do, as JSON in its argument.
type order struct {
	Job     string
	Dir     string // of the store
	Journal string
	Seed    uint64
	Round   int
	Options storeOptions
	// KillAt is the number of the writing operation on the disk before which the
	// child kills itself; 0: never.
	KillAt int64
}

// storeOptions are the options that differ between stores.
type storeOptions struct {
	RecordMemory   int64
	ChillThreshold int64
	LogLimit       int64
	LogSegment     int64
	RunSize        int64
}

// randomOptions are options under which everything happens within a second:
// little memory, logs that fill and are recycled, runs that roll over.
func randomOptions(rng *rand.Rand, recordMemory int64) storeOptions {
	return storeOptions{
		RecordMemory:   recordMemory,
		ChillThreshold: 1 << (10 + rng.IntN(9)), // 1 to 256 KiB
		LogLimit:       1 << (20 + rng.IntN(2)),
		LogSegment:     64 << (10 + rng.IntN(3)),
		RunSize:        256 << (10 + rng.IntN(4)),
	}
}

// child is main of a child process; it returns the exit status.
func child(arg string, stdin io.Reader, stdout, stderr io.Writer) int {
	var o order
	if err := json.Unmarshal([]byte(arg), &o); err != nil {
		fmt.Fprintf(stderr, "crash: child: %v\n", err)
		return command.ExitUsage
	}
	in := bufio.NewReader(stdin)
	fmt.Fprintln(stdout, sayOpening)
	db, err := o.open()
	if err != nil {
		fmt.Fprintf(stderr, "open: %v\n", err)
		return command.ExitFailed
	}
	switch o.Job {
	case jobWork:
		err = o.work(db, stdout)
	case jobRecover:
		fmt.Fprintln(stdout, sayReady)
		err = db.Checkpoint(context.Background())
	case jobInspect:
		err = inspect(db, stdout)
	default:
		err = fmt.Errorf("job %q", o.Job)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", o.Job, err)
		return command.ExitFailed
	}
	// The parent closes the pipe to end the child in peace. If the parent dies,
	// that happens too.
	_, _ = io.Copy(io.Discard, in)
	if err := db.Close(); err != nil {
		fmt.Fprintf(stderr, "close: %v\n", err)
		return command.ExitFailed
	}
	return command.ExitOK
}

func (o *order) open() (*engine.DB, error) {
	fs := vfs.Default
	if o.KillAt > 0 {
		fs = suicidal(fs, o.KillAt)
	}
	return engine.Open(o.Dir, &engine.Options{
		Memory: 4 << 20, RecordMemory: o.Options.RecordMemory, ChillThreshold: o.Options.ChillThreshold,
		LogLimit: o.Options.LogLimit, LogSegmentSize: o.Options.LogSegment, RunSize: o.Options.RunSize,
		MapMemTable: 64 << 10, FS: fs,
	})
}

// suicidal is fs until its nth operation that writes: before that the process
// kills itself. So the store dies between two operations that lie close
// together, which a clock rarely hits.
func suicidal(fs vfs.FS, n int64) vfs.FS {
	var count atomic.Int64
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && count.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not a step further
		}
		return nil
	}))
}

// dump is what an inspection found: the rows of all tables.
type dump struct {
	tables map[string]map[string]row
	rows   int
	faults []string
}

// page is a piece of a dump on its way to the parent. The last one has Done.
type page struct {
	Table string
	Keys  [][]byte
	Rows  []row
	Fault string
	Done  bool
}

// inspect verifies the store and tells all it holds. A fault is told like a row:
// the parent wants the rows even so.
func inspect(db *engine.DB, out io.Writer) error {
	w := bufio.NewWriterSize(out, 1<<16)
	fmt.Fprintln(w, sayReady)
	enc := json.NewEncoder(w)
	tell := func(p page) error { return enc.Encode(p) }
	if err := db.Verify(context.Background()); err != nil {
		if err := tell(page{Fault: fmt.Sprintf("verify: %v", err)}); err != nil {
			return err
		}
	}
	for _, name := range db.Tables() {
		if err := inspectTable(db, name, tell); err != nil {
			return err
		}
	}
	return errors.Join(tell(page{Done: true}), w.Flush())
}

// inspectTable reads a table from one snapshot: forward, in reverse, and some
// rows by their keys. All three must agree.
func inspectTable(db *engine.DB, name string, tell func(page) error) error {
	table, err := db.Table(name)
	if err != nil {
		return err
	}
	fault := func(format string, args ...any) error {
		return tell(page{Fault: "table " + name + ": " + fmt.Sprintf(format, args...)})
	}
	return db.View(context.Background(), func(tx *engine.Tx) error {
		p := page{Table: name}
		var all [][]byte
		var sums []row
		var buf []byte
		for r, err := range tx.Scan(table, engine.Range{}) {
			if err != nil {
				return fault("scan: %v", err)
			}
			key := append([]byte{}, r.Key...)
			got, ok, b := parseValue(boundTo(name, key), r.Value, buf)
			if buf = b; !ok {
				if err := fault("row %q has bytes that nobody wrote: %v, %.60x", key, got, r.Value); err != nil {
					return err
				}
			}
			if len(all) > 0 && string(key) <= string(all[len(all)-1]) {
				return fault("scan: %q after %q", key, all[len(all)-1])
			}
			all, sums = append(all, key), append(sums, got)
			if p.Keys, p.Rows = append(p.Keys, key), append(p.Rows, got); len(p.Keys) == 500 {
				if err := tell(p); err != nil {
					return err
				}
				p.Keys, p.Rows = nil, nil
			}
			if len(all)%97 == 0 {
				v, err := tx.Get(table, key)
				if err != nil || string(v) != string(r.Value) {
					return fault("get %q: %.40x %v, the scan says %v", key, v, err, got)
				}
			}
		}
		if err := tell(p); err != nil { // an empty table is told too
			return err
		}
		i := len(all)
		for r, err := range tx.Scan(table, engine.Range{Reverse: true}) {
			if err != nil {
				return fault("scan in reverse: %v", err)
			}
			got, _, b := parseValue(boundTo(name, r.Key), r.Value, buf)
			buf = b
			if i--; i < 0 || string(all[i]) != string(r.Key) || sums[i] != got {
				return fault("the scan in reverse differs at %q: %v", r.Key, got)
			}
		}
		if i != 0 {
			return fault("the scan in reverse misses %d of %d rows", i, len(all))
		}
		return nil
	})
}

// readDump reads what inspect tells.
func readDump(in *bufio.Reader) (*dump, error) {
	d := &dump{tables: map[string]map[string]row{}}
	dec := json.NewDecoder(in)
	for {
		var p page
		if err := dec.Decode(&p); err != nil {
			return nil, fmt.Errorf("inspection ended early: %w", err)
		}
		switch {
		case p.Done:
			return d, nil
		case p.Fault != "":
			d.faults = append(d.faults, p.Fault)
			continue
		}
		t := d.tables[p.Table]
		if t == nil {
			t = map[string]row{}
			d.tables[p.Table] = t
		}
		for i, k := range p.Keys {
			t[string(k)] = p.Rows[i]
		}
		d.rows += len(p.Keys)
	}
}
