package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// spaceStore is a store of rows that are updated for ever, and what it holds.
type spaceStore struct {
	t    *testing.T
	db   *DB
	tb   *Table
	rng  *rand.Rand
	o    *oracle
	n    int // writes
	rows int
	live int64 // bytes of keys and values
	size int

	written, worst int64
}

const spaceKey = "row%07d"

func newSpaceStore(t *testing.T, db *DB, rows, size int, seed uint64) *spaceStore {
	s := &spaceStore{t: t, db: db, rows: rows, size: size, rng: rand.New(rand.NewPCG(seed, 1)), o: newOracle()}
	s.o.start(delta{"w0/t": []byte("table")})
	var err error
	s.tb, err = db.CreateTable(ctx, "w0/t")
	check(t, err)
	s.o.ack(true)
	for at := 0; at < rows; at += 500 {
		s.update(func(i int) int { return at + i }, min(500, rows-at))
	}
	return s
}

// update puts n rows in one transaction.
func (s *spaceStore) update(key func(i int) int, n int) {
	s.t.Helper()
	tx := mustBegin(s.t, s.db, TxOptions{NoSync: true})
	d := delta{}
	for i := range n {
		k := fmt.Sprintf(spaceKey, key(i))
		s.n++
		v := value(s.n, s.size)
		check(s.t, tx.Put(s.tb, []byte(k), v))
		at := s.tb.Name + "\x00" + k
		if _, ok := s.o.cur[at]; !ok && d[at] == nil {
			s.live += int64(len(k) + len(v))
		}
		d[at] = v
		s.written += int64(len(k) + len(v))
	}
	s.o.start(d)
	check(s.t, tx.Commit())
	s.o.ack(false)
}

func (s *spaceStore) random(n int) {
	s.update(func(int) int { return s.rng.IntN(s.rows) }, n)
}

// disk is what the store takes on disk, the log apart: LogLimit bounds that.
func (s *spaceStore) disk() int64 {
	m := s.db.Metrics()
	return m.RunBytes + int64(m.MapBytes)
}

// sample checks the bound.
func (s *spaceStore) sample() {
	s.t.Helper()
	d := s.disk()
	s.worst = max(s.worst, d*100/s.live)
	if d*2 > s.live*5 {
		s.t.Fatalf("after %d MiB written the store takes %d KiB for %d KiB of rows: more than 2.5 times\n%v",
			s.written>>20, d>>10, s.live>>10, s.db.Metrics())
	}
}

func (s *spaceStore) crash(fs *vfs.MemFS, percent int, o Options) {
	w := []*crashWriter{{id: 0, o: s.o}}
	p := takeCrash(fs, percent, s.rng, w)
	p.recover(s.t, o, w, s.rng)
}

// A store that is updated at random for ever stays below 2.5 times its live bytes
// on disk: runs with few live frames are collected, and writers wait for that.
// Crashes in the middle of collecting lose nothing.
func TestSpaceStaysBounded(t *testing.T) {
	fs := newCrashFS(t)
	o := memOptions()
	o.FS, o.Memory, o.RecordMemory, o.RunSize = fs, 4<<20, 1<<20, 256<<20
	db := mustOpen(t, o)
	s := newSpaceStore(t, db, 10000*(*scale), 380, 1)
	total := 20 * s.live
	if testing.Short() {
		total = 8 * s.live
	}
	nextCrash := total / 5
	for s.written < total {
		for range 20 {
			s.random(1 + s.rng.IntN(60))
		}
		s.sample()
		if s.written > nextCrash {
			nextCrash += total / 5
			s.crash(fs, s.rng.IntN(3)*50, *o)
		}
	}
	m := db.Metrics()
	t.Logf("written %d MiB, live %d KiB, worst %d %%\n%v", s.written>>20, s.live>>10, s.worst, m)
	if m.CollectedRuns == 0 {
		t.Error("no run was collected")
	}
	s.o.match(t, "at the end", contents(t, db, 0), s.o.acked, s.o.acked)
	mustClose(t, db)
}

// A survey counted a large value as live as long as its frame was listed. What was
// deleted, or replaced by something small, came back only if its leaf was rewritten for
// another reason.
func TestSpaceOfDeletedLargeValues(t *testing.T) {
	db := mustOpen(t, memOptions())
	db.collect.least = 64 << 10
	tb := mustTable(t, db, "t")
	const large = 20
	key := func(i int) string { return fmt.Sprintf("large%02d", i) }
	for i := range large {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, key(i), string(value(i, 100_000))) })
	}
	inUpdate(t, db, func(tx *Tx) {
		for i := 1; i < large; i++ {
			if i%2 == 0 {
				del(t, tx, tb, key(i))
			} else {
				put(t, tx, tb, key(i), "small")
			}
		}
	})
	evictAll(t, db)
	check(t, db.Checkpoint(ctx))
	check(t, db.CollectSpace(ctx))
	if n := db.space.RunBytes(); n > 300_000 {
		t.Errorf("%d bytes in runs, one value of 100,000 is left\n%v", n, db.Metrics())
	}
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, key(0), string(value(0, 100_000))); gets(t, tx, tb, key(1), "small") })
	checkStore(t, db)
	mustClose(t, db)
}

// With most rows deleted the space comes back: tombstones go, too, and large
// values that only a tombstone hides. A snapshot from before keeps its rows, which
// are rewritten with the rest; when it ends, they go.
func TestSpaceComesBack(t *testing.T) {
	fs := newCrashFS(t)
	o := memOptions()
	o.FS, o.Memory, o.RecordMemory, o.RunSize = fs, 4<<20, 1<<20, 256<<20
	db := mustOpen(t, o)
	s := newSpaceStore(t, db, 8000, 380, 2)
	for i := range 20 {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, s.tb, fmt.Sprintf("large%02d", i), string(value(i, 100_000))) })
	}
	old := mustBegin(t, db, TxOptions{ReadOnly: true})
	before := all(t, old, s.tb)
	for at := 0; at < s.rows; at += 400 {
		inUpdate(t, db, func(tx *Tx) {
			for i := at; i < at+400; i++ {
				if i%20 != 0 {
					del(t, tx, s.tb, fmt.Sprintf(spaceKey, i))
				}
			}
		})
	}
	inUpdate(t, db, func(tx *Tx) {
		for i := range 20 {
			if i%2 == 0 {
				del(t, tx, s.tb, fmt.Sprintf("large%02d", i))
			} else {
				put(t, tx, s.tb, fmt.Sprintf("large%02d", i), "small")
			}
		}
	})
	collect := func() {
		evictAll(t, db)
		check(t, db.Checkpoint(ctx))
		check(t, db.CollectSpace(ctx))
	}
	collect()
	if after := all(t, old, s.tb); len(after) != len(before) {
		t.Fatalf("the old snapshot has %d rows, %d before", len(after), len(before))
	} else {
		for i := range after {
			if after[i] != before[i] {
				t.Fatalf("the old snapshot's row %d has changed", i)
			}
		}
	}
	pinned := s.disk()
	rollback(t, old)
	collect()
	live := int64(0)
	inView(t, db, func(tx *Tx) {
		for row, err := range tx.Scan(s.tb, Range{}) {
			check(t, err)
			live += int64(len(row.Key) + len(row.Value))
		}
	})
	if d := s.disk(); d*2 > live*5+(1<<20) {
		t.Errorf("%d KiB on disk for %d KiB of rows; %d KiB while the old snapshot was open\n%v", d>>10, live>>10, pinned>>10, db.Metrics())
		describeMap(t, db, s.tb)
	}
	db = reopen(t, db, o)
	inView(t, db, func(tx *Tx) {
		if n := len(all(t, tx, mustTable(t, db, "w0/t"))); n != s.rows/20+10 {
			t.Errorf("%d rows after reopening", n)
		}
	})
	mustClose(t, db)
}

// Outcomes of small transactions that the scavenger had moved to frames stayed in
// memory until enough space was dead to be worth a pass: 1700 of them took half of
// the least record memory, and nothing moved those (M1, M3).
func TestOutcomesMakeRoom(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	tb := mustTable(t, db, "t")
	for i := range 900 {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, fmt.Sprintf("%06d", i*7919%100000), "value")
		backlogAll(t, db)
		commit(t, tx)
	}
	check(t, db.CollectSpace(ctx))
	if many := db.cache.ManyOutcomes(); many > 0 {
		t.Errorf("outcomes are %d bytes above half of their share: %s", many, db.holders())
	}
	inView(t, db, func(tx *Tx) {
		for i := range 900 {
			gets(t, tx, tb, fmt.Sprintf("%06d", i*7919%100000), "value")
		}
	})
	mustClose(t, db)
}

// The same with frames that stay, one in each of many leaves, where no merge comes:
// they are rewritten, although next to nothing is dead.
func TestOutcomesOfFramesThatStay(t *testing.T) {
	db := mustOpen(t, tinyOptions())
	db.collect.close(db) // no pass but ours
	tb := mustTable(t, db, "t")
	key := func(i int) string { return fmt.Sprintf("%06d", i) }
	inUpdate(t, db, func(tx *Tx) {
		for i := range 3600 {
			check(t, tx.Put(tb, []byte(key(i)), value(i, 4000)))
		}
	})
	for i := range 900 {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		put(t, tx, tb, key(4*i), "new")
		backlogAll(t, db)
		commit(t, tx)
	}
	check(t, db.Checkpoint(ctx))
	before := db.cache.ManyOutcomes()
	check(t, db.CollectSpace(ctx))
	if many := db.cache.ManyOutcomes(); before == 0 || many > 0 {
		t.Errorf("outcomes were %d bytes above half of their share, and are %d: %s", before, many, db.holders())
	}
	inView(t, db, func(tx *Tx) {
		for i := range 3600 {
			want := "new"
			if i%4 != 0 {
				want = string(value(i, 4000))
			}
			gets(t, tx, tb, key(i), want)
		}
	})
	mustClose(t, db)
}

// besideStore is a store of rows in memory, where tests say when a checkpoint runs.
func besideStore(t *testing.T) (db *DB, write func(n int)) {
	t.Helper()
	o := memOptions()
	o.RunSize = 64 << 10
	db = mustOpen(t, o)
	tb := mustTable(t, db, "t")
	return db, func(n int) {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 3000 {
				put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i+n, 60)))
			}
		})
	}
}

// While a checkpoint runs the collector unlinks only. Who waits at the gate goes on as
// soon as that is enough: the gate was not opened, and writers there looked again when
// a second was over.
func TestGateOpensBesideCheckpoint(t *testing.T) {
	db, write := besideStore(t)
	c := &db.collect
	check(t, db.ckpt.mu.lock(ctx)) // a checkpoint runs
	write(0)
	relieveAll(t, db, recordcache.Checkpoint)
	write(1)
	check(t, c.mu.lock(ctx)) // no pass for now
	once := db.space.RunBytes()
	relieveAll(t, db, recordcache.Checkpoint)
	c.hard.Store((once + db.space.RunBytes()) / 2)
	c.beside.Store(0)
	gate := db.crowded()
	c.mu.unlock()
	if gate == nil {
		t.Fatalf("no gate at %d bytes in runs that were %d", db.space.RunBytes(), once)
	}
	eventually(t, "who waits at the gate goes on", func() bool {
		select {
		case <-gate:
			return true
		default:
			return false
		}
	})
	if db.crowded() != nil {
		t.Errorf("the gate was opened at %d bytes in runs, the limit is %d", db.space.RunBytes(), c.hard.Load())
	}
	if n := c.surveys.Load(); n > 0 {
		t.Errorf("%d surveys while a checkpoint runs", n)
	}
	db.ckpt.mu.unlock()
	mustClose(t, db)
}

// A new store is surveyed at the end of a checkpoint at the latest.
//
// The story: a pass beside a checkpoint put the survey off until runs had grown by
// another part. Rows that stay in memory go to runs with checkpoints alone, so that
// moment came within a checkpoint, too: there was never a survey, and no gate.
func TestFirstSurveyAfterCheckpoint(t *testing.T) {
	db, write := besideStore(t)
	c := &db.collect
	write(0)
	check(t, db.ckpt.mu.lock(ctx)) // a checkpoint runs
	relieveAll(t, db, recordcache.Checkpoint)
	check(t, c.besideCheckpoint(ctx, db))
	if c.surveys.Load() > 0 || !c.isDue(db) {
		t.Errorf("%d surveys while a checkpoint runs; one is due: %v", c.surveys.Load(), c.isDue(db))
	}
	db.ckpt.mu.unlock()
	check(t, db.Checkpoint(ctx))
	eventually(t, "a survey after the checkpoint", func() bool { return c.surveys.Load() > 0 })
	if c.live.Load() == 0 {
		t.Error("it has found nothing live")
	}
	mustClose(t, db)
}
