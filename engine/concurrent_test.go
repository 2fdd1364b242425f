package engine

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// history is what several clients find out about each other. Every value is
// unique and written to two keys at once, so:
//
//   - atomicity: both keys of a pair have the same value in every view
//   - S2: a snapshot answers the same by scan and by key, whatever happens
//   - S3: a value is replaced by one committed transaction at most
type history struct {
	t        *testing.T
	db       *DB
	tb       *Table
	filler   *Table
	pairs    int
	mu       sync.Mutex
	replaced map[string]string // value → by whom
	commits  int
}

func pairKeys(i int) (a, b []byte) {
	// The halves of a pair lie in different leaves.
	return fmt.Appendf(nil, "a%04d", i*7%1000), fmt.Appendf(nil, "z%04d", i*13%1000)
}

// scan reads all pairs; it returns the values by pair.
func (h *history) scan(tx *Tx, reverse bool) (map[int]string, error) {
	rows := map[string]string{}
	for row, err := range tx.Scan(h.tb, Range{Reverse: reverse}) {
		if err != nil {
			return nil, err
		}
		rows[string(row.Key)] = string(row.Value)
	}
	view := map[int]string{}
	for i := range h.pairs {
		a, b := pairKeys(i)
		if rows[string(a)] != rows[string(b)] {
			return nil, fmt.Errorf("pair %d is torn: %.30q and %.30q", i, rows[string(a)], rows[string(b)])
		}
		if v, ok := rows[string(a)]; ok {
			view[i] = v
		}
	}
	return view, nil
}

// client runs one transaction. Conflicts and deadlocks are no failures.
func (h *history) client(id string, rng *rand.Rand) error {
	tx, err := h.db.Begin(ctx, TxOptions{NoSync: rng.IntN(4) > 0})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	snapshot, err := h.scan(tx, rng.IntN(2) == 0)
	if err != nil {
		return err
	}
	view := maps.Clone(snapshot)
	same := func(when string) error {
		got, err := h.scan(tx, rng.IntN(2) == 0)
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		for i := range h.pairs {
			if got[i] != view[i] {
				return fmt.Errorf("%s: pair %d is %.30q, was %.30q", when, i, got[i], view[i])
			}
		}
		return nil
	}
	wrote := map[int]bool{}
	for n := range rng.IntN(6) + 1 {
		i := rng.IntN(h.pairs)
		a, b := pairKeys(i)
		for _, k := range [][]byte{a, b} {
			v, err := tx.Get(h.tb, k)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			if string(v) != view[i] {
				return fmt.Errorf("pair %d by key: %.30q, the scan saw %.30q", i, v, view[i])
			}
		}
		if rng.IntN(3) == 0 {
			sp, err := tx.Savepoint()
			if err != nil {
				return err
			}
			if err := h.set(tx, i, id+" undone", rng); err != nil {
				return err
			}
			if err := tx.RollbackTo(sp); err != nil {
				return err
			}
			if err := same("after a rollback to a savepoint"); err != nil {
				return err
			}
		}
		v := fmt.Sprintf("%s.%d %s", id, n, value(n, rng.IntN(200)))
		if rng.IntN(40) == 0 {
			v += string(value(n, 9000))
		}
		if err := h.set(tx, i, v, rng); err != nil {
			return err
		}
		view[i], wrote[i] = v, true
	}
	if rng.IntN(10) == 0 {
		for j := range 300 { // it outgrows memory
			if err := tx.Put(h.filler, fmt.Appendf(nil, "%s %05d", id, j*7919%1000), value(j, 100)); err != nil {
				return err
			}
		}
	}
	if err := same("before the end"); err != nil {
		return err
	}
	if rng.IntN(4) == 0 {
		return tx.Rollback()
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commits++
	for i := range wrote {
		old := fmt.Sprint(i, " ", snapshot[i])
		if by, ok := h.replaced[old]; ok {
			return fmt.Errorf("lost update: pair %d %.30q was replaced by %s and by %s", i, snapshot[i], by, id)
		}
		h.replaced[old] = id
	}
	return nil
}

func (h *history) set(tx *Tx, i int, v string, rng *rand.Rand) error {
	a, b := pairKeys(i)
	if rng.IntN(4) == 0 {
		if _, err := tx.GetForUpdate(h.tb, a); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	if err := tx.Put(h.tb, a, []byte(v)); err != nil {
		return err
	}
	return tx.Put(h.tb, b, []byte(v))
}

// disturb does one of the things that the scavenger does, at random.
func (h *history) disturb(rng *rand.Rand) {
	switch rng.IntN(6) {
	case 0:
		chillAll(h.t, h.db)
	case 1:
		relieveAll(h.t, h.db, recordcache.Backlog)
	case 2:
		evictAll(h.t, h.db)
	case 3:
		a, b := pairKeys(rng.IntN(h.pairs))
		mergeAt(h.t, h.db, h.tb, a)
		mergeAt(h.t, h.db, h.tb, b)
	case 4:
		check2(h.t, h.db.Checkpoint(ctx))
	case 5:
		pruneAll(h.t, h.db)
	}
}

// Clients read and update pairs of rows side by side while everything moves below
// them; each checks what it sees, all together that no update was lost (S2, S3).
func TestConcurrentHistory(t *testing.T) {
	for name, o := range map[string]*Options{"tiny": tinyOptions(), "middle": tinyOptions(), "roomy": memOptions()} {
		t.Run(name, func(t *testing.T) {
			if name == "middle" {
				o.ChillThreshold = 20 << 10
			}
			seed := *crashSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			defer func() {
				if t.Failed() {
					t.Logf("-saker.seed=%d", seed)
				}
			}()
			db := mustOpen(t, o)
			h := &history{t: t, db: db, tb: mustTable(t, db, "t"), filler: mustTable(t, db, "filler"), pairs: 40, replaced: map[string]string{}}
			h.run(seed)
			if h.commits == 0 {
				t.Error("nothing was committed")
			}
			inView(t, db, func(tx *Tx) {
				_, err := h.scan(tx, false)
				check2(t, err)
			})
			db = reopen(t, db, o)
			h.db, h.tb = db, mustTable(t, db, "t")
			inView(t, db, func(tx *Tx) {
				_, err := h.scan(tx, true)
				check2(t, err)
			})
			mustClose(t, db)
		})
	}
}

// run lets four clients do their transactions, disturbed.
func (h *history) run(seed uint64) {
	h.t.Helper()
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			for n := range 60 * *scale {
				err := h.client(fmt.Sprintf("c%d.%d", c, n), rng)
				if err != nil && !IsRetryable(err) {
					h.t.Errorf("client %d, transaction %d: %v", c, n, err)
					return
				}
			}
		})
	}
	c := newCrew()
	rng := rand.New(rand.NewPCG(seed, 9))
	c.repeat(func(int) { h.disturb(rng) })
	wg.Wait()
	c.stop()
	if h.t.Failed() {
		h.t.Fatal(h.db.Metrics())
	}
}
