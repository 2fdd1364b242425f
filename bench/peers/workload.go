package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// workload is something that every store is made to do.
type workload struct {
	name string
	// concurrent: a cell for each of -goroutines; else for one goroutine only.
	concurrent bool
	// start prepares one store in a directory of its own.
	start func(e env) (session, error)
}

// session is one store under one workload.
type session interface {
	// cell does the work once and measures it.
	cell(goroutines int) (sample, error)
	// finish closes the store, opens it again and verifies what it holds.
	finish() error
}

// env is what a session works with.
type env struct {
	c    *config
	open opener
	dir  string
}

// sample is the result of one cell.
type sample struct {
	ops     uint64
	seconds float64
	lat     latencies // empty if single operations are not timed
}

var workloads = []workload{
	{"commits", true, startCommits},
	{"load-key", false, func(e env) (session, error) { return &loads{env: e, order: inOrder}, nil }},
	{"load-random", false, func(e env) (session, error) { return &loads{env: e, order: atRandom}, nil }},
	{"get", true, startGets},
	{"update", true, startUpdates},
}

// together runs fn in n goroutines until it fails or the time is over, and joins
// what they measured. fn is told when to stop.
func together(n int, d time.Duration, fn func(g int, over func() bool, s *sample) error) (sample, error) {
	parts, errs := make([]sample, n), make([]error, n)
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(d)
	for g := range n {
		wg.Go(func() {
			errs[g] = fn(g, func() bool { return !time.Now().Before(end) }, &parts[g])
		})
	}
	wg.Wait()
	sum := sample{seconds: time.Since(start).Seconds()}
	for i := range parts {
		sum.ops += parts[i].ops
		sum.lat.merge(&parts[i].lat)
	}
	return sum, errors.Join(errs...)
}

// reopen closes s and opens the store again.
func (e *env) reopen(s store) (store, error) {
	if err := s.close(); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	return e.open(e.dir, e.c.memory)
}

// check opens the store again, verifies the rows and removes it.
func (e *env) check(s store, l *ledger) error {
	s, err := e.reopen(s)
	if err != nil {
		return err
	}
	return errors.Join(l.verify(s), s.close(), os.RemoveAll(e.dir))
}

// kept is a store that stays open over all rounds, as it would in a program: its log
// and its caches get into their stride once.
type kept struct {
	env
	s      store
	ledger ledger
}

// warmed runs the workload before anything is measured: first segments, first
// memtables, what was loaded gets into the caches, its checkpoint passes.
func (k *kept) warmed(w session, run func(int, time.Duration) (sample, error)) (session, error) {
	if _, err := run(1, k.c.warm); err != nil {
		return nil, errors.Join(err, k.s.close())
	}
	return w, nil
}

func (k *kept) finish() error { return k.check(k.s, &k.ledger) }

// commits are durable transactions of one new row each, at random keys.
type commits struct{ kept }

func startCommits(e env) (session, error) {
	s, err := e.open(e.dir, e.c.memory)
	if err != nil {
		return nil, err
	}
	w := &commits{kept{env: e, s: s, ledger: ledger{order: atRandom, valueSize: e.c.valueSize}}}
	return w.warmed(w, w.run)
}

func (w *commits) cell(goroutines int) (sample, error) {
	if _, err := w.run(goroutines, w.c.warm/8); err != nil {
		return sample{}, err
	}
	return w.run(goroutines, w.c.cell)
}

func (w *commits) run(goroutines int, d time.Duration) (sample, error) {
	if t, ok := w.s.(tuner); ok {
		t.tune(goroutines)
	}
	base := len(w.ledger.counts)
	w.ledger.counts = append(w.ledger.counts, make([]uint64, goroutines)...)
	return together(goroutines, d, func(g int, over func() bool, s *sample) error {
		r := newRow(w.c.valueSize)
		for !over() {
			r.set(atRandom, uint64(base+g)<<idBits|s.ops)
			start := time.Now()
			if err := w.s.put(r.key, r.value); err != nil {
				return err
			}
			s.lat.add(time.Since(start))
			s.ops++
			w.ledger.counts[base+g] = s.ops
		}
		return nil
	})
}

// loads are transactions of -rows rows, each into a new store.
type loads struct {
	env
	order order
	n     int
}

func (w *loads) cell(int) (sample, error) {
	e := w.env
	w.n++
	e.dir = filepath.Join(w.dir, fmt.Sprint(w.n))
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return sample{}, err
	}
	s, err := e.open(e.dir, e.c.memory)
	if err != nil {
		return sample{}, err
	}
	l := ledger{order: w.order, valueSize: e.c.valueSize, counts: []uint64{e.c.rows}}
	start := time.Now()
	if err := s.load(l.rows(0, e.c.rows)); err != nil {
		return sample{}, errors.Join(err, s.close())
	}
	took := time.Since(start).Seconds()
	return sample{ops: e.c.rows, seconds: took}, e.check(s, &l)
}

func (w *loads) finish() error { return os.RemoveAll(w.dir) }

// loaded opens the store and loads -rows rows.
func loaded(e env) (kept, error) {
	s, err := e.open(e.dir, e.c.memory)
	if err != nil {
		return kept{}, err
	}
	l := ledger{order: atRandom, valueSize: e.c.valueSize, counts: []uint64{e.c.rows}}
	if err := s.load(l.rows(0, e.c.rows)); err != nil {
		return kept{}, errors.Join(err, s.close())
	}
	return kept{e, s, l}, nil
}

// gets are reads at random of -rows rows, loaded once, each goroutine in one
// snapshot for a cell. The value of each is compared.
type gets struct{ kept }

func startGets(e env) (session, error) {
	k, err := loaded(e)
	if err != nil {
		return nil, err
	}
	w := &gets{k}
	return w.warmed(w, w.run)
}

func (w *gets) cell(goroutines int) (sample, error) { return w.run(goroutines, w.c.cell) }

// getsPerLook is how many reads pass between two looks at the clock.
const getsPerLook = 256

func (w *gets) run(goroutines int, d time.Duration) (sample, error) {
	return together(goroutines, d, func(_ int, over func() bool, s *sample) error {
		r := newRow(w.c.valueSize)
		buf := make([]byte, 0, w.c.valueSize)
		return w.s.view(func(get getter) error {
			for !over() {
				for range getsPerLook {
					r.set(atRandom, rand.Uint64N(w.c.rows))
					v, err := get(buf, r.key)
					if err != nil {
						return err
					}
					if !bytes.Equal(v, r.value) {
						return fmt.Errorf("key %x has a value of another row", r.key)
					}
				}
				s.ops += getsPerLook
			}
			return nil
		})
	})
}

// updates are transactions that read a row at random, of -rows rows loaded once, and
// write it with the number in it one higher. They are not synced. In the end each row
// must have been updated as often as its updates were acknowledged.
type updates struct{ kept }

func startUpdates(e env) (session, error) {
	k, err := loaded(e)
	if err != nil {
		return nil, err
	}
	w := &updates{k}
	w.ledger.updates = make([]atomic.Uint32, e.c.rows)
	if r, ok := w.s.(relaxer); ok {
		if err := r.relax(); err != nil {
			return nil, errors.Join(err, w.s.close())
		}
	}
	return w.warmed(w, w.run)
}

func (w *updates) cell(goroutines int) (sample, error) { return w.run(goroutines, w.c.cell) }

// updatesPerLook is how many updates pass between two looks at the clock.
const updatesPerLook = 16

func (w *updates) run(goroutines int, d time.Duration) (sample, error) {
	return together(goroutines, d, func(_ int, over func() bool, s *sample) error {
		key, buf := make([]byte, 8), make([]byte, w.c.valueSize)
		change := func(v []byte) { bump(v, 1) }
		rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
		for !over() {
			for range updatesPerLook {
				id := rng.Uint64N(w.c.rows)
				binary.BigEndian.PutUint64(key, atRandom.key(id))
				if err := w.s.update(key, buf, change); err != nil {
					return err
				}
				w.ledger.updates[id].Add(1)
			}
			s.ops += updatesPerLook
		}
		return nil
	})
}
