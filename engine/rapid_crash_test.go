package engine

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

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
	m.opened()
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
			for k := range old {
				if _, ok := want[k]; !ok {
					if err := tx.Delete(t.h[s], []byte(k)); err != nil && !errors.Is(err, ErrNotFound) {
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
