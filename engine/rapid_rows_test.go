package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/recordcache"
)

var writeModes = []recordcache.Mode{
	recordcache.ModePut, recordcache.ModePut, recordcache.ModePut, recordcache.ModeInsert, recordcache.ModeUpdate,
	recordcache.ModeDelete, recordcache.ModeLock,
}

var valueSizes = []int{0, 1, 11, 20, 60, 60, 60, 200, 200, 1000, 3000, 8 << 10, 8<<10 + 1, 20000, 70000}

// rows does an operation on rows.
func (m *machine) rows(x *mtx, t *mtable, op string) {
	switch op {
	case "write":
		for range rapid.IntRange(1, 4).Draw(m.t, "writes") {
			m.randomWrite(x, t, m.key())
		}
	case "fill":
		m.fill(x, t)
	case "get":
		m.checkGet(x, t, m.key())
	case "scan":
		from, to := m.bounds()
		m.checkScan(x, t, Range{
			From: from, To: to, Reverse: rapid.Bool().Draw(m.t, "reverse"), Limit: max(0, rapid.IntRange(-10, 10).Draw(m.t, "limit")),
		})
	case "cursor":
		m.openCursor(x, t)
	case "move":
		m.walk(x)
	case "append":
		m.append(x, t)
	case "scan index":
		if ix := m.index(t); ix != nil {
			from, to := m.indexBounds(ix)
			m.checkIndex(x, ix, Range{
				From: from, To: to, Reverse: rapid.Bool().Draw(m.t, "reverse"), Limit: max(0, rapid.IntRange(-10, 10).Draw(m.t, "limit")),
			})
		}
	case "index cursor":
		if ix := m.index(t); ix != nil {
			m.openIndexCursor(x, ix)
		}
	}
}

func (m *machine) randomWrite(x *mtx, t *mtable, k string) {
	mode := rapid.SampledFrom(writeModes).Draw(m.t, "mode")
	size := rapid.SampledFrom(valueSizes).Draw(m.t, "size")
	m.write(x, t, mode, k, value(m.n, size))
}

// run runs the statement and returns what a lock has read.
func run(tx *Tx, h *Table, mode recordcache.Mode, key, val []byte) (got []byte, err error) {
	switch mode {
	case recordcache.ModePut:
		return nil, tx.Put(h, key, val)
	case recordcache.ModeInsert:
		return nil, tx.Insert(h, key, val)
	case recordcache.ModeUpdate:
		return nil, tx.Update(h, key, val)
	case recordcache.ModeDelete:
		return nil, tx.Delete(h, key)
	default:
		return tx.GetForUpdate(h, key)
	}
}

// write does one write in every store and checks it.
func (m *machine) write(x *mtx, t *mtable, mode recordcache.Mode, k string, val []byte) {
	m.t.Helper()
	if m.barred(x, t) {
		return
	}
	m.statement(x)
	known := x.wrote[t]
	may, waits := m.predict(x, t, mode, k)
	want, exists := x.get(t, k)
	w := &mwrite{mode: mode, k: k, old: want, val: val}
	if mode == recordcache.ModeDelete {
		w.val = nil
	}
	if mode != recordcache.ModeLock && t.dropped == 0 && !x.readOnly {
		may, waits = m.predictEntries(x, t, w, may, waits)
	}
	if mode == recordcache.ModeLock && may[0] == nil && !exists {
		may = []error{ErrNotFound}
	}
	if waits && !known {
		m.enlist(x, t)
	}
	var err error
	m.each(func(s int, _ *DB) {
		var got []byte
		op := func() error {
			var err error
			got, err = run(x.tx[s], t.h[s], mode, []byte(k), val)
			return err
		}
		if err = nil; waits {
			err = x.ctx.impatiently(op)
		} else {
			err = op()
		}
		if !allowed(err, may) {
			m.fatalf(s, "tx %d (snapshot %d): mode %d of %s %.20q (%d bytes): got %v, want %v", x.id, x.snap, mode, t.name, k, len(val), err, may)
		}
		if mode == recordcache.ModeLock && err == nil && !bytes.Equal(got, want) {
			m.fatalf(s, "tx %d: lock of %s %.20q: %.40q, want %.40q", x.id, t.name, k, got, want)
		}
	})
	if !m.filling {
		m.note("tx %d mode %d of %s %.20q, %d bytes: %v", x.id, mode, t.name, k, len(val), err)
	}
	m.indexes(x, t, w, err)
	mk := mkey{t, k}
	switch done := err == nil || mode == recordcache.ModeLock && errors.Is(err, ErrNotFound); {
	case done:
		x.writes++
		if mode != recordcache.ModePut {
			x.readKey(t, k)
		}
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrKeyExists):
		x.readKey(t, k)
	}
	switch {
	case mode == recordcache.ModeLock && (err == nil || errors.Is(err, ErrNotFound)):
		if _, ok := x.own[mk]; !ok {
			x.own[mk] = mown{}
		}
	case err != nil:
	case mode == recordcache.ModeDelete:
		x.own[mk] = mown{written: true}
	default:
		x.own[mk] = mown{written: true, val: val}
	}
}

// enlist makes x a writer of t, of which nothing else is to be seen. A statement that
// is not to wait may fail before that, for want of memory, or behind it.
func (m *machine) enlist(x *mtx, t *mtable) {
	const k = "nobody writes it"
	m.each(func(s int, _ *DB) {
		if err := x.tx[s].Update(t.h[s], []byte(k), nil); !allowed(err, []error{ErrNotFound, ErrIndexDetached}) {
			m.fatalf(s, "tx %d: update of no record of %s: %v", x.id, t.name, err)
		}
	})
	x.readKey(t, k)
}

// client is a whole transaction of somebody else, at whom the others look.
func (m *machine) client(t *mtable) {
	m.begin(TxOptions{NoSync: rapid.IntRange(0, 3).Draw(m.t, "nosync") > 0, Isolation: m.level()})
	x := m.txs[len(m.txs)-1]
	x.client = true
	for range rapid.IntRange(1, 4).Draw(m.t, "writes") {
		m.randomWrite(x, t, m.key())
	}
	if rapid.IntRange(0, 5).Draw(m.t, "fill") == 0 {
		m.fill(x, t)
	}
	m.commit(x)
}

// append stores a row under the next record number, the same in every store.
func (m *machine) append(x *mtx, t *mtable) {
	if m.barred(x, t) {
		return
	}
	m.statement(x)
	w := &mwrite{mode: recordcache.ModeInsert, k: string(make([]byte, 8)), val: value(m.n, 50)}
	may, waits := []error{nil}, false
	known := x.wrote[t]
	switch {
	case t.dropped != 0:
		may = []error{ErrTableNotFound}
		if x.readOnly {
			may = append(may, ErrReadOnly)
		}
	case x.readOnly:
		may = []error{ErrReadOnly}
	default:
		x.wrote[t], x.tried = true, true
		may, waits = m.predictEntries(x, t, w, may, waits)
	}
	if waits && !known {
		m.enlist(x, t)
	}
	var number uint64
	var err error
	m.each(func(s int, _ *DB) {
		var key []byte
		op := func() error {
			var err error
			key, err = x.tx[s].Append(t.h[s], w.val)
			return err
		}
		if waits {
			err = x.ctx.impatiently(op)
		} else {
			err = op()
		}
		switch {
		case !allowed(err, may) || err == nil && len(key) != 8:
			m.fatalf(s, "tx %d: append to %s: %x %v, want %v", x.id, t.name, key, err, may)
		case err == nil:
			n := binary.BigEndian.Uint64(key)
			if n <= t.last || number != 0 && n != number {
				m.fatalf(s, "record number %d after %d, in another store %d", n, t.last, number)
			}
			number = n
		}
	})
	w.k = string(binary.BigEndian.AppendUint64(nil, number))
	m.indexes(x, t, w, err)
	m.note("tx %d appends %d to %s: %v", x.id, number, t.name, err)
	if err == nil {
		t.last = number
		x.own[mkey{t, w.k}] = mown{written: true, val: w.val}
		x.writes++
	}
}

// allowed reports whether err is one of may, where nil is success.
func allowed(err error, may []error) bool {
	return slices.ContainsFunc(may, func(want error) bool {
		return want == nil && err == nil || want != nil && errors.Is(err, want)
	})
}

// fill writes many rows, in key order or not.
func (m *machine) fill(x *mtx, t *mtable) {
	n := rapid.IntRange(10, 400).Draw(m.t, "rows")
	size := rapid.SampledFrom([]int{10, 100, 300}).Draw(m.t, "size")
	base := rapid.IntRange(0, 500).Draw(m.t, "base")
	random := rapid.Bool().Draw(m.t, "random")
	mode := rapid.SampledFrom([]recordcache.Mode{
		recordcache.ModePut, recordcache.ModePut, recordcache.ModeInsert, recordcache.ModeDelete,
	}).Draw(m.t, "mode")
	m.note("tx %d fills %s with %d of %d bytes from %d, random %v, mode %d", x.id, t.name, n, size, base, random, mode)
	m.filling = true
	defer func() { m.filling = false }()
	for i := range n {
		at := base + i
		if random {
			at = (base + i*7919) % 1000
		}
		m.write(x, t, mode, fmt.Sprintf("f%05d", at), value(m.n+i, size))
	}
}

const fillerName = "filler"

// mfiller is the transaction that makes memory low; the model does not follow
// what it writes.
type mfiller struct {
	tx []*Tx
	n  int
}

// makeFiller makes the filler's table.
func (m *machine) makeFiller() {
	m.each(func(s int, db *DB) {
		if _, err := db.CreateTable(ctx, fillerName); err != nil {
			m.fatalf(s, "create table: %v", err)
		}
	})
}

// pressure writes more than the tiny stores hold in memory, in a transaction that
// may stay open meanwhile.
func (m *machine) pressure() {
	n := rapid.IntRange(100, 4000).Draw(m.t, "rows")
	m.note("pressure of %d rows", n)
	if m.filler == nil {
		m.filler = &mfiller{}
		m.each(func(s int, db *DB) {
			tx, err := db.Begin(m.ctx, TxOptions{NoSync: true})
			if err != nil {
				m.fatalf(s, "begin: %v", err)
			}
			m.filler.tx = append(m.filler.tx, tx)
		})
	}
	f := m.filler
	m.each(func(s int, db *DB) {
		h, err := db.Table(fillerName)
		if err != nil {
			m.fatalf(s, "filler: %v", err)
		}
		for i := range n {
			if err := f.tx[s].Put(h, u64(uint64((f.n+i)*7919)), value(i, 300)); err != nil {
				m.fatalf(s, "filler: put %d: %v", i, err)
			}
		}
	})
	f.n += n
	switch rapid.IntRange(0, 2).Draw(m.t, "filler") {
	case 0:
		m.endFiller(true)
	case 1:
		m.endFiller(false)
	}
}

// endFiller ends the filler's transaction.
func (m *machine) endFiller(commit bool) {
	if m.filler == nil {
		return
	}
	m.note("the filler ends, commit %v", commit)
	m.each(func(s int, _ *DB) {
		end := m.filler.tx[s].Rollback
		if commit {
			end = m.filler.tx[s].Commit
		}
		if err := end(); err != nil {
			m.fatalf(s, "filler: %v", err)
		}
	})
	m.filler = nil
}
