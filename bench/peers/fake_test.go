package main

import (
	"cmp"
	"errors"
	"iter"
	"slices"
	"sync"
)

// fake is a store in memory, with faults. What was put outlives close, by dir.
type fake struct {
	disk   *fakeDisk
	fault  string
	closed bool
}

type fakeDisk struct {
	mu      sync.Mutex
	rows    map[string][]byte
	puts    int
	updates int
}

// fakes returns an opener of stores with the fault.
func fakes(fault string) opener {
	var mu sync.Mutex
	disks := make(map[string]*fakeDisk)
	return func(dir string, _ int64) (store, error) {
		mu.Lock()
		defer mu.Unlock()
		d := disks[dir]
		if d == nil {
			d = &fakeDisk{rows: make(map[string][]byte)}
			disks[dir] = d
		} else if fault == "loses a row when closed" {
			for k := range d.rows {
				delete(d.rows, k)
				break
			}
		}
		return &fake{disk: d, fault: fault}, nil
	}
}

var errFake = errors.New("out of order")

func (s *fake) put(key, value []byte) error {
	d := s.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.puts++
	value = slices.Clone(value)
	if d.puts == 3 {
		switch s.fault {
		case "fails":
			return errFake
		case "loses a row":
			return nil
		case "adds a row":
			d.rows["12345678"] = value
		case "adds a key of another length":
			d.rows["1234567"] = value
		case "changes a value":
			value[7]++
		case "cuts a value":
			value = value[:7]
		}
	}
	d.rows[string(key)] = value
	return nil
}

func (s *fake) load(rows iter.Seq2[[]byte, []byte]) error {
	for k, v := range rows {
		if err := s.put(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *fake) update(key, buf []byte, change func([]byte)) error {
	d := s.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.updates++
	v := append(buf[:0], d.rows[string(key)]...)
	change(v)
	if d.updates != 3 || s.fault != "loses an update" {
		d.rows[string(key)] = slices.Clone(v)
	}
	return nil
}

func (s *fake) view(fn func(getter) error) error {
	return fn(func(dst, key []byte) ([]byte, error) {
		s.disk.mu.Lock()
		defer s.disk.mu.Unlock()
		v, ok := s.disk.rows[string(key)]
		if !ok {
			return dst, errMissing
		}
		return append(dst, v...), nil
	})
}

func (s *fake) scan(fn func(k, v []byte) error) error {
	type kv struct {
		k string
		v []byte
	}
	var all []kv
	for k, v := range s.disk.rows {
		all = append(all, kv{k, v})
	}
	slices.SortFunc(all, func(a, b kv) int { return cmp.Compare(a.k, b.k) })
	switch s.fault {
	case "scans a row twice":
		all = slices.Insert(all, 1, all[0])
	case "scans backward":
		slices.Reverse(all)
	}
	for _, r := range all {
		if err := fn([]byte(r.k), r.v); err != nil {
			return err
		}
	}
	return nil
}

func (s *fake) close() error {
	if s.closed {
		return errors.New("closed twice")
	}
	s.closed = true
	return nil
}
