package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The oracle knows, for each writer, the state after each of its commits. What
// recovery finds must be one of those states: not older than the last durable
// commit that was acknowledged before the crash, not newer than the last one
// that had begun. Since each state is checked as a whole, transactions are whole
// and nothing of one that did not commit is there (L1, L3).

// delta is what one commit changed; nil values are deletions. A table itself is
// the key "table".
type delta map[string][]byte

type oracle struct {
	mu      sync.Mutex
	deltas  []delta
	sums    []uint64 // sums[i] is the state after i commits
	cur     map[string][]byte
	acked   int
	durable int
}

func newOracle() *oracle { return &oracle{sums: []uint64{0}, cur: map[string][]byte{}} }

func rowSum(k string, v []byte) uint64 {
	return xxhash.Sum64String(k)*31 ^ xxhash.Sum64(v)*0x9e3779b97f4a7c15
}

// start says that a commit begins.
func (o *oracle) start(d delta) {
	o.mu.Lock()
	defer o.mu.Unlock()
	sum := o.sums[len(o.sums)-1]
	for k, v := range d {
		if old, ok := o.cur[k]; ok {
			sum ^= rowSum(k, old)
			delete(o.cur, k)
		}
		if v != nil {
			sum ^= rowSum(k, v)
			o.cur[k] = v
		}
	}
	o.deltas, o.sums = append(o.deltas, d), append(o.sums, sum)
}

// ack says that it returned.
func (o *oracle) ack(durable bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.acked = len(o.deltas); durable {
		o.durable = o.acked
	}
}

func (o *oracle) synced(n int) {
	o.mu.Lock()
	o.durable = max(o.durable, n)
	o.mu.Unlock()
}

func (o *oracle) span() (acked, durable, started int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked, o.durable, len(o.deltas)
}

func (o *oracle) state(n int) map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := map[string][]byte{}
	for _, d := range o.deltas[:n] {
		for k, v := range d {
			if delete(st, k); v != nil {
				st[k] = v
			}
		}
	}
	return st
}

// match finds the state with the rows, within [lo, hi] commits.
func (o *oracle) match(tb testing.TB, what string, rows map[string][]byte, lo, hi int) int {
	tb.Helper()
	var sum uint64
	for k, v := range rows {
		sum ^= rowSum(k, v)
	}
	o.mu.Lock()
	sums := o.sums
	o.mu.Unlock()
	for n := hi; n >= lo; n-- {
		if sums[n] == sum {
			return n
		}
	}
	for n := range sums {
		if sums[n] == sum {
			tb.Fatalf("%s: the state is that after %d commits, not within %d to %d", what, n, lo, hi)
		}
	}
	for n := lo; n <= hi && n < lo+3; n++ {
		tb.Errorf("%s: the state is not that after %d commits: %s", what, n, diff(o.state(n), rows))
	}
	tb.FailNow()
	return 0
}

func diff(want, got map[string][]byte) string {
	var b strings.Builder
	n := 0
	show := func(format string, args ...any) {
		if n++; n <= 6 {
			fmt.Fprintf(&b, format, args...)
		}
	}
	for k, v := range want {
		if g, ok := got[k]; !ok {
			show("\n  %.60q is missing", k)
		} else if string(g) != string(v) {
			show("\n  %.60q is %.40q (%d bytes), want %.40q (%d bytes)", k, g, len(g), v, len(v))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			show("\n  %.60q should not be there", k)
		}
	}
	return fmt.Sprintf("%d differences%s", n, b.String())
}

// crashWriter does random work in tables of its own and tells its oracle.
type crashWriter struct {
	id     int
	t      testing.TB
	db     *DB
	rng    *rand.Rand
	o      *oracle
	tables []*Table
	n      int
	bulk   bool
	few    int  // rows of bulk transactions, if not 12000
	calm   bool // rows stay in memory, and checkpoints come often
}

// newCrashWriters returns three writers, one of which does bulk transactions too.
func newCrashWriters(t *testing.T, db *DB, seed uint64) (writers []*crashWriter) {
	t.Helper()
	for i := range 3 {
		w := &crashWriter{id: i, t: t, db: db, rng: rand.New(rand.NewPCG(seed, uint64(i))), o: newOracle(), bulk: i == 0}
		w.addTable()
		writers = append(writers, w)
	}
	return writers
}

func (w *crashWriter) addTable() {
	name := fmt.Sprintf("w%d/%d", w.id, w.n)
	w.o.start(delta{name: []byte("table")})
	t, err := w.db.CreateTable(ctx, name)
	check(w.t, err)
	w.o.ack(true)
	w.tables = append(w.tables, t)
}

func (w *crashWriter) dropTable() {
	i := w.rng.IntN(len(w.tables))
	t := w.tables[i]
	d := delta{t.Name: nil}
	w.o.mu.Lock()
	for k := range w.o.cur {
		if strings.HasPrefix(k, t.Name+"\x00") {
			d[k] = nil
		}
	}
	w.o.mu.Unlock()
	w.o.start(d)
	check(w.t, w.db.DropTable(ctx, t.Name))
	w.o.ack(true)
	w.tables = append(w.tables[:i], w.tables[i+1:]...)
}

// writes does n random writes and notes them in d.
func (w *crashWriter) writes(tx *Tx, tb *Table, d delta, n, size int) {
	order, base := w.rng.IntN(3), w.rng.IntN(2000)
	for i := range n {
		var key string
		switch order {
		case 0:
			key = fmt.Sprintf("k%06d", base+i)
		case 1:
			key = fmt.Sprintf("k%06d", (base+i*7919)%(2*n+500))
		default:
			key = fmt.Sprintf("k%06d", w.rng.IntN(2*n+500))
		}
		at := tb.Name + "\x00" + key
		if w.rng.IntN(8) == 0 {
			err := tx.Delete(tb, []byte(key))
			if err == nil {
				d[at] = nil
			} else if !errors.Is(err, ErrNotFound) {
				w.t.Fatalf("delete %s: %v", key, err)
			}
			continue
		}
		w.n++
		v := value(w.n, w.rng.IntN(size)+1)
		check(w.t, tx.Put(tb, []byte(key), v))
		d[at] = v
	}
}

// transaction runs one transaction with savepoints.
func (w *crashWriter) transaction(rows, size int) {
	noSync := w.rng.IntN(3) == 0
	tx := mustBegin(w.t, w.db, TxOptions{NoSync: noSync})
	d := delta{}
	tb := w.tables[w.rng.IntN(len(w.tables))]
	w.writes(tx, tb, d, rows/2+1, size)
	type mark struct {
		sp Savepoint
		d  delta
	}
	var marks []mark
	for range w.rng.IntN(5) {
		switch {
		case len(marks) == 0 || w.rng.IntN(2) == 0:
			sp, err := tx.Savepoint()
			check(w.t, err)
			marks = append(marks, mark{sp, maps.Clone(d)})
		default:
			i := w.rng.IntN(len(marks))
			if w.rng.IntN(3) == 0 {
				check(w.t, tx.Release(marks[i].sp))
				marks = marks[:i]
			} else {
				check(w.t, tx.RollbackTo(marks[i].sp))
				d = maps.Clone(marks[i].d)
				marks = marks[:i+1]
			}
		}
		w.writes(tx, w.tables[w.rng.IntN(len(w.tables))], d, rows/8+1, size)
		w.disturb()
	}
	if w.rng.IntN(4) == 0 {
		check(w.t, tx.Rollback())
		return
	}
	w.o.start(d)
	check(w.t, tx.Commit())
	w.o.ack(!noSync)
}

// disturb does to the rows of running transactions what low memory would.
func (w *crashWriter) disturb() {
	if w.calm && w.rng.IntN(200) > 0 {
		return
	}
	switch w.rng.IntN(12) {
	case 0, 1:
		chillAll(w.t, w.db)
	case 2:
		backlogAll(w.t, w.db)
	case 3:
		evictAll(w.t, w.db)
	case 4:
		tb := w.tables[w.rng.IntN(len(w.tables))]
		mergeAt(w.t, w.db, tb, fmt.Appendf(nil, "k%06d", w.rng.IntN(3000)))
	}
}

func (w *crashWriter) bulkRows() int {
	if w.few > 0 {
		return w.few
	}
	return 12000
}

func (w *crashWriter) step() {
	w.n++
	if w.calm {
		w.calmStep()
		return
	}
	switch r := w.rng.IntN(24); {
	case r == 0 && len(w.tables) < 3:
		w.addTable()
	case r == 1 && len(w.tables) > 1:
		w.dropTable()
	case r == 2:
		acked, _, _ := w.o.span()
		check(w.t, w.db.Sync())
		w.o.synced(acked)
	case r == 3:
		check(w.t, w.db.Checkpoint(ctx))
	case r == 4:
		chillAll(w.t, w.db)
	case r == 5:
		backlogAll(w.t, w.db)
	case r == 6:
		evictAll(w.t, w.db)
	case r == 7:
		tb := w.tables[w.rng.IntN(len(w.tables))]
		mergeAt(w.t, w.db, tb, fmt.Appendf(nil, "k%06d", w.rng.IntN(3000)))
	case r == 8:
		w.transaction(3, 60000) // large values
	case r == 9 && w.bulk:
		w.transaction(w.bulkRows(), 150)
	case r == 14:
		check(w.t, w.db.CollectSpace(ctx))
	case r < 13:
		w.transaction(400, 200)
	default:
		w.transaction(w.rng.IntN(6)+1, 300)
	}
}

// crashPoint is a clone of the disk and what its recovery may find.
type crashPoint struct {
	fs      *vfs.MemFS
	percent int
	lo, hi  []int
	at      string // what had just happened
}

func takeCrash(fs *vfs.MemFS, percent int, rng *rand.Rand, writers []*crashWriter) crashPoint {
	p := crashPoint{percent: percent}
	for _, w := range writers {
		_, durable, _ := w.o.span()
		p.lo = append(p.lo, durable)
	}
	p.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
	for _, w := range writers {
		_, _, started := w.o.span()
		p.hi = append(p.hi, started)
	}
	return p
}

// contents reads the tables of one writer.
func contents(tb testing.TB, db *DB, id int) map[string][]byte {
	tb.Helper()
	rows := map[string][]byte{}
	for _, name := range db.Tables() {
		if !strings.HasPrefix(name, fmt.Sprintf("w%d/", id)) {
			continue
		}
		table, err := db.Table(name)
		check(tb, err)
		rows[name] = []byte("table")
		inView(tb, db, func(tx *Tx) {
			var last []byte
			n := 0
			for row, err := range tx.Scan(table, Range{}) {
				check(tb, err)
				if last != nil && string(row.Key) <= string(last) {
					tb.Fatalf("scan of %s: %q after %q", name, row.Key, last)
				}
				last = append(last[:0], row.Key...)
				rows[name+"\x00"+string(row.Key)] = bytes.Clone(row.Value)
				if n++; n%97 == 0 {
					got, err := tx.Get(table, row.Key)
					if err != nil || string(got) != string(row.Value) {
						tb.Fatalf("get %s %q: %.40q %v, scan said %.40q", name, row.Key, got, err, row.Value)
					}
				}
			}
			for _, err := range tx.Scan(table, Range{Reverse: true}) {
				check(tb, err)
				n--
			}
			if n != 0 {
				tb.Fatalf("scan of %s in reverse differs by %d rows", name, n)
			}
		})
	}
	return rows
}

// recover opens what the crash left, checks it, and crashes again: recovery is
// repeated with what the first one wrote, and without it.
func (p *crashPoint) recover(tb testing.TB, o Options, writers []*crashWriter, rng *rand.Rand) {
	tb.Helper()
	fs := p.fs
	lo := append([]int(nil), p.lo...)
	hi := append([]int(nil), p.hi...)
	lives := 1 + rng.IntN(3)
	for life := range lives {
		o.FS = fs
		db, err := Open("db", &o)
		if err != nil {
			tb.Fatalf("%d %% of unsynced data, life %d: %v", p.percent, life, err)
		}
		checkStore(tb, db)
		for i, w := range writers {
			what := fmt.Sprintf("%d %% of unsynced data, life %d, writer %d", p.percent, life, w.id)
			n := w.o.match(tb, what, contents(tb, db, w.id), lo[i], hi[i])
			lo[i], hi[i] = n, n
		}
		if life == lives-1 {
			mustClose(tb, db)
			break
		}
		switch rng.IntN(3) {
		case 0:
			check(tb, db.Checkpoint(ctx))
		case 1:
			evictAll(tb, db)
		}
		next := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng})
		check(tb, db.Close())
		fs = next
	}
	db := mustOpen(tb, &o)
	for i, w := range writers {
		w.o.match(tb, "after close", contents(tb, db, w.id), lo[i], hi[i])
	}
	checkStore(tb, db)
	check(tb, db.Close())
}

func crashLifeOptions(fs vfs.FS) *Options {
	o := tinyOptions()
	o.FS = fs
	o.LogSegmentSize = 128 << 10
	o.LogLimit = 1 << 20
	o.ChillThreshold = 64 << 10
	return o
}

// TestCrash does random work in several goroutines and crashes at random moments.
func TestCrash(t *testing.T) {
	seeds := []uint64{1, 2, 3}
	if s := *crashSeed; s != 0 {
		seeds = []uint64{s}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { crashLife(t, seed, *crashRounds) })
	}
}

func crashLife(t *testing.T, seed uint64, rounds int) {
	fs := newCrashFS(t)
	o := crashLifeOptions(fs)
	if seed%3 == 0 {
		o.ChillThreshold = 1 << 10
	}
	db := mustOpen(t, o)
	db.collect.least = 16 << 10
	writers := newCrashWriters(t, db, seed)
	c := newCrew()
	defer c.stop()
	var steps atomic.Int64
	for _, w := range writers {
		c.repeat(func(int) { w.step(); steps.Add(1) })
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	for i := range rounds {
		enough := steps.Load() + rng.Int64N(40)
		eventually(t, "work", func() bool { return steps.Load() >= enough })
		p := takeCrash(fs, i%3*50, rng, writers)
		p.recover(t, *o, writers, rng)
		if t.Failed() {
			break
		}
	}
	c.stop()
	if t.Failed() {
		return
	}
	final := takeCrash(fs, 100, rng, writers)
	mustClose(t, db)
	final.recover(t, *o, writers, rng)
	last := takeCrash(fs, 0, rng, writers)
	copy(last.lo, last.hi) // a clean end loses nothing
	last.recover(t, *o, writers, rng)
}
