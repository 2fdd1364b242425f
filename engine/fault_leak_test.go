package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// lottery fails one read in so many, at random, while it is armed. Nothing is poisoned
// by that, and the next read may succeed. Reads of the leaf map fail seldom: a
// compaction makes many, and while none succeeds edits wait, which is no leak.
func lottery(seed uint64, oneIn int) *faults {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 11))
	f := &faults{kind: errorfs.OpIsRead, err: errInjected}
	f.skip = func(op errorfs.Op) bool {
		if toWrite(op) {
			return true
		}
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(op.Path, "space/map") {
			return rng.IntN(1000) > 0
		}
		return rng.IntN(oneIn) > 0
	}
	return f
}

// checkEmpty checks that a store in which every transaction has ended, and from which
// every table was dropped, holds nothing: no record memory, no run, no room in a
// buffer or queue, no log. A run that somebody holds would not have been unlinked, a
// segment that somebody pins would be there.
func checkEmpty(t *testing.T, db *DB) {
	t.Helper()
	checkIdle(t, db)
	db.temps.Rollover() // the shared run goes like others
	eventually(t, "an empty store", func() bool {
		check(t, db.Checkpoint(ctx)) // which removes what dropped tables had, forgets, unlinks
		return db.arena.Reserved() == 0 && db.space.Stats().Runs == 0
	})
	checkIdle(t, db)
	check(t, db.Sync())
	eventually(t, "buffers and queues", func() bool {
		sp, lg := db.space.Stats(), db.log.Stats()
		return sp.BufferUsed == 0 && sp.Queued == 0 && lg.BufferedBytes == 0 && lg.Waiting == 0
	})
	if n := db.cache.Leaves(); n != 0 {
		t.Errorf("%d leaves are present", n)
	}
	if n := db.scav.Waiters(); n != 0 {
		t.Errorf("%d wait for memory", n)
	}
	if n := db.log.Passed(db.log.End()); n != 0 {
		t.Errorf("L5: %d log segments are kept for nothing", n)
	}
	if t.Failed() {
		t.Logf("%+v\n%+v\n%s", db.space.Stats(), db.log.Stats(), db.holders())
	}
}

// held is a store whose statements, and all that works behind them, meet failed reads.
type held struct {
	t      *testing.T
	db     *DB
	tables []*Table
	rng    *rand.Rand
	txs    []*Tx
	saved  map[*Tx][]Savepoint
	n      int
	errs   map[string]int // steps that failed for a read
}

// may lets pass what a step may say.
func (h *held) may(what string, err error) {
	h.t.Helper()
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrKeyExists), errors.Is(err, ErrLockTimeout), errors.Is(err, ErrConflict):
	case errors.Is(err, errInjected):
		h.errs[what]++
	default:
		h.t.Fatalf("%s: %v", what, err)
	}
}

func (h *held) table() *Table { return h.tables[h.rng.IntN(len(h.tables))] }
func (h *held) key() []byte   { return fmt.Appendf(nil, "k%04d", h.rng.IntN(1200)) }
func (h *held) scanRange() Range {
	r := Range{From: h.key(), Reverse: h.rng.IntN(2) == 0, Limit: h.rng.IntN(600)}
	if h.rng.IntN(2) == 0 {
		r.To = []byte("l")
	}
	return r
}

func (h *held) put(tx *Tx) error {
	size := 1 + h.rng.IntN(600)
	if h.rng.IntN(40) == 0 {
		size = 20000
	}
	h.n++
	switch tb, k, v := h.table(), h.key(), value(h.n, size); h.rng.IntN(6) {
	case 0:
		return tx.Delete(tb, k)
	case 1:
		return tx.Insert(tb, k, v)
	case 2:
		_, err := tx.GetForUpdate(tb, k)
		return err
	default:
		return tx.Put(tb, k, v)
	}
}

// look reads in one of several ways. A cursor stays open now and then, until its
// transaction ends.
func (h *held) look(tx *Tx) error {
	switch h.rng.IntN(4) {
	case 0:
		for _, err := range tx.Scan(h.table(), h.scanRange()) {
			if err != nil {
				return err
			}
		}
	case 1:
		c := tx.Cursor(h.table(), h.scanRange())
		for ok := c.First(); ok && h.rng.IntN(50) > 0; {
			if ok = c.Next(); h.rng.IntN(20) == 0 {
				ok = c.Prev()
			}
		}
		return c.Err()
	case 2:
		for _, ix := range indexesOf(h.tables[0]) {
			for _, err := range tx.ScanIndex(ix, Range{Limit: 100, Reverse: h.rng.IntN(2) == 0}) {
				if err != nil {
					return err
				}
			}
		}
	default:
		_, err := tx.Get(h.table(), h.key())
		return err
	}
	return nil
}

// begin keeps some transactions open, at all levels.
func (h *held) begin() *Tx {
	if len(h.txs) < 4 {
		tx := mustBegin(h.t, h.db, TxOptions{Isolation: Isolation(h.rng.IntN(3)), LockTimeout: -1, NoSync: h.rng.IntN(2) == 0})
		h.txs = append(h.txs, tx)
	}
	return h.txs[h.rng.IntN(len(h.txs))]
}

// end ends a transaction one way or the other.
func (h *held) end(i int) error {
	tx := h.txs[i]
	h.txs = append(h.txs[:i], h.txs[i+1:]...)
	delete(h.saved, tx)
	if h.rng.IntN(3) == 0 {
		return tx.Rollback()
	}
	return tx.Commit()
}

func (h *held) savepoint(tx *Tx) error {
	sps := h.saved[tx]
	switch i := len(sps); {
	case i == 0 || h.rng.IntN(3) == 0:
		sp, err := tx.Savepoint()
		h.saved[tx] = append(sps, sp)
		return err
	case h.rng.IntN(3) > 0:
		i = h.rng.IntN(i)
		h.saved[tx] = sps[:i+1]
		return tx.RollbackTo(sps[i])
	default:
		h.saved[tx] = sps[:i-1]
		return tx.Release(sps[i-1])
	}
}

// work is what is done behind transactions.
func (h *held) work() (string, error) {
	l := life{db: h.db}
	switch h.rng.IntN(8) {
	case 0, 1:
		h.db.cache.DropCold()
		return "evict", l.evict()
	case 2:
		return "chill", l.chill()
	case 3:
		err := h.db.cache.Merge(ctx, h.table(), h.key(), h.db.m.Stretches)
		if recordcache.IsNoMemory(err) {
			err = nil
		}
		return "merge", err
	case 4:
		return "checkpoint", h.db.Checkpoint(ctx)
	case 5:
		return "collect", h.db.CollectSpace(ctx)
	case 6:
		victims := map[base.RunID]bool{}
		for _, r := range h.db.space.RunInfos(nil) {
			victims[r.Run] = h.rng.IntN(2) == 0
		}
		err := h.db.cache.Collect(ctx, h.table(), recordcache.Span{Low: []byte{}}, victims)
		if recordcache.IsNoMemory(err) {
			err = nil
		}
		return "rewrite", err
	default:
		return "backlog", l.relieve(recordcache.Backlog)
	}
}

func (h *held) step() {
	switch tx := h.begin(); h.rng.IntN(14) {
	case 0, 1, 2:
		for range h.rng.IntN(120) {
			h.may("write", h.put(tx))
		}
	case 3, 4, 5, 6:
		h.may("read", h.look(tx))
	case 7:
		h.may("savepoint", h.savepoint(tx))
	case 8, 9, 10:
		if h.rng.IntN(2) == 0 { // what a serializable commit looks at is on disk
			h.may("evict", (&life{db: h.db}).evict())
		}
		h.may("end", h.end(h.rng.IntN(len(h.txs))))
	default:
		what, err := h.work()
		h.may(what, err)
	}
}

// Reads fail at random under all that a store does: scans, gets, merges, collection,
// sweeps, rollbacks to savepoints. When the disk reads again, the transactions have
// ended and the tables are dropped, nothing is held by anybody: what a step has taken
// it has given back wherever it failed (M1, M7, M8, L5). Other tests of faults look at
// answers only.
func TestFailedReadsHoldNothing(t *testing.T) {
	seeds := uint64(6)
	if *long {
		seeds = 60
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := lottery(seed, []int{3, 12, 60}[seed%3])
			o := faultOptions(errorfs.Wrap(newCrashFS(t), f))
			db := mustOpen(t, o)
			h := &held{t: t, db: db, rng: rand.New(rand.NewPCG(seed, 12)), saved: map[*Tx][]Savepoint{}, errs: map[string]int{}}
			for _, name := range []string{"a", "b"} {
				h.tables = append(h.tables, mustTable(t, db, name))
			}
			_, err := db.CreateIndex(ctx, h.tables[0], "heads", false, func(row Row, emit func([]byte)) { emit(row.Value[:min(6, len(row.Value))]) })
			check(t, err)
			within(t, f.where, func() {
				for i := range 600 {
					if i > 40 { // there is something to read
						f.arm(0)
					}
					h.step()
				}
				f.armed.Store(false)
			})
			for len(h.txs) > 0 {
				h.may("end", h.end(0))
			}
			check(t, db.failed())
			t.Logf("%d reads failed, and with them %v", f.failed.Load(), h.errs)
			for _, name := range db.Tables() {
				check(t, db.DropTable(ctx, name))
			}
			within(t, func() string { return "the end" }, func() { checkEmpty(t, db) })
			check(t, db.Close())
		})
	}
}

// The disk does not read while a rollback is swept. The sweeper tried a few times and
// gave up: the transaction stayed known to be aborted, and what its leaves listed of it
// stayed charged, until the store was opened again. It tries until it can.
func TestSweepOutlastsFailedReads(t *testing.T) {
	f := &faults{skip: func(op errorfs.Op) bool { return !strings.HasSuffix(op.Path, ".run") }}
	db, txs := sweepStore(t, f, 1)
	f.arm(0)
	rollback(t, txs[0])
	eventually(t, "some tries", func() bool { return f.failed.Load() >= 6 })
	f.armed.Store(false)
	for _, name := range db.Tables() {
		check(t, db.DropTable(ctx, name))
	}
	checkEmpty(t, db)
	check(t, db.Close())
}

// sweepStore is a store whose runs cannot be read in part, once f is armed, and n
// transactions with several runs each, to be rolled back.
func sweepStore(t *testing.T, f *faults, n int) (*DB, []*Tx) {
	t.Helper()
	f.kind, f.err = errorfs.OpIsRead, errInjected
	db := mustOpen(t, faultOptions(errorfs.Wrap(newCrashFS(t), f)))
	tb := mustTable(t, db, "t")
	var txs []*Tx
	for x := range n {
		tx := mustBegin(t, db, TxOptions{})
		for i := range 1000 {
			put(t, tx, tb, fmt.Sprintf("%d/k%05d", x, i*7919%10007), string(value(i, 300)))
		}
		evictAll(t, db)
		txs = append(txs, tx)
	}
	_, err := db.space.Flush()
	check(t, err)
	return db, txs
}

// While one run of a large transaction that was rolled back could not be read, each try
// of the sweeper read all of its runs anew, and none of them was unlinked.
func TestSweepGoesOn(t *testing.T) {
	var bad string
	var others atomic.Int64
	f := &faults{}
	f.skip = func(op errorfs.Op) bool {
		if strings.HasSuffix(op.Path, ".run") && !strings.HasSuffix(op.Path, bad) {
			others.Add(1)
		}
		return !strings.HasSuffix(op.Path, bad)
	}
	db, txs := sweepStore(t, f, 1)
	infos := db.space.RunInfos(nil)
	if len(infos) < 4 {
		t.Fatal(len(infos), "runs")
	}
	bad = fmt.Sprintf("%016x.run", uint64(infos[1].Run))
	f.arm(0)
	rollback(t, txs[0])
	eventually(t, "a second try", func() bool { return f.failed.Load() >= 2 })
	read := others.Load()
	eventually(t, "some tries", func() bool { return f.failed.Load() >= 5 })
	if n := others.Load(); read == 0 || n != read {
		t.Errorf("%d reads of other runs for the first try, %d for the next", read, n-read)
	}
	left := 0
	for _, r := range db.space.RunInfos(nil) {
		if r.Bytes > 0 {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d of %d runs are left, one cannot be read", left, len(infos))
	}
	f.armed.Store(false)
	check(t, db.DropTable(ctx, "t"))
	checkEmpty(t, db)
	mustClose(t, db)
}

// Close came while the sweeper tried rollbacks again that it could not read: it waited
// until each run of each had been asked for.
func TestCloseBesideSweep(t *testing.T) {
	in, out := make(chan struct{}), make(chan struct{})
	var blocks atomic.Bool
	f := &faults{}
	f.skip = func(op errorfs.Op) bool {
		run := strings.HasSuffix(op.Path, ".run")
		if run && blocks.CompareAndSwap(true, false) {
			close(in)
			<-out
		}
		return !run
	}
	db, txs := sweepStore(t, f, 4)
	f.arm(0)
	for _, tx := range txs {
		rollback(t, tx)
	}
	eventually(t, "some tries", func() bool { return f.failed.Load() >= 50 })
	blocks.Store(true)
	<-in
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	eventually(t, "Close", func() bool {
		tx, err := db.m.Begin(ctx, TxOptions{ReadOnly: true})
		if err == nil {
			check(t, tx.Rollback())
		}
		return errors.Is(err, ErrClosed)
	})
	before := f.failed.Load()
	close(out)
	check(t, <-closed)
	if n := f.failed.Load() - before; n > 2 { // the one that was stopped, of the index or of a frame
		t.Errorf("%d reads were tried after Close had begun", n)
	}
}
