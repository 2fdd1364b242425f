package engine

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// reopen closes the stores under their open transactions.
func (m *machine) reopen() {
	m.note("reopen")
	txs := m.txs
	m.txs, m.done, m.filler = nil, nil, nil
	m.each(func(s int, db *DB) {
		if err := db.Close(); err != nil {
			m.fatalf(s, "close: %v", err)
		}
		for _, x := range txs {
			if err := x.tx[s].Commit(); !errors.Is(err, ErrClosed) {
				m.fatalf(s, "tx %d: commit after close: %v", x.id, err)
			}
		}
		m.open(s)
	})
	m.durable = m.clock
	m.abortBuilds()
	m.opened(false)
}

// open opens a store.
func (m *machine) open(s int) {
	m.t.Helper()
	st := m.stores[s]
	db, err := Open("db", st.o)
	if err != nil {
		m.t.Fatalf("step %d, %s store: open: %v", m.n, st.name, err)
	}
	st.db = db
	db.m.ReadSpans = st.spans
	db.cache.AlwaysWhole.Store(st.whole)
	checkStore(m.t, db)
}

// opened checks the catalogs of stores that were all opened anew, and gives indexes
// their functions, with attach all of them.
func (m *machine) opened(attach bool) {
	m.tables = slices.DeleteFunc(m.tables, func(t *mtable) bool { return t.dropped != 0 })
	var names []string
	for _, t := range m.tables {
		names = append(names, t.name)
		t.h = make([]*Table, len(m.stores))
	}
	names = append(names, fillerName)
	sort.Strings(names)
	m.each(func(s int, db *DB) {
		if got := db.Tables(); !slices.Equal(got, names) {
			m.fatalf(s, "tables %v, want %v", got, names)
		}
		for _, t := range m.tables {
			h, err := db.Table(t.name)
			if err != nil {
				m.fatalf(s, "table %s: %v", t.name, err)
			}
			t.h[s] = h
		}
	})
	for _, t := range m.tables {
		m.openedIndexes(t, attach)
	}
}

// crash crashes every store at the same operation. What was durable is there, of
// what was not the newest may be gone, whole and in order; how much, each store
// decides by itself. Those that lost more are then given what the others have.
func (m *machine) crash() {
	m.note("crash, durable %d of %d", m.durable, m.clock)
	m.txs, m.done, m.filler = nil, nil, nil
	m.tables = liveTables(m.tables)
	kept := make([]int, len(m.stores))
	for s, st := range m.stores {
		percent := rapid.SampledFrom([]int{0, 50, 100}).Draw(m.t, "unsynced")
		seed := rapid.Uint64().Draw(m.t, "seed")
		clone := st.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 1))})
		if err := st.db.Close(); err != nil {
			m.fatalf(s, "close: %v", err)
		}
		st.fs, st.o.FS = clone, clone
		m.open(s)
	}
	m.abortBuilds()
	m.opened(true)
	for s := range m.stores {
		kept[s] = m.survived(s)
	}
	m.note("survived: %v", kept)
	top := m.durable
	for _, ts := range kept {
		top = max(top, ts)
	}
	for s, ts := range kept {
		m.redo(s, ts, top)
	}
	for _, t := range m.tables {
		t.forget(top)
		for _, ix := range t.indexes {
			ix.entries.forget(top)
		}
	}
	m.durable, m.clock = top, top // recovery makes durable what it finds
}

func liveTables(ts []*mtable) (live []*mtable) {
	for _, t := range ts {
		if t.dropped == 0 {
			live = append(live, t)
		}
	}
	return live
}

// survived returns the clock whose state the store has.
func (m *machine) survived(s int) int {
	m.t.Helper()
	has := make([]map[string][]byte, len(m.tables))
	inView(m.t, m.stores[s].db, func(tx *Tx) {
		for i, t := range m.tables {
			has[i] = map[string][]byte{}
			for row, err := range tx.Scan(t.h[s], Range{}) {
				if err != nil {
					m.fatalf(s, "scan %s: %v", t.name, err)
				}
				has[i][string(row.Key)] = bytes.Clone(row.Value)
			}
		}
	})
	for ts := m.clock; ts >= m.durable; ts-- {
		if m.isStateAt(ts, has) {
			return ts
		}
	}
	for ts := m.durable - 1; ts >= 0; ts-- {
		if m.isStateAt(ts, has) {
			m.fatalf(s, "after a crash the state is that of clock %d, but %d was durable", ts, m.durable)
		}
	}
	for i, t := range m.tables {
		m.t.Logf("%s: %s", t.name, diff(t.at(m.clock), has[i]))
	}
	m.fatalf(s, "after a crash the state is none of %d to %d", m.durable, m.clock)
	return 0
}

func (m *machine) isStateAt(ts int, has []map[string][]byte) bool {
	for i, t := range m.tables {
		if !maps.EqualFunc(t.at(ts), has[i], bytes.Equal) {
			return false
		}
	}
	return true
}

// redo brings a store from the state of one clock to that of a later one.
func (m *machine) redo(s, from, to int) {
	m.t.Helper()
	if from == to {
		return
	}
	inUpdate(m.t, m.stores[s].db, func(tx *Tx) {
		for _, t := range m.tables {
			old, want := t.at(from), t.at(to)
			for k, v := range old { // keys of unique indexes are free then
				if w, ok := want[k]; !ok || !bytes.Equal(v, w) {
					if err := tx.Delete(t.h[s], []byte(k)); err != nil {
						m.fatalf(s, "redo: %v", err)
					}
				}
			}
			for k, v := range want {
				if o, ok := old[k]; !ok || !bytes.Equal(o, v) {
					if err := tx.Put(t.h[s], []byte(k), v); err != nil {
						m.fatalf(s, "redo: %v", err)
					}
				}
			}
		}
	})
}
