package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/internal/base"
)

// A read fails in the middle of a statement on a table with a plain and a unique
// index, at every read that the statement makes. The statement says so, and has
// changed nothing: not the rows, not the entries, not the locks of either; and its
// transaction goes on.

// broken is a store whose statements meet faults.
type broken struct {
	*testing.T
	db     *DB
	f      *faults
	tb     *Table
	ixs    []*Index
	fns    []func(Row, func([]byte))
	keep   bool // own rows stay in memory
	failed int  // statements
}

const brokenRows = 140

func brokenKey(i int) string { return fmt.Sprintf("k%04d", i) }

// brokenValue has a unique first word, and words that other rows have.
func brokenValue(i int) string {
	return fmt.Sprintf("u%d w%d x%d %s", i, i%23, i%7, value(i, 200))
}

// openBroken makes a store in which all rows, and all entries, are on disk only.
func openBroken(t *testing.T, threshold int64) *broken {
	t.Helper()
	b := &broken{T: t, keep: threshold > 1, f: &faults{kind: errorfs.OpIsRead, skip: toWrite, err: errInjected}}
	o := faultOptions(errorfs.Wrap(newCrashFS(t), b.f))
	o.ChillThreshold = threshold
	o.LockTimeout = -1
	b.db = mustOpen(t, o)
	b.tb = mustTable(t, b.db, "t")
	b.fns = []func(Row, func([]byte)){byWords, firstWord}
	for i, name := range []string{"plain", "unique"} {
		ix, err := b.db.CreateIndex(ctx, b.tb, name, i == 1, b.fns[i])
		check(t, err)
		b.ixs = append(b.ixs, ix)
	}
	inUpdate(t, b.db, func(tx *Tx) {
		for i := range brokenRows {
			put(t, tx, b.tb, brokenKey(i), brokenValue(i))
		}
	})
	check(t, b.db.Checkpoint(ctx))
	evictAll(t, b.db)
	return b
}

// held returns which records of the table and its indexes are locked, of those that
// statements here touch.
func (b *broken) held() (held []string) {
	b.Helper()
	try := func(t *Table, key []byte) {
		tx := mustBegin(b, b.db, TxOptions{})
		_, err := tx.GetForUpdate(t, key)
		rollback(b, tx)
		switch {
		case errors.Is(err, ErrLockTimeout):
			held = append(held, fmt.Sprintf("%s %.40q", t.Name, key))
		case err != nil && !errors.Is(err, ErrNotFound):
			b.Fatalf("lock of %s %.40q: %v", t.Name, key, err)
		}
	}
	rows := map[string]string{}
	for _, i := range []int{7, 100, 101, 102, 120, 121, 122, 130} {
		rows[brokenKey(i)] = brokenValue(i)
	}
	for k, v := range brokenNews {
		rows[k] += " " + v
	}
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		try(b.tb, []byte(k))
		for _, ix := range b.ixs {
			byWords(Row{Value: []byte(rows[k])}, func(w []byte) {
				if !ix.Unique() || w[0] == 'u' {
					try(ix.Entries(), entryOf(ix, w, k))
				}
			})
		}
	}
	waitSwept(b, b.db)
	return held
}

// entryOf is the key of the entry of an index key of a row.
func entryOf(ix *Index, indexKey []byte, row string) []byte {
	e := base.AppendIndexKey(nil, indexKey)
	if ix.Unique() {
		return e
	}
	return append(e, row...)
}

// seen is all that a transaction sees; it checks that table and indexes agree.
func (b *broken) seen(tx *Tx) []string {
	b.Helper()
	for i, ix := range b.ixs {
		sameIndexBy(b, tx, ix, b.fns[i])
	}
	return all(b, tx, b.tb)
}

// brokenNews are rows that statements write, by key.
var brokenNews = map[string]string{
	"k0100": "u100 w4 new " + string(value(1, 50)), // u100 stays
	"k0101": "unew1 w3 y",
	"k0102": "u7 w9 z", // u7 is k0007's
	"n0001": "unew2 w1 w2 w3",
	"n0002": "u130 w1",
	"n0003": "unew3 w1 big" + strings.Repeat(" ", 9000), // a frame of its own
}

// brokenStatement is one statement and what it answers without faults.
type brokenStatement struct {
	name string
	want error
	run  func(b *broken, tx *Tx) error
}

func brokenWrite(name string, want error, key string, do func(tx *Tx, t *Table, k, v []byte) error) brokenStatement {
	return brokenStatement{name + " " + key, want, func(b *broken, tx *Tx) error {
		return do(tx, b.tb, []byte(key), []byte(brokenNews[key]))
	}}
}

var brokenStatements = []brokenStatement{
	brokenWrite("put", nil, "k0100", (*Tx).Put),
	brokenWrite("put", nil, "k0101", (*Tx).Put),
	brokenWrite("put", ErrKeyExists, "k0102", (*Tx).Put),
	brokenWrite("put", nil, "n0001", (*Tx).Put),
	brokenWrite("put", nil, "n0003", (*Tx).Put),
	brokenWrite("insert", nil, "n0001", (*Tx).Insert),
	brokenWrite("insert", ErrKeyExists, "k0100", (*Tx).Insert),
	brokenWrite("insert", ErrKeyExists, "n0002", (*Tx).Insert),
	brokenWrite("update", nil, "k0101", (*Tx).Update),
	brokenWrite("update", nil, "k0100", (*Tx).Update),
	brokenWrite("update", ErrNotFound, "n0001", (*Tx).Update),
	brokenWrite("delete", nil, "k0101", func(tx *Tx, t *Table, k, _ []byte) error { return tx.Delete(t, k) }),
	brokenWrite("delete", ErrNotFound, "n0001", func(tx *Tx, t *Table, k, _ []byte) error { return tx.Delete(t, k) }),
	{"put over an own row", nil, func(b *broken, tx *Tx) error { return tx.Put(b.tb, []byte("k0120"), []byte("unew4 w5")) }},
	{"delete of an own row", nil, func(b *broken, tx *Tx) error { return tx.Delete(b.tb, []byte("k0120")) }},
	{"insert over an own deletion", nil, func(b *broken, tx *Tx) error { return tx.Insert(b.tb, []byte("k0121"), []byte("u121 w5")) }},
	{"append", nil, func(b *broken, tx *Tx) error { _, err := tx.Append(b.tb, []byte("unew5 w6 w7")); return err }},
	{"append of a key that is taken", ErrKeyExists, func(b *broken, tx *Tx) error { _, err := tx.Append(b.tb, []byte("u7 w6 w7")); return err }},
	{"lock", nil, func(b *broken, tx *Tx) error { _, err := tx.GetForUpdate(b.tb, []byte("k0101")); return err }},
	{"lock of an own row", nil, func(b *broken, tx *Tx) error { _, err := tx.GetForUpdate(b.tb, []byte("k0120")); return err }},
	{"lock of nothing", ErrNotFound, func(b *broken, tx *Tx) error { _, err := tx.GetForUpdate(b.tb, []byte("n0001")); return err }},
	{"scan of a plain index", nil, func(b *broken, tx *Tx) error {
		return brokenScan(tx, b.ixs[0], Range{From: []byte("w2"), To: []byte("w3")})
	}},
	{"scan of a unique index in reverse", nil, func(b *broken, tx *Tx) error {
		return brokenScan(tx, b.ixs[1], Range{From: []byte("u10"), To: []byte("u12"), Reverse: true})
	}},
	{"cursor", nil, func(b *broken, tx *Tx) error {
		c := tx.IndexCursor(b.ixs[1], Range{})
		defer func() { _ = c.Close() }()
		for _, move := range []func() bool{c.First, c.Next, c.Last, c.Prev, c.Next, func() bool { return c.Seek([]byte("u120")) }, c.Prev} {
			if !move() {
				if c.Key() != nil || c.Value() != nil || c.IndexKey() != nil {
					return fmt.Errorf("a cursor that failed shows %q", c.Key())
				}
				return c.Err()
			}
		}
		return nil
	}},
}

func brokenScan(tx *Tx, ix *Index, r Range) error {
	for row, err := range tx.ScanIndex(ix, r) {
		if err != nil {
			return err
		}
		if !bytes.Contains(row.Value, row.IndexKey) {
			return fmt.Errorf("row %q under %q", row.Value, row.IndexKey)
		}
	}
	return nil
}

// cold leaves nothing in memory that could answer instead of the disk, but for what
// transactions keep.
func (b *broken) cold() {
	b.Helper()
	if !b.keep {
		backlogAll(b, b.db)
	}
	pruneAll(b, b.db)
	collapseAll(b.db)
	b.db.cache.DropCold()
}

// ghosts lets a transaction write what the statements write, and take it back when it
// is on disk. It stays open: there are frames in everybody's way that must be read
// to know that nothing in them counts.
func (b *broken) ghosts() *Tx {
	b.Helper()
	tx := mustBegin(b, b.db, TxOptions{})
	put(b, tx, b.tb, "ghost", "-")
	sp, err := tx.Savepoint()
	check(b, err)
	for i := range brokenRows {
		if key := brokenKey(i); i%2 == 0 {
			del(b, tx, b.tb, key)
		} else {
			put(b, tx, b.tb, key, "w5 w6 w7 x1")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(brokenNews)) {
		put(b, tx, b.tb, key, brokenNews[key])
	}
	evictAll(b, b.db)
	check(b, tx.RollbackTo(sp))
	return tx
}

// sweep runs the statement with a fault at each of its reads, and at last without.
func (b *broken) sweep(tx *Tx, s *brokenStatement) {
	b.Helper()
	before, held := b.seen(tx), b.held()
	for n := int64(1); ; {
		what := fmt.Sprintf("%s, read %d", s.name, n)
		sp, err := tx.Savepoint()
		check(b, err)
		b.cold()
		b.f.failed.Store(0)
		b.f.arm(n)
		err = s.run(b, tx)
		b.f.armed.Store(false)
		met := b.f.failed.Load() > 0
		_, corrupt := errors.AsType[*CorruptionError](err)
		asEver := errors.Is(err, s.want) // with a fault, too, if somebody in the background has met it
		if !asEver && (!met || !errors.Is(err, errInjected)) || corrupt {
			b.Fatalf("%s: %v, want %v", what, err, s.want)
		}
		if b.db.failed() != nil {
			b.Fatalf("%s: %v", what, b.db.failed())
		}
		if asEver {
			b.seen(tx)
			check(b, tx.RollbackTo(sp)) // it may have locked something
		}
		check(b, tx.Release(sp))
		if d := cmp.Diff(before, b.seen(tx)); d != "" {
			b.Fatalf("%s: %v: the transaction sees something else: %.600s", what, err, d)
		}
		if d := cmp.Diff(held, b.held()); d != "" {
			b.Fatalf("%s: %v: locks (+ is now): %s", what, err, d)
		}
		if !met {
			return
		}
		b.failed++
		if n++; !*long {
			n += n / 4
		}
	}
}

// TestIndexReadFaults sweeps every statement, in a transaction that is small and has
// its rows in memory, and in one that is large and has them on disk, at all levels.
//
// GetForUpdate at ReadCommitted kept its lock when the read behind it failed.
func TestIndexReadFaults(t *testing.T) {
	for _, threshold := range []int64{1, 1 << 30} {
		for _, iso := range []Isolation{Snapshot, ReadCommitted, Serializable} {
			if !*long && (threshold == 1) != (iso == ReadCommitted) {
				continue
			}
			t.Run(fmt.Sprintf("threshold=%d/%v", threshold, iso), func(t *testing.T) {
				b := openBroken(t, threshold)
				ghost := b.ghosts()
				tx := mustBegin(t, b.db, TxOptions{Isolation: iso})
				put(t, tx, b.tb, brokenKey(120), "u120 own w1")
				del(t, tx, b.tb, brokenKey(121))
				del(t, tx, b.tb, brokenKey(122))
				put(t, tx, b.tb, brokenKey(122), brokenValue(122))
				for i := range brokenStatements {
					b.sweep(tx, &brokenStatements[i])
				}
				if t.Logf("%d statements failed", b.failed); b.failed < 2*len(brokenStatements) {
					t.Error("the disk was hardly asked")
				}
				want := b.seen(tx)
				commit(t, tx)
				rollback(t, ghost)
				inView(t, b.db, func(tx *Tx) {
					if d := cmp.Diff(want, b.seen(tx)); d != "" {
						t.Fatalf("committed: %.600s", d)
					}
				})
				mustClose(t, b.db)
			})
		}
	}
}
