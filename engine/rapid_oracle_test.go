package engine

import (
	"context"
	"maps"
	"slices"
	"sort"

	"github.com/sakerdb/saker/recordcache"
)

// The model: every committed version of every record, and for each open
// transaction its snapshot and its own writes. It knows nothing of memory, leaves
// or files.

// mver is a committed version; a nil value without lock is a deletion.
type mver struct {
	ts   int
	val  []byte
	lock bool // a lock alone: conflicts, changes nothing
}

type mtable struct {
	name    string
	h       []*Table // of each store
	recs    map[string][]mver
	dropped int // clock of the drop, 0 while it lives
	last    uint64
	indexes []*mindex
}

// mown is what a transaction did to a record.
type mown struct {
	written bool
	val     []byte // nil: deleted
}

type mkey struct {
	t *mtable
	k string
}

type mtx struct {
	tx       []*Tx // of each store
	ctx      *switchCtx
	id       int
	iso      Isolation
	snap     int // at ReadCommitted that of the latest statement
	readOnly bool
	noSync   bool
	own      map[mkey]mown
	sps      []msp
	wrote    map[*mtable]bool
	cursors  []*mcursor

	// Of a serializable transaction that may write.
	reads  []mread
	tried  bool // a statement got as far as to make it a writer
	writes int  // statements that wrote, and rollbacks to savepoints
	doubt  bool // a statement failed that may have begun to write

	client bool // it ends before anybody else does anything
}

// mread is a range of keys [from, to) that was read; to "" is open.
type mread struct {
	t        *mtable
	from, to string
}

type msp struct {
	sp  []Savepoint // of each store
	own map[mkey]mown
}

// newest returns the value at a snapshot.
func newest(vs []mver, snap int) (val []byte, ok bool) {
	for _, v := range slices.Backward(vs) {
		if v.ts <= snap && !v.lock {
			return v.val, v.val != nil
		}
	}
	return nil, false
}

// get is what x sees of a record.
func (x *mtx) get(t *mtable, k string) ([]byte, bool) {
	if o, ok := x.own[mkey{t, k}]; ok && o.written {
		return o.val, o.val != nil
	}
	return newest(t.recs[k], x.snap)
}

// view is what x sees of a range, ascending.
func (x *mtx) view(t *mtable, from, to []byte) (keys []string, vals [][]byte) {
	seen := func(k string) bool {
		return k >= string(from) && (to == nil || k < string(to))
	}
	for k := range t.recs {
		if _, ok := x.get(t, k); ok && seen(k) {
			keys = append(keys, k)
		}
	}
	for mk := range x.own {
		if mk.t != t || !seen(mk.k) {
			continue
		}
		if _, ok := t.recs[mk.k]; ok {
			continue
		}
		if _, ok := x.get(t, mk.k); ok {
			keys = append(keys, mk.k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		v, _ := x.get(t, k)
		vals = append(vals, v)
	}
	return keys, vals
}

// at is the table as of a clock.
func (t *mtable) at(ts int) map[string][]byte {
	rows := map[string][]byte{}
	for k, vs := range t.recs {
		if v, ok := newest(vs, ts); ok {
			rows[k] = v
		}
	}
	return rows
}

// forget drops what was committed after ts.
func (t *mtable) forget(ts int) {
	for k, vs := range t.recs {
		t.recs[k] = slices.DeleteFunc(vs, func(v mver) bool { return v.ts > ts })
	}
}

// other reports whether another open transaction has changed or locked the record.
func (m *machine) other(x *mtx, mk mkey) bool {
	for _, y := range m.txs {
		if _, ok := y.own[mk]; ok && y != x {
			return true
		}
	}
	return false
}

// predict returns the errors that a write may have; nil is success. If the record
// is another open transaction's, the write would wait: a store that finds out at
// once that it would be a conflict after the wait may say so instead.
func (m *machine) predict(x *mtx, t *mtable, mode recordcache.Mode, k string) (may []error, waits bool) {
	mk := mkey{t, k}
	switch {
	case t.dropped != 0 && x.readOnly:
		return []error{ErrTableNotFound, ErrReadOnly}, false
	case t.dropped != 0:
		x.tried = x.tried || t.dropped > x.snap
		return []error{ErrTableNotFound}, false
	case x.readOnly:
		return []error{ErrReadOnly}, false
	}
	x.wrote[t], x.tried = true, true // which is enough for DropTable to wait
	vs := t.recs[k]
	conflict := len(vs) > 0 && vs[len(vs)-1].ts > x.snap // never at ReadCommitted
	if m.other(x, mk) {
		if may = []error{context.Canceled}; conflict {
			may = append(may, ErrConflict)
		}
		return may, true
	}
	if _, mine := x.own[mk]; conflict && !mine {
		return []error{ErrConflict}, false
	}
	_, exists := x.get(t, k)
	switch {
	case mode == recordcache.ModeInsert && exists:
		return []error{ErrKeyExists}, false
	case (mode == recordcache.ModeUpdate || mode == recordcache.ModeDelete) && !exists:
		return []error{ErrNotFound}, false
	}
	return []error{nil}, false
}

// statement begins a statement of x.
func (m *machine) statement(x *mtx) {
	if x.iso == ReadCommitted {
		x.snap = m.clock
	}
}

// read notes that x has read [from, to).
func (x *mtx) read(t *mtable, from, to string) {
	if x.iso == Serializable && !x.readOnly {
		x.reads = append(x.reads, mread{t, from, to})
	}
}

func (x *mtx) readKey(t *mtable, k string) { x.read(t, k, k+"\x00") }

// unserializable reports whether x, which is about to commit, has read what others
// have changed since. One of which no write remains takes place at its snapshot; if it is
// in doubt whether it has, it may be refused.
func (x *mtx) unserializable() (refused, doubt bool) {
	wrote := false
	for _, o := range x.own {
		wrote = wrote || o.written // what was rolled back, and locks, do not count
	}
	if !x.tried || !wrote && !x.doubt {
		return false, false
	}
	stale := slices.ContainsFunc(x.reads, func(r mread) bool {
		if r.t.dropped != 0 && !x.wrote[r.t] {
			return true
		}
		for k, vs := range r.t.recs {
			if k >= r.from && (r.to == "" || k < r.to) && slices.ContainsFunc(vs, func(v mver) bool { return v.ts > x.snap && !v.lock }) {
				return true
			}
		}
		return false
	})
	return stale && wrote, stale
}

// publish makes what x did committed.
func (m *machine) publish(x *mtx) {
	if len(x.own) == 0 {
		return
	}
	m.clock++
	for mk, o := range x.own {
		mk.t.recs[mk.k] = append(mk.t.recs[mk.k], mver{ts: m.clock, val: o.val, lock: !o.written})
	}
	if !x.noSync {
		m.durable = m.clock // and all before it (L2)
	}
}

// rollbackTo goes back to the savepoint at i of x.
func (x *mtx) rollbackTo(i int) {
	x.own = maps.Clone(x.sps[i].own)
	x.sps = x.sps[:i+1]
}
