package main

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// fault is one way in which fakeDisk is wrong. The harness must find each.
type fault string

const (
	faultNone          fault = ""
	faultLostRow       fault = "a row is lost at commit"
	faultLostUpdate    fault = "an update does nothing"
	faultDirtyRead     fault = "uncommitted rows are visible to others"
	faultUndead        fault = "rollback to a savepoint does nothing"
	faultInnerMark     fault = "a savepoint inside a rolled-back one stays"
	faultReopenLoses   fault = "the last key is gone after a reopen"
	faultReopenChanges fault = "a value differs after a reopen"
	faultReverse       fault = "a reverse scan goes forward"
	faultUnstable      fault = "an old snapshot sees later commits"
	faultOverwrite     fault = "insert overwrites"
	faultTorn          fault = "one byte of a value changes in scans"
	faultTwice         fault = "a scan returns a row twice"
	faultPeak          fault = "record memory exceeds its cap"
	faultBystander     fault = "an idle transaction loses an update"
	faultCommitFails   fault = "commit returns an error"
	faultKeepsRows     fault = "rollback commits"
	faultKeepsFile     fault = "rollback leaves a run file"
	faultKeepsMemory   fault = "rollback leaves record memory in use"
	faultKeepsTemp     fault = "rollback leaves a temp table"
)

var errFake = errors.New("fake: failure asked for")

// fakeDisk is what survives a close of the fake store: every version ever
// committed, by table, key and timestamp.
type fakeDisk struct {
	fault fault

	mu     sync.Mutex
	clock  int
	tables [tableCount]map[string][]fakeVersion
	live   map[*fakeTxn]bool
	left   bool // something of a rollback stays
}

type fakeVersion struct {
	ts    int
	value []byte
}

func newFakeDisk(f fault) *fakeDisk {
	d := &fakeDisk{fault: f, live: map[*fakeTxn]bool{}}
	for t := range d.tables {
		d.tables[t] = map[string][]fakeVersion{}
	}
	return d
}

// open is the opener.
func (d *fakeDisk) open(_ context.Context, dir string, _ *config) (store, error) {
	if d.clock > 0 {
		d.damage()
	}
	return &fakeStore{d: d, dir: dir}, nil
}

func (d *fakeDisk) damage() {
	rows := d.tables[tableRows]
	keys := slices.Sorted(maps.Keys(rows))
	if len(keys) == 0 {
		return
	}
	last := keys[len(keys)-1]
	switch d.fault { //nolint:exhaustive // the others do no harm here
	case faultReopenLoses:
		delete(rows, last)
	case faultReopenChanges:
		versions := rows[last]
		versions[len(versions)-1].value = []byte("damaged")
	}
}

type fakeStore struct {
	d   *fakeDisk
	dir string
}

func (s *fakeStore) begin(_ context.Context, readOnly bool) (txn, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	x := &fakeTxn{d: s.d, dir: s.dir, snapshot: s.d.clock, readOnly: readOnly}
	for t := range x.writes {
		x.writes[t] = map[string][]byte{}
	}
	s.d.live[x] = true
	return x, nil
}

func (s *fakeStore) gauges() gauges {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	g := gauges{recordMemoryCap: 1000, recordMemoryPeak: 1000, activeTransactions: int64(len(s.d.live))}
	if s.d.fault == faultPeak {
		g.recordMemoryPeak++
	}
	if s.d.left && s.d.fault == faultKeepsMemory {
		g.recordMemoryUsed = 1
	}
	if s.d.left && s.d.fault == faultKeepsTemp {
		g.tempTables = 1
	}
	return g
}

func (s *fakeStore) close() error { return nil }

// fakeTxn keeps its writes, and a copy of them per savepoint.
type fakeTxn struct {
	d        *fakeDisk
	dir      string
	snapshot int
	readOnly bool
	writes   [tableCount]map[string][]byte
	marks    []fakeMark
	lastMark int
}

type fakeMark struct {
	id    int
	saved [tableCount]map[string][]byte
}

// visible is what the transaction sees of a key, under d.mu.
func (x *fakeTxn) visible(t tableID, key string) ([]byte, bool) {
	if v, ok := x.writes[t][key]; ok {
		return v, true
	}
	if x.d.fault == faultDirtyRead && x.readOnly {
		for y := range x.d.live {
			if v, ok := y.writes[t][key]; ok {
				return v, true
			}
		}
	}
	versions := x.d.tables[t][key]
	for _, v := range slices.Backward(versions) {
		if v.ts <= x.snapshot || x.d.fault == faultUnstable {
			return v.value, true
		}
	}
	return nil, false
}

func (x *fakeTxn) get(dst []byte, t tableID, key []byte) ([]byte, error) {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	v, ok := x.visible(t, string(key))
	if !ok {
		return dst, errNotFound
	}
	return append(dst, v...), nil
}

func (x *fakeTxn) put(t tableID, key, value []byte) error {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	_, exists := x.visible(t, string(key))
	lost := x.d.fault == faultLostUpdate && t == tableRows ||
		x.d.fault == faultBystander && t == tableBystander && key[7] == 122
	if exists && lost {
		return nil
	}
	x.writes[t][string(key)] = bytes.Clone(value)
	return nil
}

func (x *fakeTxn) insert(t tableID, key, value []byte) error {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if _, ok := x.visible(t, string(key)); ok && x.d.fault != faultOverwrite {
		return errKeyExists
	}
	x.writes[t][string(key)] = bytes.Clone(value)
	return nil
}

func (x *fakeTxn) update(t tableID, key, value []byte) error {
	x.d.mu.Lock()
	_, ok := x.visible(t, string(key))
	x.d.mu.Unlock()
	if !ok {
		return errNotFound
	}
	return x.put(t, key, value)
}

type fakeRow struct{ key, value []byte }

// rows lists what the transaction sees of a range.
func (x *fakeTxn) rows(t tableID, from, to []byte) []fakeRow {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	keys := map[string]bool{}
	for k := range x.d.tables[t] {
		keys[k] = true
	}
	for y := range x.d.live {
		for k := range y.writes[t] {
			keys[k] = true
		}
	}
	var rows []fakeRow
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if k < string(from) || (to != nil && k >= string(to)) {
			continue
		}
		if v, ok := x.visible(t, k); ok {
			rows = append(rows, fakeRow{[]byte(k), bytes.Clone(v)})
		}
	}
	return rows
}

func (x *fakeTxn) scan(t tableID, from, to []byte, reverse bool, fn func(key, value []byte) bool) error {
	rows := x.rows(t, from, to)
	if reverse && x.d.fault != faultReverse {
		slices.Reverse(rows)
	}
	for i, row := range rows {
		switch {
		case i != len(rows)/2:
		case x.d.fault == faultTorn && len(row.value) > 0:
			row.value[len(row.value)-1] ^= 1
		case x.d.fault == faultTwice && t == tableRows:
			if !fn(row.key, row.value) {
				return nil
			}
		}
		if !fn(row.key, row.value) {
			return nil
		}
	}
	return nil
}

func (x *fakeTxn) savepoint() (mark, error) {
	x.lastMark++
	m := fakeMark{id: x.lastMark}
	for t := range x.writes {
		m.saved[t] = maps.Clone(x.writes[t])
	}
	x.marks = append(x.marks, m)
	return m.id, nil
}

func (x *fakeTxn) find(m mark) int {
	return slices.IndexFunc(x.marks, func(f fakeMark) bool { return f.id == m })
}

func (x *fakeTxn) rollbackTo(m mark) error {
	i := x.find(m)
	if i < 0 {
		return errSavepointNotFound
	}
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if x.d.fault != faultUndead {
		for t := range x.writes {
			x.writes[t] = maps.Clone(x.marks[i].saved[t])
		}
	}
	if x.d.fault != faultInnerMark {
		x.marks = x.marks[:i+1]
	}
	return nil
}

func (x *fakeTxn) release(m mark) error {
	i := x.find(m)
	if i < 0 {
		return errSavepointNotFound
	}
	x.marks = x.marks[:i]
	return nil
}

func (x *fakeTxn) commit() error {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if x.d.fault == faultCommitFails && len(x.writes[tableRows]) > 0 {
		return errFake
	}
	delete(x.d.live, x)
	x.d.clock++
	for t, writes := range x.writes {
		for k, v := range writes {
			x.d.tables[t][k] = append(x.d.tables[t][k], fakeVersion{x.d.clock, v})
		}
	}
	if x.d.fault == faultLostRow {
		for k := range x.writes[tableRows] {
			delete(x.d.tables[tableRows], k)
			break
		}
	}
	return nil
}

func (x *fakeTxn) rollback() error {
	wrote := len(x.writes[tableRows]) > 0
	if wrote && x.d.fault == faultKeepsRows {
		return x.commit()
	}
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	delete(x.d.live, x)
	if wrote {
		x.d.left = true
		if x.d.fault == faultKeepsFile {
			return os.WriteFile(filepath.Join(x.dir, "1.run"), nil, 0o644)
		}
	}
	return nil
}
