package engine

import (
	"bytes"
	"errors"
	"slices"
	"sort"

	"pgregory.net/rapid"
)

// readable reports whether x may read t, and checks that it may not otherwise.
func (m *model) readable(x *mtx, t *mtable) bool {
	if t.dropped == 0 || t.dropped > x.snap {
		return true
	}
	if _, err := x.tx.Get(t.h, []byte("k")); !errors.Is(err, ErrTableNotFound) {
		m.fatalf("tx %d: get from dropped table %s: %v", x.id, t.name, err)
	}
	return false
}

func (m *model) checkGet(x *mtx, t *mtable, k string) {
	m.t.Helper()
	want, ok := x.get(t, k)
	got, err := x.tx.Get(t.h, []byte(k))
	if ok && (err != nil || !bytes.Equal(got, want)) {
		m.fatalf("tx %d (snapshot %d): get %s %.20q: %d bytes %.40q %v, want %d bytes %.40q", x.id, x.snap, t.name, k, len(got), got, err, len(want), want)
	}
	if !ok && !errors.Is(err, ErrNotFound) {
		m.fatalf("tx %d (snapshot %d): get %s %.20q: %.40q %v, want it absent", x.id, x.snap, t.name, k, got, err)
	}
}

func (m *model) checkScan(x *mtx, t *mtable, r Range) {
	m.t.Helper()
	keys, vals := x.view(t, r.From, r.To)
	if r.Reverse {
		slices.Reverse(keys)
		slices.Reverse(vals)
	}
	if r.Limit > 0 && len(keys) > r.Limit {
		keys, vals = keys[:r.Limit], vals[:r.Limit]
	}
	i := 0
	for row, err := range x.tx.Scan(t.h, r) {
		if err != nil {
			m.fatalf("tx %d: scan %s: %v", x.id, t.name, err)
		}
		if i == len(keys) {
			m.fatalf("tx %d (snapshot %d): scan %s %.20q..%.20q reverse %v: row %.20q too many after %d", x.id, x.snap, t.name, r.From, r.To, r.Reverse, row.Key, i)
		}
		if string(row.Key) != keys[i] || !bytes.Equal(row.Value, vals[i]) {
			m.fatalf("tx %d (snapshot %d): scan %s reverse %v: row %d is %.20q=%.40q, want %.20q=%.40q", x.id, x.snap, t.name, r.Reverse, i, row.Key, row.Value, keys[i], vals[i])
		}
		i++
	}
	if i != len(keys) {
		m.fatalf("tx %d (snapshot %d): scan %s %.20q..%.20q reverse %v: %d rows, want %d; %.20q is missing", x.id, x.snap, t.name, r.From, r.To, r.Reverse, i, len(keys), keys[i])
	}
}

// cursorWalk moves a cursor about, with writes in between.
func (m *model) cursorWalk(x *mtx, t *mtable) {
	from, to := m.bounds()
	c := x.tx.Cursor(t.h, Range{From: from, To: to})
	defer func() { _ = c.Close() }()
	at, on := "", false // the model's position
	var behind string   // if not on a row: the move that went past the last one in its direction
	steps := rapid.IntRange(1, 12).Draw(m.t, "moves")
	for range steps {
		keys, vals := x.view(t, from, to)
		var ok bool
		i := -1
		move := rapid.SampledFrom([]string{"first", "last", "seek", "before", "next", "prev", "next", "prev", "write"}).Draw(m.t, "move")
		switch move {
		case "first":
			ok = c.First()
			i = 0
		case "last":
			ok = c.Last()
			i = len(keys) - 1
		case "seek", "before":
			k := m.key()
			i = sort.SearchStrings(keys, k)
			if move == "seek" {
				ok = c.Seek([]byte(k))
			} else {
				ok = c.SeekBefore([]byte(k))
				i--
			}
		case "next", "prev":
			i = sort.SearchStrings(keys, at)
			if move == "prev" {
				ok = c.Prev()
				i--
			} else {
				ok = c.Next()
				if i < len(keys) && keys[i] == at {
					i++
				}
			}
			switch {
			case on:
			case behind == move:
				i = -1
			case move == "next":
				i = 0
			default:
				i = len(keys) - 1
			}
		case "write":
			m.randomWrite(x, t)
			continue
		}
		if on = i >= 0 && i < len(keys); ok != on || c.Err() != nil {
			m.fatalf("tx %d: cursor %s from %.20q: %v %v, want %v", x.id, move, at, ok, c.Err(), on)
		}
		if on {
			if string(c.Key()) != keys[i] || !bytes.Equal(c.Value(), vals[i]) {
				m.fatalf("tx %d: cursor %s from %.20q: %.20q=%.40q, want %.20q=%.40q", x.id, move, at, c.Key(), c.Value(), keys[i], vals[i])
			}
			at = keys[i]
		}
		behind = "next"
		if move == "last" || move == "before" || move == "prev" {
			behind = "prev"
		}
	}
}

// compare reads everything by scan and by key.
func (m *model) compare() {
	m.begin(true, false)
	x := m.txs[0]
	for _, tb := range m.tables {
		m.checkScan(x, tb, Range{})
		m.checkScan(x, tb, Range{Reverse: true})
		for k := range tb.recs {
			m.checkGet(x, tb, k)
		}
	}
	m.rollback(x)
}
