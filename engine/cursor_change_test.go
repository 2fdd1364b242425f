package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// walker is a transaction that walks cursors over a table that others change, and
// writes under them. It knows what it saw first, and what it has done since.
type walker struct {
	db    *DB
	tb    *Table
	id    int // it writes the keys whose number modulo walkers+1 is id
	rng   *rand.Rand
	tx    *Tx
	rows  map[string][]byte
	marks []walkerMark
	cur   *mcursor
	n     int
	trace []string
}

type walkerMark struct {
	sp   Savepoint
	rows map[string][]byte
}

const (
	walkers    = 2
	walkerKeys = 900
)

func walkerKey(n int) string { return fmt.Sprintf("k%04d", n) }

// ownKey returns a key near the cursor that nobody else writes.
func (w *walker) ownKey() string {
	n := w.rng.IntN(walkerKeys)
	if _, err := fmt.Sscanf(w.cur.at, "k%d", &n); err == nil && w.rng.IntN(3) > 0 {
		n = min(max(0, n+w.rng.IntN(13)-6), walkerKeys-4)
	}
	return walkerKey(n - n%(walkers+1) + w.id)
}

// anyValue is mostly short, now and then too large for a leaf.
func anyValue(rng *rand.Rand, n int) []byte {
	size := rng.IntN(300)
	if rng.IntN(60) == 0 {
		size = 7000 + rng.IntN(20000)
	}
	return value(n, size)
}

func (w *walker) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *walker) errorf(format string, args ...any) error {
	last := w.trace[max(0, len(w.trace)-25):]
	return fmt.Errorf("walker %d: %s\n%s", w.id, fmt.Sprintf(format, args...), strings.Join(last, "\n"))
}

// live is one transaction of a walker.
func (w *walker) live(steps int) (err error) {
	readOnly := w.rng.IntN(5) == 0
	if w.tx, err = w.db.Begin(ctx, TxOptions{NoSync: true, ReadOnly: readOnly}); err != nil {
		return err
	}
	defer func() { _ = w.tx.Rollback() }()
	w.rows, w.marks, w.trace, w.cur = map[string][]byte{}, nil, nil, nil
	for row, err := range w.tx.Scan(w.tb, Range{}) {
		if err != nil {
			return err
		}
		w.rows[string(row.Key)] = bytes.Clone(row.Value)
	}
	w.open()
	for range steps {
		w.n++
		switch r := w.rng.IntN(20); {
		case r < 12:
			err = w.move()
		case r < 16 && !readOnly:
			err = w.write()
		case r < 18 && !readOnly:
			err = w.savepoint()
		case r == 18:
			w.open()
		default:
			err = w.compare(w.rng.IntN(2) == 0)
		}
		if err != nil {
			return err
		}
	}
	if err := w.compare(false); err != nil {
		return err
	}
	if w.rng.IntN(2) == 0 {
		return w.tx.Commit()
	}
	return nil
}

// open opens another cursor.
func (w *walker) open() {
	if w.cur != nil {
		_ = w.cur.c[0].Close()
	}
	w.cur = &mcursor{}
	if w.rng.IntN(2) == 0 {
		w.cur.from = []byte(walkerKey(w.rng.IntN(walkerKeys)))
	}
	if w.rng.IntN(2) == 0 {
		w.cur.to = []byte(walkerKey(w.rng.IntN(walkerKeys)))
	}
	w.cur.c = []moving{w.tx.Cursor(w.tb, Range{From: w.cur.from, To: w.cur.to})}
	w.note("cursor %q..%q", w.cur.from, w.cur.to)
}

// move makes some moves in one direction, or one elsewhere, and checks each.
func (w *walker) move() error {
	move := moveNames[w.rng.IntN(len(moveNames)-2)] // no write
	times := 1
	if move == "next" || move == "prev" {
		times = 1 + w.rng.IntN(30)
	}
	keys := w.keys(w.cur.from, w.cur.to)
	for range times {
		k := walkerKey(w.rng.IntN(walkerKeys))
		i := w.cur.target(move, k, keys)
		on := i >= 0 && i < len(keys)
		c, at := w.cur.c[0], w.cur.at
		ok := moveOne(c, move, k)
		w.note("%s %s from %q: %v %q", move, k, at, ok, c.Key())
		if ok != on || c.Err() != nil {
			return w.errorf("%s %s from %q: %v %v, want %v", move, k, at, ok, c.Err(), on)
		}
		if on && (string(c.Key()) != keys[i] || !bytes.Equal(c.Value(), w.rows[keys[i]])) {
			return w.errorf("%s %s from %q: %q=%.30q, want %q=%.30q", move, k, at, c.Key(), c.Value(), keys[i], w.rows[keys[i]])
		}
		w.cur.moved(move, keys, i)
	}
	return nil
}

func (w *walker) keys(from, to []byte) (keys []string) {
	for k := range w.rows {
		if k >= string(from) && (to == nil || k < string(to)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// write writes a row ahead, behind, or where the cursor stands.
func (w *walker) write() error {
	k := w.ownKey()
	v := anyValue(w.rng, w.n)
	mode := writeModes[w.rng.IntN(len(writeModes))]
	got, err := run(w.tx, w.tb, mode, []byte(k), v)
	w.note("mode %d of %q, %d bytes: %v", mode, k, len(v), err)
	have, exists := w.rows[k]
	var want error
	switch {
	case mode == recordcache.ModeInsert && exists:
		want = ErrKeyExists
	case mode != recordcache.ModePut && mode != recordcache.ModeInsert && !exists:
		want = ErrNotFound
	}
	switch {
	case !errors.Is(err, want) || (err == nil) != (want == nil):
		return w.errorf("mode %d of %q: %v, want %v", mode, k, err, want)
	case mode == recordcache.ModeLock && err == nil && !bytes.Equal(got, have):
		return w.errorf("lock of %q: %.30q, want %.30q", k, got, have)
	case err != nil || mode == recordcache.ModeLock:
	case mode == recordcache.ModeDelete:
		delete(w.rows, k)
	default:
		w.rows[k] = v
	}
	return nil //nolint:nilerr // the error is the one that it had to give
}

// savepoint makes one, rolls back to one or releases one.
func (w *walker) savepoint() error {
	if len(w.marks) == 0 || w.rng.IntN(2) == 0 {
		sp, err := w.tx.Savepoint()
		w.marks = append(w.marks, walkerMark{sp, maps.Clone(w.rows)})
		w.note("savepoint %d", len(w.marks))
		return err
	}
	i := w.rng.IntN(len(w.marks))
	if w.rng.IntN(3) == 0 {
		err := w.tx.Release(w.marks[i].sp)
		w.marks = w.marks[:i]
		w.note("release %d", i+1)
		return err
	}
	w.rows = maps.Clone(w.marks[i].rows)
	err := w.tx.RollbackTo(w.marks[i].sp)
	w.marks = w.marks[:i+1]
	w.note("rollback to %d", i+1)
	return err
}

// compare scans everything.
func (w *walker) compare(reverse bool) error {
	keys := w.keys(nil, nil)
	if reverse {
		slices.Reverse(keys)
	}
	for row, err := range w.tx.Scan(w.tb, Range{Reverse: reverse}) {
		if err != nil {
			return err
		}
		if len(keys) == 0 || string(row.Key) != keys[0] || !bytes.Equal(row.Value, w.rows[keys[0]]) {
			return w.errorf("scan, reverse %v: %q=%.30q, want %.20q", reverse, row.Key, row.Value, keys[:min(1, len(keys))])
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		return w.errorf("scan, reverse %v: %d rows from %q on are missing", reverse, len(keys), keys[0])
	}
	return nil
}

// change is what others do meanwhile: they insert and delete rows that no walker
// writes, so that leaves are split and emptied.
func change(db *DB, tb *Table, rng *rand.Rand, i int) error {
	return db.Update(ctx, func(tx *Tx) error {
		base, gone := rng.IntN(walkerKeys), rng.IntN(2) == 0
		for j := range 40 {
			n := (base + j) % walkerKeys
			k := []byte(walkerKey(n - n%(walkers+1) + walkers))
			var err error
			if gone {
				if err = tx.Delete(tb, k); errors.Is(err, ErrNotFound) {
					err = nil
				}
			} else {
				err = tx.Put(tb, k, anyValue(rng, i))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// disturbAll moves versions about in every way there is.
func disturbAll(t *testing.T, db *DB, tb *Table, rng *rand.Rand) {
	switch rng.IntN(8) {
	case 0, 1:
		chillAll(t, db)
	case 2:
		backlogAll(t, db)
	case 3:
		evictAll(t, db)
	case 4:
		mergeAt(t, db, tb, []byte(walkerKey(rng.IntN(walkerKeys))))
	case 5:
		check2(t, db.Checkpoint(ctx))
	case 6:
		pruneAll(t, db)
		collapseAll(db)
	case 7:
		check2(t, db.CollectSpace(ctx))
	}
}

// A cursor is stable in its transaction's snapshot and sees the transaction's own
// writes as of when it moves (S2, S6), while others insert and delete rows between
// those it walks and leaves are split, merged, chilled, backlogged and restored.
func TestCursorsUnderChange(t *testing.T) {
	small := tinyOptions()
	small.ChillThreshold = 0
	roomy := memOptions()
	for name, o := range map[string]*Options{"tiny": tinyOptions(), "chilling": small, "roomy": roomy} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			if *crashSeed != 0 {
				seed = *crashSeed
			}
			t.Logf("-saker.seed %d", seed)
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) {
				for n := range walkerKeys {
					put(t, tx, tb, walkerKey(n), string(value(n, n%300)))
				}
			})
			c := newCrew()
			c.repeat(func(i int) {
				check2(t, change(db, tb, rand.New(rand.NewPCG(seed, uint64(i)<<8|7)), i))
			})
			c.repeat(func(i int) { disturbAll(t, db, tb, rand.New(rand.NewPCG(seed, uint64(i)<<8|6))) })
			var wg sync.WaitGroup
			for id := range walkers {
				w := &walker{db: db, tb: tb, id: id, rng: rand.New(rand.NewPCG(seed, uint64(id)))}
				wg.Go(func() {
					for range 15 * *scale {
						if err := w.live(60); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			c.stop()
			mustClose(t, db)
		})
	}
}
