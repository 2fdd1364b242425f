package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/recordcache"
)

// mbuild is the building of an index, by a goroutine per store. While one waits for
// transactions that have written the table, those go on, and others come and go; but
// nobody else who stays begins to write the table, so that what the builder meets
// depends on no clock.
type mbuild struct {
	cancel context.CancelFunc
	done   []chan error // of each store
	stop   *mstop       // nil if it is not stopped on its way
	early  bool         // a row that the builder may have read had an entry that is too large
}

// mstop stops the builders at the row that they read as the n-th: what they have read
// so far is from before what others do then.
type mstop struct {
	n       int32
	reached []chan struct{} // of each store
	release chan struct{}
	once    sync.Once
}

func (p *mstop) goOn() { p.once.Do(func() { close(p.release) }) }

// fn is the function of ix for store s.
func (ix *mindex) fn(s int) func(Row, func([]byte)) {
	if ix.build == nil || ix.build.stop == nil {
		return ix.kind.fn
	}
	var calls atomic.Int32
	stop, reached := ix.build.stop, ix.build.stop.reached[s] // the slice grows meanwhile
	return func(row Row, emit func([]byte)) {
		if calls.Add(1) == stop.n {
			close(reached)
			<-stop.release
		}
		ix.kind.fn(row, emit)
	}
}

func (m *machine) writersOf(t *mtable) bool {
	return slices.ContainsFunc(m.txs, func(x *mtx) bool { return x.wrote[t] })
}

// building returns the index of t that is being built.
func (t *mtable) building() *mindex {
	for _, ix := range t.indexes {
		if ix.build != nil {
			return ix
		}
	}
	return nil
}

// barred reports whether x must not begin to write t now; see mbuild.
func (m *machine) barred(x *mtx, t *mtable) bool {
	return !x.client && !x.wrote[t] && t.building() != nil
}

// changeIndexes creates, drops or attaches an index of t, or tries what cannot be.
func (m *machine) changeIndexes(t *mtable) {
	live := t.live()
	if ix := t.building(); ix != nil {
		m.misuseIndex(ix)
		if rapid.IntRange(0, 3).Draw(m.t, "cancel") == 0 {
			m.note("cancel the building of %q", ix.kind.name)
			ix.build.cancel()
			m.endBuild(ix, []error{context.Canceled})
		}
		return
	}
	for _, ix := range live {
		if ix.detached && rapid.IntRange(0, 3).Draw(m.t, "attach") > 0 {
			m.attach(ix)
			return
		}
	}
	kind := rapid.SampledFrom(mkinds).Draw(m.t, "kind")
	i := slices.IndexFunc(live, func(ix *mindex) bool { return ix.kind == kind })
	switch {
	case i < 0:
		m.createIndex(t, kind)
	case rapid.Bool().Draw(m.t, "drop"):
		m.dropIndex(live[i])
	default:
		m.misuseIndex(live[i])
	}
}

// createIndex begins to build an index, and ends it, too, if nobody is in its way.
func (m *machine) createIndex(t *mtable, kind *mkind) {
	ix := &mindex{t: t, kind: kind, h: make([]*Index, len(m.stores))}
	ix.entries = &mtable{name: kind.name, recs: map[string][]mver{}, h: make([]*Table, len(m.stores))}
	wctx, cancel := context.WithCancel(m.ctx)
	ix.build = &mbuild{cancel: cancel}
	m.clock++
	m.durable, ix.began = m.clock, m.clock
	alone := !m.writersOf(t)
	if n := len(t.at(m.clock)); alone && n > 0 && rapid.Bool().Draw(m.t, "stop") {
		ix.build.stop = &mstop{n: int32(rapid.IntRange(1, min(n, 5)).Draw(m.t, "row")), release: make(chan struct{})}
	}
	m.note("build index %q of %s, alone %v, stop %v", kind.name, t.name, alone, ix.build.stop != nil)
	t.indexes = append(t.indexes, ix)
	for s, st := range m.stores {
		done := make(chan error, 1)
		ix.build.done = append(ix.build.done, done)
		if ix.build.stop != nil {
			ix.build.stop.reached = append(ix.build.stop.reached, make(chan struct{}))
		}
		fn := ix.fn(s)
		go func() {
			_, err := st.db.CreateIndex(wctx, t.h[s], kind.name, kind.unique, fn)
			done <- err
		}()
	}
	if alone {
		if ix.build.stop != nil {
			m.beside(ix)
		}
		m.endBuild(ix, nil)
		return
	}
	m.each(func(s int, db *DB) {
		done := ix.build.done[s]
		eventually(m.t, "index", func() bool { return len(done) > 0 || slices.Contains(db.Indexes(t.h[s]), kind.name) })
		if len(done) > 0 {
			m.fatalf(s, "index %q: %v, beside those who have written the table", kind.name, <-done)
		}
		m.handles(ix, s)
	})
}

// beside runs transactions while all builders are stopped.
func (m *machine) beside(ix *mindex) {
	stop := ix.build.stop
	m.stop = stop
	defer func() { stop.goOn(); m.stop = nil }()
	m.each(func(s int, _ *DB) {
		select {
		case <-stop.reached[s]:
			m.handles(ix, s)
		case err := <-ix.build.done[s]: // at a row before
			ix.build.done[s] <- err
			ix.build.early = true
		}
	})
	if ix.build.early {
		return
	}
	ix.build.early = m.anyTooLarge(ix)
	for range rapid.IntRange(1, 3).Draw(m.t, "beside") {
		m.client(ix.t)
	}
	m.misuseIndex(ix)
}

// handles looks up the index in a store.
func (m *machine) handles(ix *mindex, s int) {
	h, err := m.stores[s].db.Index(ix.t.h[s], ix.kind.name)
	if err != nil || h.Name() != ix.kind.name || h.Unique() != ix.kind.unique || h.Table() != ix.t.h[s] {
		m.fatalf(s, "index %q: %+v %v", ix.kind.name, h, err)
	}
	ix.h[s], ix.entries.h[s] = h, h.Entries()
}

func (m *machine) anyTooLarge(ix *mindex) bool {
	for k, v := range ix.t.at(m.clock) {
		if ix.tooLarge(k, v) {
			return true
		}
	}
	return false
}

// endBuilds ends buildings that nobody is in the way of any more.
func (m *machine) endBuilds() {
	for _, t := range m.tables {
		if ix := t.building(); ix != nil && m.stop == nil && !m.writersOf(t) {
			m.endBuild(ix, nil)
		}
	}
}

// endBuild waits for the end of a building, which is one of want, if that is not
// nil; else what the rows make of it.
func (m *machine) endBuild(ix *mindex, want []error) {
	full := m.fullEntries(ix)
	if want == nil {
		switch large := m.anyTooLarge(ix); {
		case large && full == nil:
			want = []error{ErrKeyTooLarge, ErrKeyExists}
		case large:
			want = []error{ErrKeyTooLarge}
		case full == nil:
			want = []error{ErrKeyExists}
		}
		if ix.build.early {
			want = append(want, ErrKeyTooLarge)
		}
		if full != nil && !m.anyTooLarge(ix) {
			want = append(want, nil)
		}
	}
	errs := make([]error, len(m.stores))
	m.each(func(s int, _ *DB) {
		select {
		case errs[s] = <-ix.build.done[s]:
		case <-m.ctx.Done():
			m.fatalf(s, "index %q is not built in time", ix.kind.name)
		}
		if !allowed(errs[s], want) {
			m.fatalf(s, "index %q: create: %v, want %v", ix.kind.name, errs[s], want)
		}
		if (errs[s] == nil) != (errs[0] == nil) {
			m.fatalf(s, "index %q: create: %v, in the %s store %v", ix.kind.name, errs[s], m.stores[0].name, errs[0])
		}
	})
	m.note("index %q: %v", ix.kind.name, errs[0])
	m.tally[fmt.Sprintf("build, stop %v: %s", ix.build.stop != nil, brief(errs[0]))]++
	ix.build.cancel()
	ix.build = nil
	m.clock++
	m.durable = m.clock
	if errs[0] != nil {
		m.forgetIndex(ix)
		return
	}
	ix.made = m.clock
	m.each(func(s int, _ *DB) { m.handles(ix, s) })
	for at, k := range full {
		if has, ok := newest(ix.entries.recs[at], m.clock); !ok || string(has) != k {
			ix.entries.recs[at] = append(ix.entries.recs[at], mver{ts: m.clock, val: []byte(k)})
		}
	}
}

// forgetIndex forgets an index that could not be built.
func (m *machine) forgetIndex(ix *mindex) {
	ix.dropped, ix.entries.dropped = m.clock, m.clock
	ix.t.indexes = slices.DeleteFunc(ix.t.indexes, func(x *mindex) bool { return x == ix })
	m.each(func(s int, db *DB) {
		if _, err := db.Index(ix.t.h[s], ix.kind.name); !errors.Is(err, ErrIndexNotFound) {
			m.fatalf(s, "index %q, not built: %v", ix.kind.name, err)
		}
	})
}

// fullEntries are the entries of all committed rows; nil if two have one.
func (m *machine) fullEntries(ix *mindex) map[string]string {
	full := map[string]string{}
	for k, v := range ix.t.at(m.clock) {
		for _, ik := range ix.keysOf(k, v) {
			at := ix.at(ik, k).k
			if _, there := full[at]; there {
				return nil
			}
			full[at] = k
		}
	}
	return full
}

// abortBuilds takes note that the closing of the stores has ended all buildings.
func (m *machine) abortBuilds() {
	for _, t := range m.tables {
		ix := t.building()
		if ix == nil {
			continue
		}
		m.tally["build ended by the store"]++
		m.each(func(s int, _ *DB) {
			if err := <-ix.build.done[s]; !errors.Is(err, ErrClosed) {
				m.fatalf(s, "index %q: create ends with %v when the store is closed", ix.kind.name, err)
			}
		})
		ix.build.cancel()
		t.indexes = slices.DeleteFunc(t.indexes, func(x *mindex) bool { return x == ix })
	}
}

// dropIndex drops an index, whoever reads or writes it.
func (m *machine) dropIndex(ix *mindex) {
	m.tally["drop"]++
	m.note("drop index %q of %s", ix.kind.name, ix.t.name)
	m.each(func(s int, db *DB) {
		if err := db.DropIndex(m.ctx, ix.t.h[s], ix.kind.name); err != nil {
			m.fatalf(s, "drop index %q: %v", ix.kind.name, err)
		}
		if err := db.DropIndex(m.ctx, ix.t.h[s], ix.kind.name); !errors.Is(err, ErrIndexNotFound) {
			m.fatalf(s, "drop index %q again: %v", ix.kind.name, err)
		}
	})
	m.clock++
	m.durable = m.clock
	ix.dropped, ix.entries.dropped = m.clock, m.clock
}

// attach gives an index its function again.
func (m *machine) attach(ix *mindex) {
	m.note("attach %q of %s", ix.kind.name, ix.t.name)
	m.each(func(s int, db *DB) {
		h, err := db.CreateIndex(m.ctx, ix.t.h[s], ix.kind.name, ix.kind.unique, ix.kind.fn)
		if err != nil || h != ix.h[s] {
			m.fatalf(s, "attach %q: %v", ix.kind.name, err)
		}
	})
	ix.detached = false
}

// misuseIndex tries what must fail with an index that is there.
func (m *machine) misuseIndex(ix *mindex) {
	m.each(func(s int, db *DB) {
		unique := ix.kind.unique
		if ix.detached {
			unique = !unique
		}
		if _, err := db.CreateIndex(m.ctx, ix.t.h[s], ix.kind.name, unique, ix.kind.fn); !errors.Is(err, ErrIndexExists) {
			m.fatalf(s, "create %q again: %v", ix.kind.name, err)
		}
		if ix.build == nil {
			return
		}
		if err := db.DropIndex(m.ctx, ix.t.h[s], ix.kind.name); !errors.Is(err, ErrIndexNotReady) {
			m.fatalf(s, "drop %q while it is built: %v", ix.kind.name, err)
		}
		if err := db.DropTable(m.ctx, ix.t.name); !errors.Is(err, ErrIndexNotReady) {
			m.fatalf(s, "drop %s while %q is built: %v", ix.t.name, ix.kind.name, err)
		}
	})
}

// openedIndexes looks up the indexes in stores that were opened anew, and gives them
// their functions or not yet.
func (m *machine) openedIndexes(t *mtable, attach bool) {
	t.indexes = t.live()
	var names []string
	for _, ix := range t.indexes {
		names = append(names, ix.kind.name)
	}
	m.each(func(s int, db *DB) {
		if got := db.Indexes(t.h[s]); !slices.Equal(got, names) {
			m.fatalf(s, "indexes %q of %s, want %q", got, t.name, names)
		}
	})
	for _, ix := range t.indexes {
		m.each(func(s int, _ *DB) {
			if m.handles(ix, s); ix.h[s].Attached() {
				m.fatalf(s, "index %q has a function", ix.kind.name)
			}
		})
		if ix.detached = true; attach || rapid.Bool().Draw(m.t, "attach") {
			m.attach(ix)
		}
	}
}

// index draws an index of t, nil if it has none.
func (m *machine) index(t *mtable) *mindex {
	if len(t.indexes) == 0 {
		return nil
	}
	return t.indexes[rapid.IntRange(0, len(t.indexes)-1).Draw(m.t, "index")]
}

// indexKey draws an index key.
func (m *machine) indexKey(ix *mindex) string {
	size := rapid.SampledFrom(valueSizes[1:]).Draw(m.t, "size")
	val := value(rapid.IntRange(0, m.n+400).Draw(m.t, "value"), size)
	if keys := ix.keysOf(m.key(), val); len(keys) > 0 {
		return keys[0]
	}
	return rapid.SampledFrom(mwords).Draw(m.t, "word")
}

func (m *machine) indexBounds(ix *mindex) (from, to []byte) {
	if rapid.Bool().Draw(m.t, "from") {
		from = []byte(m.indexKey(ix))
	}
	if rapid.Bool().Draw(m.t, "to") {
		to = []byte(m.indexKey(ix))
	}
	return from, to
}

// placed are the bounds of a range of an index as places of entries.
func placed(from, to []byte) (low, high string) {
	if from != nil {
		low = place(string(from))
	}
	if to != nil {
		high = place(string(to))
	}
	return low, high
}

// checkIndex scans a range of an index.
func (m *machine) checkIndex(x *mtx, ix *mindex, r Range) {
	m.t.Helper()
	m.statement(x)
	if !m.canRead(x, ix) {
		return
	}
	rows := x.indexed(ix, r.From, r.To)
	m.tally["scan"]++
	m.tally["scanned row"] += len(rows)
	if r.Reverse {
		slices.Reverse(rows)
	}
	from, to := placed(r.From, r.To)
	if r.Limit > 0 && len(rows) >= r.Limit { // what lies behind is not looked at
		rows = rows[:r.Limit]
		if last := rows[r.Limit-1].at; r.Reverse {
			from = last
		} else {
			to = last + "\x00"
		}
	}
	x.read(ix.entries, from, to)
	for _, row := range rows {
		x.readKey(ix.t, row.key)
	}
	m.each(func(s int, _ *DB) {
		i := 0
		for row, err := range x.tx[s].ScanIndex(ix.h[s], r) {
			switch {
			case err != nil:
				m.fatalf(s, "tx %d: scan of %q: %v", x.id, ix.kind.name, err)
			case i == len(rows):
				m.fatalf(s, "tx %d (snapshot %d): scan of %q %.20q..%.20q reverse %v: row %.20q→%.20q too many after %d", x.id, x.snap, ix.kind.name, r.From, r.To, r.Reverse, row.IndexKey, row.Key, i)
			case !rows[i].is(row.IndexKey, row.Key, row.Value):
				m.fatalf(s, "tx %d (snapshot %d): scan of %q reverse %v: row %d is %.20q→%.20q=%.40q, want %.20q→%.20q=%.40q", x.id, x.snap, ix.kind.name, r.Reverse, i, row.IndexKey, row.Key, row.Value, rows[i].ik, rows[i].key, rows[i].val)
			}
			i++
		}
		if i != len(rows) {
			m.fatalf(s, "tx %d (snapshot %d): scan of %q %.20q..%.20q reverse %v: %d rows, want %d; %.20q→%.20q is missing", x.id, x.snap, ix.kind.name, r.From, r.To, r.Reverse, i, len(rows), rows[i].ik, rows[i].key)
		}
	})
}

func (r *mrow) is(ik, key, val []byte) bool {
	return r.ik == string(ik) && r.key == string(key) && bytes.Equal(r.val, val)
}

// canRead reports whether x can read ix, and checks that it can or cannot.
func (m *machine) canRead(x *mtx, ix *mindex) bool {
	may := x.mayRead(ix, x.snap)
	if may == nil {
		may = []error{nil}
	}
	var first error
	m.each(func(s int, _ *DB) {
		c := x.tx[s].IndexCursor(ix.h[s], Range{From: []byte{}, To: []byte{}}) // that reads nothing
		found, err := c.First(), c.Err()
		_ = c.Close()
		if s == 0 || err != nil && len(may) > 1 { // one is as good as the other, in each store
			first = err
		}
		if found || !allowed(err, may) || len(may) == 1 && !errors.Is(err, first) {
			m.fatalf(s, "tx %d (snapshot %d): read of %q: %v, want %v, in the %s store %v", x.id, x.snap, ix.kind.name, err, may, m.stores[0].name, first)
		}
	})
	if first != nil {
		m.tally["scan: "+brief(first)]++
	}
	return first == nil
}

// checkIndexes reads all indexes of t whole, in one direction.
func (m *machine) checkIndexes(x *mtx, t *mtable, reverse bool) {
	for _, ix := range t.indexes {
		m.checkIndex(x, ix, Range{Reverse: reverse})
	}
}

// checkEntries checks the model: that the entries which it keeps are those of its rows.
func (m *machine) checkEntries() {
	for _, t := range m.tables {
		for _, ix := range t.live() {
			full, has := m.fullEntries(ix), ix.entries.at(m.clock)
			if ix.made != 0 && len(full) != len(has) {
				m.t.Fatalf("the model: %q of %s has %d entries, of its rows %d", ix.kind.name, t.name, len(has), len(full))
			}
			for at, k := range full {
				if ix.made != 0 && string(has[at]) != k {
					m.t.Fatalf("the model: entry %.20q of %q is of %.20q, want %.20q", at, ix.kind.name, has[at], k)
				}
			}
		}
	}
}

// wroteRecords are the records that x wrote, in an order that does not change, and the
// entries of indexes that are there.
func (x *mtx) wroteRecords() (rows, entries []mkey) {
	for mk := range x.own {
		switch {
		case x.wrote[mk.t]:
			rows = append(rows, mk)
		case mk.t.dropped == 0:
			entries = append(entries, mk)
		}
	}
	for _, s := range [][]mkey{rows, entries} {
		slices.SortFunc(s, func(a, b mkey) int { return cmp.Or(strings.Compare(a.t.name, b.t.name), strings.Compare(a.k, b.k)) })
	}
	return rows, entries
}

// againRecord repeats what a transaction did to a record. ErrKeyExists if the record
// that has a key of a unique index has not given it up yet.
func againRecord(tx *Tx, s int, mk mkey, o mown) error {
	modes := []recordcache.Mode{recordcache.ModePut}
	switch {
	case !o.written:
		modes[0] = recordcache.ModeLock
	case o.val == nil: // of what need not have been there
		modes = append(modes, recordcache.ModeDelete)
	}
	for _, mode := range modes {
		if _, err := run(tx, mk.t.h[s], mode, []byte(mk.k), o.val); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
