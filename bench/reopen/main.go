package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sakerdb/saker/engine"
)

// config is the command line.
type config struct {
	rows  int64  // of the bulk commit
	what  string // bulk or log
	child string // what a child process does: write or open
	dir   string
}

const (
	valueSize  = 100
	logWriters = 8
	logKeys    = 1 << 16   // of each writer: no conflicts
	fullLog    = 126 << 20 // bytes; at 128 MiB, half of the default limit, a checkpoint begins
	ready      = "ready"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "reopen:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (err error) {
	var c config
	f := flag.NewFlagSet("reopen", flag.ContinueOnError)
	f.Int64Var(&c.rows, "rows", 32_000_000, "rows of the bulk commit, of 100 bytes each")
	f.StringVar(&c.what, "what", "bulk", "what was done before the kill: bulk, a commit of -rows rows; log, small commits until a checkpoint is due")
	f.StringVar(&c.dir, "dir", "", "empty or new `directory`, kept (default: a temporary one)")
	f.StringVar(&c.child, "child", "", "for the program itself")
	if err := f.Parse(args); err != nil {
		return err
	}
	if c.rows < 1 || c.what != "bulk" && c.what != "log" {
		return fmt.Errorf("-rows %d, -what %q", c.rows, c.what)
	}
	switch c.child {
	case "write":
		return c.write(out)
	case "open":
		return c.open(out)
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "saker-reopen-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	}
	if err := c.kill(); err != nil {
		return err
	}
	return c.start("open", out).Run()
}

// start prepares a child that works on the same directory.
func (c *config) start(child string, out io.Writer) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-child", child, "-dir", c.dir, "-what", c.what, "-rows", fmt.Sprint(c.rows))
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return cmd
}

// kill starts the writing child and kills it when it says that it is ready.
func (c *config) kill() error {
	cmd := c.start("write", nil)
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err == nil {
		err = cmd.Process.Signal(syscall.SIGKILL)
	}
	_ = cmd.Wait() // it was killed
	if err != nil || line != ready+"\n" {
		return fmt.Errorf("the writing child ended early: %q %w", line, err)
	}
	return nil
}

func (c *config) store() string { return filepath.Join(c.dir, "store") }

// write opens the store, writes, says so, and waits to be killed.
func (c *config) write(out io.Writer) error {
	db, err := engine.Open(c.store(), nil)
	if err != nil {
		return err
	}
	t, err := db.CreateTable(context.Background(), "t")
	if err != nil {
		return err
	}
	if c.what == "bulk" {
		err = c.bulk(db, t)
	} else {
		err = fillLog(db, t)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ready)
	select {}
}

// bulk inserts all rows in one durable transaction, in key order.
func (c *config) bulk(db *engine.DB, t *engine.Table) error {
	tx, err := db.Begin(context.Background(), engine.TxOptions{})
	if err != nil {
		return err
	}
	var key [8]byte
	value := make([]byte, valueSize)
	for i := range c.rows {
		binary.BigEndian.PutUint64(key[:], uint64(i))
		copy(value, key[:])
		if err := tx.Put(t, key[:], value); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// fillLog updates rows at random in small transactions until a checkpoint is due.
func fillLog(db *engine.DB, t *engine.Table) error {
	var wg sync.WaitGroup
	errs := make([]error, logWriters)
	for w := range logWriters {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			var key [8]byte
			value := make([]byte, valueSize)
			for errs[w] == nil {
				errs[w] = db.Update(context.Background(), func(tx *engine.Tx) error {
					for range 1000 {
						binary.BigEndian.PutUint64(key[:], uint64(w)<<32|rng.Uint64N(logKeys))
						if err := tx.Put(t, key[:], value); err != nil {
							return err
						}
					}
					return nil
				})
				if db.Metrics().LogBytesPending > fullLog {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// open opens the store and tells what that took.
func (c *config) open(out io.Writer) error {
	var info engine.RecoveryInfo
	start := time.Now()
	db, err := engine.Open(c.store(), &engine.Options{Events: &engine.EventListener{
		Recovered: func(i engine.RecoveryInfo) { info = i },
	}})
	if err != nil {
		return err
	}
	took := time.Since(start)
	m := db.Metrics()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: opened in %v; replayed %d transactions, %d rows; listed %d frames again\n",
		c.what, took.Round(time.Millisecond), info.Transactions, info.Rows, info.Frames)
	fmt.Fprintf(out, "record memory peak %d of %d MiB; process peak %d MiB; %d MiB of log, %d MiB in %d runs\n",
		m.RecordMemoryPeak>>20, m.RecordMemoryCap>>20, ru.Maxrss>>10, m.LogBytesPending>>20, m.RunBytes>>20, m.Runs)
	if c.what == "bulk" {
		if err := c.count(db); err != nil {
			return err
		}
	}
	return db.Close()
}

// count makes sure that the first and the last row are there, and a sample between.
func (c *config) count(db *engine.DB) error {
	t, err := db.Table("t")
	if err != nil {
		return err
	}
	return db.View(context.Background(), func(tx *engine.Tx) error {
		var key [8]byte
		for i := int64(0); i < c.rows; i += max(1, c.rows/10_000) {
			for _, at := range []int64{i, c.rows - 1 - i} {
				binary.BigEndian.PutUint64(key[:], uint64(at))
				if _, err := tx.Get(t, key[:]); err != nil {
					return fmt.Errorf("row %d: %w", at, err)
				}
			}
		}
		return nil
	})
}
