package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// A machine drives several stores in lock step, one operation at a time, beside a
// model that predicts each answer, errors included. The stores differ in options
// only, so all must give the same answers (scenario 12): in one everything leaves
// memory at once, in one some does, in one nothing does.

// mstore is one of the stores.
type mstore struct {
	name  string
	o     *Options
	fs    *vfs.MemFS
	db    *DB
	spans int  // of read sets, if not as many as usual
	whole bool // checkpoints write all leaves whole that may be
}

type machine struct {
	t       *rapid.T
	stores  []*mstore
	ctx     context.Context
	clock   int
	durable int       // what was committed up to this clock survives a crash
	tables  []*mtable // live ones and, while somebody may read them, dropped ones
	txs     []*mtx
	done    []*mtx // ended ones
	filler  *mfiller
	n       int // operations, for values
	txn     int
	keys    []string
	filling bool
	stop    *mstop   // builders of an index are stopped
	trace   []string // what was done, for failures that do not come again
	tally   map[string]int
}

func (m *machine) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("%d: "+format, append([]any{m.n}, args...)...))
}

func (m *machine) fatalf(s int, format string, args ...any) {
	m.t.Helper()
	st := m.stores[s]
	m.t.Fatalf("step %d, %s store: %s\n%s", m.n, st.name, fmt.Sprintf(format, args...), st.db.Metrics())
}

// each does the same to every store.
func (m *machine) each(fn func(s int, db *DB)) {
	for s, st := range m.stores {
		fn(s, st.db)
	}
}

// level draws an isolation level.
func (m *machine) level() Isolation {
	return rapid.SampledFrom([]Isolation{Snapshot, Snapshot, ReadCommitted, Serializable}).Draw(m.t, "level")
}

func (m *machine) begin(o TxOptions) {
	m.txn++
	x := &mtx{
		id: m.txn, snap: m.clock, readOnly: o.ReadOnly, noSync: o.NoSync, iso: o.Isolation, ctx: &switchCtx{Context: m.ctx},
		own: map[mkey]mown{}, wrote: map[*mtable]bool{},
	}
	m.each(func(s int, db *DB) {
		tx, err := db.Begin(x.ctx, o)
		if err != nil {
			m.fatalf(s, "begin: %v", err)
		}
		x.tx = append(x.tx, tx)
	})
	m.txs = append(m.txs, x)
	m.note("tx %d begins: %+v", x.id, o)
}

func (m *machine) end(x *mtx) {
	m.txs = slices.DeleteFunc(m.txs, func(y *mtx) bool { return y == x })
	if m.done = append(m.done, x); len(m.done) > 3 {
		m.done = m.done[1:]
	}
}

// commit commits x, which a store refuses if x is serializable and has read what
// others have changed.
func (m *machine) commit(x *mtx) {
	if x.iso == Serializable && !x.client && slices.ContainsFunc(m.tables, func(t *mtable) bool { return x.wrote[t] && t.building() != nil }) {
		m.rollback(x) // it could not be done again: the index has changed what may be written
		return
	}
	conflict, doubt := x.unserializable()
	m.note("tx %d commits %d records, conflict %v", x.id, len(x.own), conflict)
	m.end(x)
	defer m.endBuilds()
	var refused []int
	m.each(func(s int, db *DB) {
		doubtful := db.m.Counters.MaybeSerializable.Load()
		err := x.tx[s].Commit()
		switch {
		case err == nil && !conflict:
		case errors.Is(err, ErrConflict) && (conflict || doubt || db.m.Counters.MaybeSerializable.Load() > doubtful):
			refused = append(refused, s)
		default:
			m.fatalf(s, "tx %d: commit: %v, want a conflict: %v", x.id, err, conflict)
		}
	})
	if len(refused) == len(m.stores) {
		return
	}
	for _, s := range refused { // in doubt, and not by all: it does it again
		m.again(x, s)
	}
	m.publish(x)
}

// again does what x did, in a store that refused it for want of a more precise
// read set.
func (m *machine) again(x *mtx, s int) {
	m.note("the %s store refused tx %d in doubt", m.stores[s].name, x.id)
	tx, err := m.stores[s].db.Begin(m.ctx, TxOptions{NoSync: x.noSync})
	if err != nil {
		m.fatalf(s, "begin: %v", err)
	}
	rows, entries := x.wroteRecords()
	for len(rows) > 0 {
		var rest []mkey // keys of unique indexes are in their way
		for _, mk := range rows {
			switch err := againRecord(tx, s, mk, x.own[mk]); {
			case errors.Is(err, ErrKeyExists):
				rest = append(rest, mk)
			case err != nil:
				m.fatalf(s, "tx %d again: %v", x.id, err)
			}
		}
		if len(rest) == len(rows) { // those go round in a circle
			for _, mk := range rest {
				if err := tx.Delete(mk.t.h[s], []byte(mk.k)); err != nil && !errors.Is(err, ErrNotFound) {
					m.fatalf(s, "tx %d again: %v", x.id, err)
				}
			}
		}
		rows = rest
	}
	for _, mk := range entries { // those that x touched in vain have a version, too
		if err := againRecord(tx, s, mk, x.own[mk]); err != nil {
			m.fatalf(s, "tx %d again: %v", x.id, err)
		}
	}
	if err := tx.Commit(); err != nil {
		m.fatalf(s, "tx %d again: %v", x.id, err)
	}
}

func (m *machine) rollback(x *mtx) {
	m.note("tx %d rolls back", x.id)
	m.each(func(s int, _ *DB) {
		if err := x.tx[s].Rollback(); err != nil {
			m.fatalf(s, "tx %d: rollback: %v", x.id, err)
		}
	})
	m.end(x)
	m.endBuilds()
}

// useDone uses a transaction after its end.
func (m *machine) useDone() {
	if len(m.done) == 0 || len(m.tables) == 0 {
		return
	}
	x := m.done[len(m.done)-1]
	t := m.tables[0]
	what := rapid.IntRange(0, 7).Draw(m.t, "use")
	m.each(func(s int, _ *DB) {
		tx, key := x.tx[s], []byte("k")
		var err error
		switch what {
		case 0:
			err = tx.Commit()
		case 1:
			_, err = tx.Get(t.h[s], key)
		case 2:
			err = tx.Put(t.h[s], key, key)
		case 3:
			_, err = tx.Savepoint()
		case 4:
			_, err = tx.Append(t.h[s], key)
		case 5:
			for _, err = range tx.Scan(t.h[s], Range{}) {
			}
		case 6:
			err = ErrTxDone
			for _, sp := range x.sps {
				err = tx.RollbackTo(sp.sp[s])
			}
		case 7:
			err = ErrTxDone
			for _, c := range x.cursors {
				if c.c[s].First() {
					m.fatalf(s, "tx %d: its cursor has a row after its end", x.id)
				}
				err = c.c[s].Err()
			}
		}
		if !errors.Is(err, ErrTxDone) {
			m.fatalf(s, "tx %d: use %d after its end: %v", x.id, what, err)
		}
	})
}

// createTable makes a table in every store.
func (m *machine) createTable() {
	t := &mtable{name: fmt.Sprintf("t%d", m.n), recs: map[string][]mver{}}
	m.each(func(s int, db *DB) {
		h, err := db.CreateTable(ctx, t.name)
		if err != nil {
			m.fatalf(s, "create table: %v", err)
		}
		t.h = append(t.h, h)
		if _, err := db.CreateTable(ctx, t.name); !errors.Is(err, ErrTableExists) {
			m.fatalf(s, "create table again: %v", err)
		}
	})
	m.durable = m.clock
	m.tables = append(m.tables, t)
	m.note("table %s is made", t.name)
}

// dropTable drops a table that no open transaction has written.
func (m *machine) dropTable(t *mtable) {
	if m.writersOf(t) || t.building() != nil {
		return
	}
	m.note("drop %s", t.name)
	m.each(func(s int, db *DB) {
		if err := db.DropTable(m.ctx, t.name); err != nil {
			m.fatalf(s, "drop table: %v", err)
		}
		if err := db.DropTable(m.ctx, t.name); !errors.Is(err, ErrTableNotFound) {
			m.fatalf(s, "drop table again: %v", err)
		}
	})
	m.clock++
	m.durable, t.dropped = m.clock, m.clock
	for _, ix := range t.live() {
		ix.dropped, ix.entries.dropped = m.clock, m.clock
	}
}

// gc forgets dropped tables and indexes that no snapshot reads.
func (m *machine) gc() {
	gone := func(dropped int) bool {
		return dropped != 0 && !slices.ContainsFunc(m.txs, func(x *mtx) bool { return x.iso != ReadCommitted && x.snap < dropped })
	}
	m.tables = slices.DeleteFunc(m.tables, func(t *mtable) bool { return gone(t.dropped) })
	for _, t := range m.tables {
		t.indexes = slices.DeleteFunc(t.indexes, func(ix *mindex) bool { return gone(ix.dropped) })
	}
}

// key draws a key by its number: some are long.
func (m *machine) key() string { return m.keys[rapid.IntRange(0, len(m.keys)-1).Draw(m.t, "key")] }

func (m *machine) bounds() (from, to []byte) {
	if rapid.Bool().Draw(m.t, "from") {
		from = []byte(m.key())
	}
	if rapid.Bool().Draw(m.t, "to") {
		to = []byte(m.key())
	}
	return from, to
}

// ops are the operations with their weights, for a machine with transactions.
var ops = []string{
	"begin", "write", "write", "write", "write", "write", "write", "write", "get", "get", "get", "scan", "scan", "cursor", "move", "move",
	"move", "fill", "append", "savepoint", "savepoint", "rollbackto", "rollbackto", "release", "commit", "rollback", "done",
	"client", "client", "client", "client", "client", "maintain", "maintain", "maintain", "maintain", "maintain", "pressure", "pressure",
	"checkpoint", "checkpoint", "sync", "verify", "tables", "snapshots", "snapshots", "crash",
	"indexes", "indexes", "scan index", "scan index", "scan index", "index cursor",
}

// idleOps are those without.
var idleOps = []string{"begin", "begin", "begin", "client", "client", "pressure", "maintain", "tables", "indexes", "crash"}

// step does one random operation.
func (m *machine) step(*rapid.T) {
	m.n++
	m.gc()
	from := ops
	if len(m.txs) == 0 {
		from = idleOps
	}
	op := rapid.SampledFrom(from).Draw(m.t, "op")
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
			m.begin(TxOptions{
				ReadOnly: rapid.IntRange(0, 4).Draw(m.t, "readonly") == 0, NoSync: rapid.Bool().Draw(m.t, "nosync"), Isolation: m.level(),
			})
		}
	case "client":
		if t != nil && t.dropped == 0 {
			m.client(t)
		}
	case "tables":
		m.changeTables(t)
	case "indexes":
		if t != nil && t.dropped == 0 {
			m.changeIndexes(t)
		}
	case "maintain":
		m.maintain(t)
	case "pressure":
		m.pressure()
	case "checkpoint", "sync":
		m.flush(op)
	case "verify":
		m.each(func(_ int, db *DB) { checkStore(m.t, db) })
	case "snapshots":
		m.checkSnapshots()
	case "crash":
		if rapid.IntRange(0, 3).Draw(m.t, "crash") == 0 {
			m.crash()
		}
	case "commit":
		m.commit(x)
	case "rollback":
		m.rollback(x)
	case "done":
		m.useDone()
	case "savepoint", "rollbackto", "release":
		m.savepoints(x, op)
	default:
		if x != nil && t != nil && m.readable(x, t) {
			m.rows(x, t, op)
		}
	}
}

// changeTables makes or drops one now and then.
func (m *machine) changeTables(t *mtable) {
	switch rapid.IntRange(0, 5).Draw(m.t, "tables") {
	case 0:
		if t != nil && t.dropped == 0 {
			m.dropTable(t)
		}
	case 1, 2:
		if len(m.tables) < 3 {
			m.createTable()
		}
	}
}

// flush makes everything durable that was committed.
func (m *machine) flush(op string) {
	m.note("%s", op)
	m.each(func(s int, db *DB) {
		fn := func() error { return db.Checkpoint(ctx) }
		if op == "sync" {
			fn = db.Sync
		}
		if err := fn(); err != nil {
			m.fatalf(s, "%s: %v", op, err)
		}
	})
	m.durable = m.clock
}

func (m *machine) savepoints(x *mtx, op string) {
	m.note("tx %d: %s, depth %d", x.id, op, len(x.sps))
	if op == "savepoint" {
		if len(x.sps) < 40 {
			mark := msp{own: maps.Clone(x.own)}
			m.each(func(s int, _ *DB) {
				sp, err := x.tx[s].Savepoint()
				if err != nil {
					m.fatalf(s, "savepoint: %v", err)
				}
				mark.sp = append(mark.sp, sp)
			})
			x.sps = append(x.sps, mark)
		}
		return
	}
	if len(x.sps) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.sps)-1).Draw(m.t, "savepoint")
	mark, gone := x.sps[i], x.sps[i+1:]
	if op == "release" {
		gone = x.sps[i:]
	}
	m.each(func(s int, _ *DB) {
		fn := x.tx[s].RollbackTo
		if op == "release" {
			fn = x.tx[s].Release
		}
		if err := fn(mark.sp[s]); err != nil {
			m.fatalf(s, "tx %d: %s: %v", x.id, op, err)
		}
		for _, g := range gone {
			if err := errors.Join(x.tx[s].RollbackTo(g.sp[s]), x.tx[s].Release(g.sp[s])); !errors.Is(err, ErrSavepointNotFound) {
				m.fatalf(s, "tx %d: a savepoint that is gone: %v", x.id, err)
			}
		}
		for _, y := range m.txs {
			if y != x {
				if err := y.tx[s].RollbackTo(mark.sp[s]); !errors.Is(err, ErrSavepointNotFound) {
					m.fatalf(s, "tx %d: another one's savepoint: %v", y.id, err)
				}
			}
		}
	})
	if op == "release" {
		x.sps = x.sps[:i]
		return
	}
	x.rollbackTo(i)
	x.writes++
}

// maintain does what the scavenger might do at any moment, in one store or all.
func (m *machine) maintain(t *mtable) {
	op := rapid.SampledFrom([]string{
		"prune", "backlog", "all", "chill", "chill", "collapse", "evict", "merge", "sweep", "unburden", "give up", "reopen",
		"checkpoint",
	}).Draw(m.t, "maintain")
	only := rapid.IntRange(-1, len(m.stores)-1).Draw(m.t, "where")
	switch {
	case op == "merge" && t == nil:
		return
	case op == "reopen":
		if rapid.IntRange(0, 3).Draw(m.t, "reopen") == 0 {
			m.reopen()
		}
		return
	}
	m.note("maintain: %s, store %d", op, only)
	key := []byte(m.key())
	var ix *mindex
	if op == "merge" && rapid.Bool().Draw(m.t, "entries") {
		if ix = m.index(t); ix != nil {
			key = []byte(place(m.indexKey(ix)))
		}
	}
	m.each(func(s int, db *DB) {
		if only >= 0 && only != s {
			return
		}
		switch op {
		case "checkpoint":
			if err := db.Checkpoint(ctx); err != nil {
				m.fatalf(s, "checkpoint: %v", err)
			}
		case "sweep":
			waitSwept(m.t, db)
		case "unburden", "give up":
			db.m.Unburden(op == "give up")
		case "merge":
			h := t.h[s]
			if ix != nil {
				h = ix.h[s].Entries()
			}
			maintain(m.t, db, op, h, key)
		default:
			maintain(m.t, db, op, nil, nil)
		}
	})
}

func machineKeys() []string {
	keys := []string{"a", "ab", "abc", "b", "\x00", "\xff", "\xff\xff\xff\xff\xff"}
	for i := range 12 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
	}
	for i := 0; i < 1000; i += 90 {
		keys = append(keys, fmt.Sprintf("f%05d", i))
	}
	long := strings.Repeat("long", MaxKeySize/4)
	return append(keys, long, long[:len(long)-1], long[:5000]+"x")
}

// machineStores are the stores of a machine. Only what they are told to sync is
// synced.
func machineStores(t tester) []*mstore {
	t.Helper()
	tiny := tinyOptions()
	tiny.ChillThreshold = 1
	tiny.LogSegmentSize, tiny.LogLimit, tiny.RunSize = 64<<10, 1<<20, 64<<10
	small := tinyOptions() // transactions stay small: they are chilled, not backlogged at once
	small.ChillThreshold = 0
	stores := []*mstore{
		{name: "tiny", o: tiny, spans: 2},
		{name: "chilling", o: small},
		{name: "roomy", o: &Options{Memory: 32 << 20, LogSegmentSize: 1 << 20}, whole: true},
	}
	for _, s := range stores {
		s.fs = newCrashFS(t)
		s.o.FS, s.o.SyncInterval = s.fs, time.Hour
	}
	return stores
}

// runMachine is one life of the stores beside their model.
func runMachine(t *rapid.T, tally map[string]int) {
	wctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // against hanging only
	defer cancel()
	m := &machine{t: t, ctx: wctx, keys: machineKeys(), stores: machineStores(t), tally: tally}
	for s := range m.stores {
		m.open(s)
	}
	defer func() {
		// After a failure the stores are still open.
		if m.stop != nil {
			m.stop.goOn()
		}
		told := false
		for _, s := range m.stores {
			if s.db != nil && !s.db.closed.Load() {
				if !told {
					t.Logf("%s\n%s", strings.Join(m.trace[max(0, len(m.trace)-80):], "\n"), s.db.Metrics())
				}
				told = true
				_ = s.db.Close()
			}
		}
	}()
	m.makeFiller()
	m.createTable()
	t.Repeat(map[string]func(*rapid.T){"step": m.step})
	m.finish()
}

// finish ends all transactions and compares, before and after a reopening.
func (m *machine) finish() {
	m.checkSnapshots()
	for _, x := range slices.Clone(m.txs) {
		if rapid.Bool().Draw(m.t, "commit") {
			m.commit(x)
		} else {
			m.rollback(x)
		}
	}
	m.endFiller(false)
	m.gc()
	m.compare()
	m.each(func(s int, db *DB) {
		m.tally["leaves written whole"] += int(db.cache.Stats.WholeLeaves.Load())
		mustClose(m.t, db)
		m.open(s)
	})
	m.opened(false)
	m.compare()
	m.each(func(_ int, db *DB) { mustClose(m.t, db) })
}

// The same operations on stores that differ in memory only: everything leaves
// memory at once, some does, nothing does (scenario 12). For long runs:
//
//	go test ./engine -run '^TestModel$' -rapid.checks 10000 -rapid.steps 200
func TestModel(t *testing.T) {
	tally := map[string]int{} // what came of operations on indexes, all checks together
	rapid.Check(t, func(rt *rapid.T) { runMachine(rt, tally) })
	t.Log(tally)
}
