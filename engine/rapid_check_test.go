package engine

import (
	"bytes"
	"errors"
	"slices"
	"sort"

	"pgregory.net/rapid"
)

// readable reports whether x may read t, and checks that it may not otherwise.
func (m *machine) readable(x *mtx, t *mtable) bool {
	m.statement(x)
	if t.dropped == 0 || t.dropped > x.snap {
		return true
	}
	m.each(func(s int, _ *DB) {
		if _, err := x.tx[s].Get(t.h[s], []byte("k")); !errors.Is(err, ErrTableNotFound) {
			m.fatalf(s, "tx %d: get from dropped table %s: %v", x.id, t.name, err)
		}
	})
	return false
}

func (m *machine) checkGet(x *mtx, t *mtable, k string) {
	m.t.Helper()
	m.statement(x)
	x.readKey(t, k)
	want, ok := x.get(t, k)
	m.each(func(s int, _ *DB) {
		got, err := x.tx[s].Get(t.h[s], []byte(k))
		if ok && (err != nil || !bytes.Equal(got, want)) {
			m.fatalf(s, "tx %d (snapshot %d): get %s %.20q: %d bytes %.40q %v, want %d bytes %.40q", x.id, x.snap, t.name, k, len(got), got, err, len(want), want)
		}
		if !ok && !errors.Is(err, ErrNotFound) {
			m.fatalf(s, "tx %d (snapshot %d): get %s %.20q: %.40q %v, want it absent", x.id, x.snap, t.name, k, got, err)
		}
	})
}

func (m *machine) checkScan(x *mtx, t *mtable, r Range) {
	m.t.Helper()
	m.statement(x)
	keys, vals := x.view(t, r.From, r.To)
	if r.Reverse {
		slices.Reverse(keys)
		slices.Reverse(vals)
	}
	from, to := string(r.From), string(r.To)
	if r.Limit > 0 && len(keys) >= r.Limit { // what lies behind is not looked at
		keys, vals = keys[:r.Limit], vals[:r.Limit]
		if r.Reverse {
			from = keys[r.Limit-1]
		} else {
			to = keys[r.Limit-1] + "\x00"
		}
	}
	x.read(t, from, to)
	m.each(func(s int, _ *DB) {
		i := 0
		for row, err := range x.tx[s].Scan(t.h[s], r) {
			if err != nil {
				m.fatalf(s, "tx %d: scan %s: %v", x.id, t.name, err)
			}
			if i == len(keys) {
				m.fatalf(s, "tx %d (snapshot %d): scan %s %.20q..%.20q reverse %v: row %.20q too many after %d", x.id, x.snap, t.name, r.From, r.To, r.Reverse, row.Key, i)
			}
			if string(row.Key) != keys[i] || !bytes.Equal(row.Value, vals[i]) {
				m.fatalf(s, "tx %d (snapshot %d): scan %s reverse %v: row %d is %.20q=%.40q, want %.20q=%.40q", x.id, x.snap, t.name, r.Reverse, i, row.Key, row.Value, keys[i], vals[i])
			}
			i++
		}
		if i != len(keys) {
			m.fatalf(s, "tx %d (snapshot %d): scan %s %.20q..%.20q reverse %v: %d rows, want %d; %.20q is missing", x.id, x.snap, t.name, r.From, r.To, r.Reverse, i, len(keys), keys[i])
		}
	})
}

// checkSnapshots reads everything in every open transaction.
func (m *machine) checkSnapshots() {
	reverse := rapid.Bool().Draw(m.t, "reverse")
	for _, x := range m.txs {
		for _, t := range m.tables {
			if m.readable(x, t) {
				m.checkScan(x, t, Range{})
				m.checkScan(x, t, Range{Reverse: true})
				m.checkIndexes(x, t, reverse)
			}
		}
	}
}

// compare reads everything by scan and by key.
func (m *machine) compare() {
	m.begin(TxOptions{ReadOnly: true})
	x := m.txs[0]
	for _, t := range m.tables {
		m.checkScan(x, t, Range{})
		m.checkScan(x, t, Range{Reverse: true})
		for k := range t.recs {
			m.checkGet(x, t, k)
		}
		m.checkIndexes(x, t, false)
		m.checkIndexes(x, t, true)
	}
	m.rollback(x)
	m.checkEntries()
}

// moving is what a Cursor and an IndexCursor have in common.
type moving interface {
	First() bool
	Last() bool
	Seek([]byte) bool
	SeekBefore([]byte) bool
	Next() bool
	Prev() bool
	Key() []byte
	Value() []byte
	Err() error
	Close() error
}

// mcursor is an open cursor and where the model has it.
type mcursor struct {
	c        []moving // of each store
	t        *mtable  // where it walks: of a cursor over an index the entries
	ix       *mindex  // nil of a cursor over a table
	from, to []byte
	snap     int
	at       string // the row or entry it stands on, or stood on last
	key      string // of the row
	on       bool
	behind   string // if not on a row: the move that went past the last one in its direction
}

// openCursor opens a cursor and walks it; it stays open.
func (m *machine) openCursor(x *mtx, t *mtable) {
	c := &mcursor{t: t, snap: x.snap}
	c.from, c.to = m.bounds()
	m.each(func(s int, _ *DB) { c.c = append(c.c, x.tx[s].Cursor(t.h[s], Range{From: c.from, To: c.to})) })
	m.keepCursor(x, c)
}

// openIndexCursor opens a cursor over an index.
func (m *machine) openIndexCursor(x *mtx, ix *mindex) {
	c := &mcursor{t: ix.entries, ix: ix, snap: x.snap}
	c.from, c.to = m.indexBounds(ix)
	m.each(func(s int, _ *DB) { c.c = append(c.c, x.tx[s].IndexCursor(ix.h[s], Range{From: c.from, To: c.to})) })
	m.keepCursor(x, c)
}

// keepCursor walks a cursor and keeps it open.
func (m *machine) keepCursor(x *mtx, c *mcursor) {
	if x.cursors = append(x.cursors, c); len(x.cursors) > 3 {
		m.closeCursor(x, x.cursors[0])
	}
	m.walkCursor(x, c)
}

func (m *machine) closeCursor(x *mtx, c *mcursor) {
	m.each(func(s int, _ *DB) { _ = c.c[s].Close() })
	x.cursors = slices.DeleteFunc(x.cursors, func(y *mcursor) bool { return y == c })
}

// walk walks a cursor of x that is open from before.
func (m *machine) walk(x *mtx) {
	if n := len(x.cursors); n > 0 {
		m.walkCursor(x, x.cursors[rapid.IntRange(0, n-1).Draw(m.t, "cursor")])
	}
}

var moveNames = []string{"first", "last", "seek", "before", "next", "prev", "next", "prev", "next", "prev", "write", "write here"}

// walkCursor moves a cursor about, with writes in between.
func (m *machine) walkCursor(x *mtx, c *mcursor) {
	rows := c.t
	if c.ix != nil {
		rows = c.ix.t
	}
	for range rapid.IntRange(1, 12).Draw(m.t, "moves") {
		move := rapid.SampledFrom(moveNames).Draw(m.t, "move")
		k := m.key()
		switch {
		case move == "write here" && c.on:
			m.randomWrite(x, rows, c.key)
		case move == "write" || move == "write here":
			m.randomWrite(x, rows, k)
		case c.ix == nil:
			m.moveCursor(x, c, move, k)
		default:
			if !m.moveIndexCursor(x, c, move, m.indexKey(c.ix)) {
				m.closeCursor(x, c)
				return
			}
		}
	}
}

// target returns the index of the row that a move goes to; none is outside keys.
func (c *mcursor) target(move, k string, keys []string) int {
	switch move {
	case "first":
		return 0
	case "last":
		return len(keys) - 1
	case "seek":
		return sort.SearchStrings(keys, k)
	case "before":
		return sort.SearchStrings(keys, k) - 1
	}
	switch i := sort.SearchStrings(keys, c.at); {
	case !c.on && c.behind == move:
		return -1
	case !c.on && move == "next":
		return 0
	case !c.on:
		return len(keys) - 1
	case move == "prev":
		return i - 1
	case i < len(keys) && keys[i] == c.at:
		return i + 1
	default:
		return i
	}
}

// moveCursor makes one move in every store and checks where it led.
func (m *machine) moveCursor(x *mtx, c *mcursor, move, k string) {
	snap := x.snap
	x.snap = c.snap // at ReadCommitted it may be another one
	keys, vals := x.view(c.t, c.from, c.to)
	x.snap = snap
	i := c.target(move, k, keys)
	on := i >= 0 && i < len(keys)
	c.note(x, move, k, keys, i)
	m.note("tx %d: cursor over %.20q..%.20q of %s from %.20q: %s %.20q", x.id, c.from, c.to, c.t.name, c.at, move, k)
	m.each(func(s int, _ *DB) {
		cur := c.c[s]
		if ok := moveOne(cur, move, k); ok != on || cur.Err() != nil {
			m.fatalf(s, "tx %d (snapshot %d): cursor %s %.20q from %.20q: %v %v, want %v", x.id, x.snap, move, k, c.at, ok, cur.Err(), on)
		}
		if !on {
			return
		}
		if string(cur.Key()) != keys[i] || !bytes.Equal(cur.Value(), vals[i]) {
			m.fatalf(s, "tx %d (snapshot %d): cursor %s %.20q from %.20q: %.20q=%.40q, want %.20q=%.40q", x.id, x.snap, move, k, c.at, cur.Key(), cur.Value(), keys[i], vals[i])
		}
	})
	if c.moved(move, keys, i); c.on {
		c.key = c.at
	}
}

// moveIndexCursor is moveCursor for one over an index. It reports whether the cursor
// can be used any more.
func (m *machine) moveIndexCursor(x *mtx, c *mcursor, move, ik string) bool {
	if c.ix.kind.unique && c.snap < m.clock && x.iso == ReadCommitted && x.wrote[c.ix.t] {
		return false // what it sees and what its transaction has written since may have one key
	}
	snap := x.snap
	x.snap = c.snap
	rows := x.indexed(c.ix, c.from, c.to)
	x.snap = snap
	var places []string
	for _, row := range rows {
		places = append(places, row.at)
	}
	i := c.target(move, place(ik), places)
	on := i >= 0 && i < len(rows)
	may := x.mayRead(c.ix, c.snap)
	m.note("tx %d: cursor over %.20q..%.20q of index %q from %.20q: %s %.20q, may %v", x.id, c.from, c.to, c.ix.kind.name, c.at, move, ik, may)
	failed := 0
	m.each(func(s int, _ *DB) {
		cur := c.c[s]
		ok := moveOne(cur, move, ik)
		if err := cur.Err(); err != nil {
			if failed++; ok || len(may) == 0 || !allowed(err, may) {
				m.fatalf(s, "tx %d (snapshot %d): index cursor %s %.20q from %.20q: %v %v, want %v", x.id, c.snap, move, ik, c.at, ok, err, may)
			}
			return
		}
		if len(may) > 0 && !allowed(nil, may) && !c.on && c.behind != move { // else it need not look
			m.fatalf(s, "tx %d (snapshot %d): index cursor %s %.20q: %v, want %v", x.id, c.snap, move, ik, ok, may)
		}
		if ok != on {
			m.fatalf(s, "tx %d (snapshot %d): index cursor %s %.20q from %.20q: %v, want %v", x.id, c.snap, move, ik, c.at, ok, on)
		}
		if !on {
			return
		}
		if got := indexKeyOf(cur); !rows[i].is(got, cur.Key(), cur.Value()) {
			m.fatalf(s, "tx %d (snapshot %d): index cursor %s %.20q from %.20q: %.20q→%.20q=%.40q, want %.20q→%.20q=%.40q", x.id, c.snap, move, ik, c.at, got, cur.Key(), cur.Value(), rows[i].ik, rows[i].key, rows[i].val)
		}
	})
	m.tally["move"]++
	if failed > 0 {
		m.tally["move: "+brief(may[0])]++
		if failed < len(m.stores) && !allowed(nil, may) {
			m.fatalf(0, "tx %d: index cursor %s %.20q failed in %d stores", x.id, move, ik, failed)
		}
		return false
	}
	c.note(x, move, place(ik), places, i)
	if c.moved(move, places, i); c.on {
		c.key = rows[i].key
		x.readKey(c.ix.t, c.key)
	}
	return true
}

func indexKeyOf(c moving) []byte {
	if ic, ok := c.(*IndexCursor); ok {
		return ic.IndexKey()
	}
	return nil
}

// note notes what a move to row i of keys, or to none, has read.
func (c *mcursor) note(x *mtx, move, k string, keys []string, i int) {
	from, to := c.bounds()
	back := move == "last" || move == "before" || move == "prev"
	switch {
	case to != "" && from >= to, i < 0 && !back: // nothing is read; it had ended
		return
	case move == "seek":
		from = max(from, k)
	case move == "before" && (to == "" || k < to):
		to = k
	case move == "next" && c.on:
		from = c.at + "\x00"
	case move == "prev" && c.on:
		to = c.at
	case move == c.behind:
		return
	}
	if back && i >= 0 {
		from = keys[i]
	}
	if !back && i < len(keys) {
		to = keys[i] + "\x00"
	}
	if to == "" || from < to {
		x.read(c.t, from, to)
	}
}

// bounds are the bounds of the rows or entries that it walks; to "" is open.
func (c *mcursor) bounds() (from, to string) {
	if c.ix != nil {
		return placed(c.from, c.to)
	}
	return string(c.from), string(c.to)
}

// moveOne makes one move of a cursor.
func moveOne(c moving, move, k string) bool {
	switch move {
	case "first":
		return c.First()
	case "last":
		return c.Last()
	case "seek":
		return c.Seek([]byte(k))
	case "before":
		return c.SeekBefore([]byte(k))
	case "next":
		return c.Next()
	default:
		return c.Prev()
	}
}

// moved notes that a move led to row i of keys, or to none.
func (c *mcursor) moved(move string, keys []string, i int) {
	if c.on = i >= 0 && i < len(keys); c.on {
		c.at = keys[i]
	}
	c.behind = "next"
	if move == "last" || move == "before" || move == "prev" {
		c.behind = "prev"
	}
}
