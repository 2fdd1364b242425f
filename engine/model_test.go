package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/sakerdb/saker/recordcache"
)

// The model: every committed version of every record, and for each open
// transaction its snapshot and its own writes. It runs beside the store, one
// operation at a time, and predicts each answer, errors included.

type model struct {
	t       *rapid.T
	o       *Options
	db      *DB
	ctx     context.Context
	clock   int
	tables  []*mtable // live ones and, while somebody may read them, dropped ones
	txs     []*mtx
	n       int // operations, for values
	txn     int
	keys    []string
	filling bool
	trace   []string // what was done, for failures that do not come again
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("%d: "+format, append([]any{m.n}, args...)...))
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("step %d: %s\n%s", m.n, fmt.Sprintf(format, args...), m.db.Metrics())
}

// write does one write and checks it.
func (m *model) write(x *mtx, t *mtable, mode recordcache.Mode, k string, val []byte) {
	m.t.Helper()
	may, waits := m.predict(x, t, mode, k)
	var got []byte
	op := func() error {
		key := []byte(k)
		switch mode {
		case recordcache.ModePut:
			return x.tx.Put(t.h, key, val)
		case recordcache.ModeInsert:
			return x.tx.Insert(t.h, key, val)
		case recordcache.ModeUpdate:
			return x.tx.Update(t.h, key, val)
		case recordcache.ModeDelete:
			return x.tx.Delete(t.h, key)
		default:
			var err error
			got, err = x.tx.GetForUpdate(t.h, key)
			return err
		}
	}
	var err error
	if waits {
		err = x.ctx.impatiently(op)
	} else {
		err = op()
	}
	if !m.filling {
		m.note("tx %d mode %d of %s %.20q, %d bytes: %v", x.id, mode, t.name, k, len(val), err)
	}
	mk := mkey{t, k}
	if mode == recordcache.ModeLock && may[0] == nil {
		if want, exists := x.get(t, k); exists {
			if err != nil || !bytes.Equal(got, want) {
				m.fatalf("tx %d: GetForUpdate %s %.20q: %.40q %v, want %.40q", x.id, t.name, k, got, err, want)
			}
		} else if !errors.Is(err, ErrNotFound) {
			m.fatalf("tx %d: GetForUpdate %s %.20q: %v, want absent", x.id, t.name, k, err)
		}
		if _, ok := x.own[mk]; !ok {
			x.own[mk] = mown{}
		}
		return
	}
	if !slices.ContainsFunc(may, func(want error) bool {
		return want == nil && err == nil || want != nil && errors.Is(err, want)
	}) {
		m.fatalf("tx %d: mode %d of %s %.20q (%d bytes): got %v, want %v", x.id, mode, t.name, k, len(val), err, may)
	}
	if err != nil {
		return
	}
	if mode == recordcache.ModeDelete {
		val = nil
	}
	x.own[mk] = mown{written: true, val: val}
}

func (m *model) begin(readOnly, noSync bool) {
	m.txn++
	x := &mtx{
		id: m.txn, snap: m.clock, readOnly: readOnly, noSync: noSync, ctx: &switchCtx{Context: m.ctx},
		own: map[mkey]mown{}, wrote: map[*mtable]bool{},
	}
	tx, err := m.db.Begin(x.ctx, TxOptions{ReadOnly: readOnly, NoSync: noSync})
	if err != nil {
		m.fatalf("begin: %v", err)
	}
	x.tx = tx
	m.txs = append(m.txs, x)
	m.note("tx %d begins, read only %v", x.id, readOnly)
}

func (m *model) end(x *mtx) {
	m.txs = slices.DeleteFunc(m.txs, func(y *mtx) bool { return y == x })
}

func (m *model) commit(x *mtx) {
	m.note("tx %d commits %d records", x.id, len(x.own))
	if err := x.tx.Commit(); err != nil {
		m.fatalf("tx %d: commit: %v", x.id, err)
	}
	m.end(x)
	if len(x.own) > 0 {
		m.clock++
	}
	for mk, o := range x.own {
		mk.t.recs[mk.k] = append(mk.t.recs[mk.k], mver{ts: m.clock, val: o.val, lock: !o.written})
	}
	if err := x.tx.Commit(); !errors.Is(err, ErrTxDone) {
		m.fatalf("tx %d: second commit: %v", x.id, err)
	}
}

func (m *model) rollback(x *mtx) {
	m.note("tx %d rolls back", x.id)
	if err := x.tx.Rollback(); err != nil {
		m.fatalf("tx %d: rollback: %v", x.id, err)
	}
	m.end(x)
}

// reopen closes the store under its open transactions.
func (m *model) reopen() {
	txs := m.txs
	m.txs = nil
	if err := m.db.Close(); err != nil {
		m.t.Fatalf("step %d: close: %v", m.n, err)
	}
	for _, x := range txs {
		if err := x.tx.Commit(); !errors.Is(err, ErrClosed) {
			m.t.Fatalf("tx %d: commit after close: %v", x.id, err)
		}
	}
	m.open()
}

func (m *model) open() {
	db, err := Open("db", m.o)
	if err != nil {
		m.t.Fatalf("step %d: open: %v", m.n, err)
	}
	m.db = db
	m.tables = slices.DeleteFunc(m.tables, func(t *mtable) bool { return t.dropped != 0 })
	var names []string
	for _, t := range m.tables {
		h, err := db.Table(t.name)
		if err != nil {
			m.fatalf("table %s: %v", t.name, err)
		}
		t.h = h
		names = append(names, t.name)
	}
	sort.Strings(names)
	if got := db.Tables(); !slices.Equal(got, names) {
		m.fatalf("tables %v, want %v", got, names)
	}
}

func (m *model) createTable() {
	t := &mtable{name: fmt.Sprintf("t%d", m.n), recs: map[string][]mver{}}
	h, err := m.db.CreateTable(ctx, t.name)
	if err != nil {
		m.fatalf("create table: %v", err)
	}
	t.h = h
	m.tables = append(m.tables, t)
}

// dropTable drops a table that no open transaction has written.
func (m *model) dropTable(t *mtable) {
	for _, x := range m.txs {
		if x.wrote[t] {
			return
		}
	}
	m.note("drop %s", t.name)
	if err := m.db.DropTable(m.ctx, t.name); err != nil {
		m.fatalf("drop table: %v", err)
	}
	m.clock++
	t.dropped = m.clock
}

// gc forgets dropped tables that no snapshot reads.
func (m *model) gc() {
	m.tables = slices.DeleteFunc(m.tables, func(t *mtable) bool {
		return t.dropped != 0 && !slices.ContainsFunc(m.txs, func(x *mtx) bool { return x.snap < t.dropped })
	})
}

// key draws a key by its number: some are long.
func (m *model) key() string { return m.keys[rapid.IntRange(0, len(m.keys)-1).Draw(m.t, "key")] }

func (m *model) bounds() (from, to []byte) {
	if rapid.Bool().Draw(m.t, "from") {
		from = []byte(m.key())
	}
	if rapid.Bool().Draw(m.t, "to") {
		to = []byte(m.key())
	}
	return from, to
}

var modes = []recordcache.Mode{
	recordcache.ModePut, recordcache.ModePut, recordcache.ModePut, recordcache.ModeInsert, recordcache.ModeUpdate,
	recordcache.ModeDelete, recordcache.ModeLock,
}

var valueSizes = []int{0, 1, 11, 20, 60, 60, 60, 200, 200, 1000, 3000, 8 << 10, 8<<10 + 1, 20000, 70000}

func (m *model) randomWrite(x *mtx, t *mtable) {
	k := m.key()
	mode := rapid.SampledFrom(modes).Draw(m.t, "mode")
	size := rapid.SampledFrom(valueSizes).Draw(m.t, "size")
	m.write(x, t, mode, k, value(m.n, size))
}

// fill writes many rows, in key order or not.
func (m *model) fill(x *mtx, t *mtable) {
	n := rapid.IntRange(10, 400).Draw(m.t, "rows")
	size := rapid.SampledFrom([]int{10, 100, 300}).Draw(m.t, "size")
	base := rapid.IntRange(0, 500).Draw(m.t, "base")
	random := rapid.Bool().Draw(m.t, "random")
	mode := rapid.SampledFrom([]recordcache.Mode{recordcache.ModePut, recordcache.ModePut, recordcache.ModeInsert, recordcache.ModeDelete}).Draw(m.t, "mode")
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

// step does one random operation.
func (m *model) step() {
	m.n++
	ops := []string{"begin", "table", "maintain", "tables"}
	if len(m.txs) > 0 {
		ops = []string{
			"begin", "write", "write", "write", "write", "write", "write", "write", "get", "get", "get", "scan", "scan", "cursor",
			"fill", "append", "savepoint", "savepoint", "rollbackto", "rollbackto", "release", "commit", "commit", "commit", "rollback",
			"maintain", "maintain", "maintain", "maintain", "checkpoint", "verify", "tables",
		}
	}
	op := rapid.SampledFrom(ops).Draw(m.t, "op")
	var x *mtx
	var t *mtable
	if len(m.txs) > 0 {
		x = m.txs[rapid.IntRange(0, len(m.txs)-1).Draw(m.t, "tx")]
	}
	if len(m.tables) > 0 {
		t = m.tables[rapid.IntRange(0, len(m.tables)-1).Draw(m.t, "table")]
	}
	switch op {
	case "begin":
		if len(m.txs) < 5 {
			readOnly := rapid.IntRange(0, 4).Draw(m.t, "read only") == 0
			m.begin(readOnly, rapid.Bool().Draw(m.t, "no sync"))
		}
	case "tables":
		switch {
		case len(m.tables) < 2:
			m.createTable()
		case t.dropped == 0 && rapid.IntRange(0, 5).Draw(m.t, "drop") == 0:
			m.dropTable(t)
		}
		m.gc()
	case "maintain":
		m.maintain(t)
	case "checkpoint":
		m.note("checkpoint")
		if err := m.db.Checkpoint(ctx); err != nil {
			m.fatalf("checkpoint: %v", err)
		}
	case "verify":
		checkStore(m.t, m.db)
	case "commit":
		m.commit(x)
	case "rollback":
		m.rollback(x)
	case "savepoint", "rollbackto", "release":
		m.savepoints(x, op)
	default:
		if x != nil && t != nil && m.readable(x, t) {
			m.rows(x, t, op)
		}
	}
}

func (m *model) rows(x *mtx, t *mtable, op string) {
	switch op {
	case "write":
		m.randomWrite(x, t)
	case "fill":
		m.fill(x, t)
	case "get":
		m.checkGet(x, t, m.key())
	case "scan":
		from, to := m.bounds()
		m.checkScan(x, t, Range{From: from, To: to, Reverse: rapid.Bool().Draw(m.t, "reverse"), Limit: max(0, rapid.IntRange(-10, 10).Draw(m.t, "limit"))})
	case "cursor":
		m.cursorWalk(x, t)
	case "append":
		key, err := x.tx.Append(t.h, value(m.n, 50))
		switch {
		case t.dropped != 0 && x.readOnly:
			if !errors.Is(err, ErrReadOnly) {
				wantErr(m.t, "append to dropped table", err, ErrTableNotFound)
			}
		case t.dropped != 0:
			wantErr(m.t, "append to dropped table", err, ErrTableNotFound)
		case x.readOnly:
			wantErr(m.t, "append", err, ErrReadOnly)
		case err != nil || len(key) != 8:
			m.fatalf("tx %d: append: %x %v", x.id, key, err)
		default:
			n := uint64(0)
			for _, b := range key {
				n = n<<8 | uint64(b)
			}
			if n <= t.last {
				m.fatalf("record number %d was handed out after %d", n, t.last)
			}
			t.last = n
			x.own[mkey{t, string(key)}] = mown{written: true, val: value(m.n, 50)}
			x.wrote[t] = true
		}
	}
}

func (m *model) savepoints(x *mtx, op string) {
	m.note("tx %d: %s, depth %d", x.id, op, len(x.sps))
	if op == "savepoint" {
		if len(x.sps) < 40 {
			sp, err := x.tx.Savepoint()
			if err != nil {
				m.fatalf("savepoint: %v", err)
			}
			x.sps = append(x.sps, msp{sp, maps.Clone(x.own)})
		}
		return
	}
	if len(x.sps) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.sps)-1).Draw(m.t, "savepoint")
	s := x.sps[i]
	gone := x.sps[i+1:]
	if op == "rollbackto" {
		if err := x.tx.RollbackTo(s.sp); err != nil {
			m.fatalf("tx %d: rollback to: %v", x.id, err)
		}
		x.own = maps.Clone(s.own)
		x.sps = x.sps[:i+1]
	} else {
		if err := x.tx.Release(s.sp); err != nil {
			m.fatalf("tx %d: release: %v", x.id, err)
		}
		gone = x.sps[i:]
		x.sps = x.sps[:i]
	}
	for _, g := range gone {
		if err := x.tx.RollbackTo(g.sp); !errors.Is(err, ErrSavepointNotFound) {
			m.fatalf("tx %d: rollback to a savepoint that is gone: %v", x.id, err)
		}
	}
}

// maintain does what the scavenger might do at any moment.
func (m *model) maintain(t *mtable) {
	op := rapid.SampledFrom([]string{"prune", "backlog", "all", "chill", "chill", "collapse", "evict", "merge", "sweep", "reopen"}).Draw(m.t, "maintain")
	m.note("maintain: %s", op)
	switch op {
	case "merge":
		if t != nil {
			maintain(m.t, m.db, op, t.h, []byte(m.key()))
		}
	case "sweep":
		waitSwept(m.t, m.db)
	case "reopen":
		if rapid.IntRange(0, 3).Draw(m.t, "reopen") == 0 {
			m.reopen()
		}
	default:
		maintain(m.t, m.db, op, nil, nil)
	}
}

func modelKeys() []string {
	keys := []string{"a", "ab", "abc", "b", "\x00", "\xff", "\xff\xff\xff\xff\xff"}
	for i := range 12 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
	}
	for i := 0; i < 1000; i += 90 {
		keys = append(keys, fmt.Sprintf("f%05d", i))
	}
	long := string(bytes.Repeat([]byte("long"), MaxKeySize/4))
	return append(keys, long, long[:len(long)-1], long[:5000]+"x")
}

// runModel is one life of a store beside its model.
func runModel(t *rapid.T, o *Options) {
	wctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	m := &model{t: t, o: o, ctx: wctx, keys: modelKeys()}
	m.open()
	defer func() {
		// After a failure the store is still open.
		if !m.db.closed.Load() {
			t.Logf("%s\n%s", strings.Join(m.trace[max(0, len(m.trace)-60):], "\n"), m.db.Metrics())
			_ = m.db.Close()
		}
	}()
	m.createTable()
	for range rapid.IntRange(20, 150).Draw(t, "steps") {
		m.step()
	}
	for _, x := range slices.Clone(m.txs) {
		for _, tb := range m.tables {
			if m.readable(x, tb) {
				m.checkScan(x, tb, Range{})
				m.checkScan(x, tb, Range{Reverse: true})
			}
		}
		if rapid.Bool().Draw(t, "commit") {
			m.commit(x)
		} else {
			m.rollback(x)
		}
	}
	m.gc()
	m.compare()
	mustClose(t, m.db)
	m.open()
	m.compare()
	mustClose(t, m.db)
}

// The same operations on stores that differ in memory only: everything leaves
// memory at once, some does, nothing does (scenario 12).
func TestModel(t *testing.T) {
	options := map[string]func() *Options{
		"tiny": tinyOptions,
		"tiny, default threshold": func() *Options {
			o := tinyOptions()
			o.ChillThreshold = 0
			return o
		},
		"roomy": func() *Options {
			return &Options{Memory: 64 << 20}
		},
	}
	for name, opts := range options {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				o := opts()
				o.FS = vfs.NewMem()
				runModel(t, o)
			})
		})
	}
}
