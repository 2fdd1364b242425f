package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// ofMapTable reports whether an operation is on a table of the leaf map.
func ofMapTable(op errorfs.Op) bool {
	return strings.Contains(op.Path, "space/map/") && strings.HasSuffix(op.Path, ".sst")
}

// longKey makes fences that fill the map.
func longKey(i int) []byte { return fmt.Appendf(value(0, 2000), "%06d", i) }

// largeMap opens a store with rows under long keys in table t, none of which, and little
// of whose map, is in memory.
func largeMap(t *testing.T, o *Options, rows int) *DB {
	t.Helper()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) {
		for i := range rows {
			check(t, tx.Put(tb, longKey(i), value(i, 900)))
		}
	})
	evictAll(t, db)
	return reopen(t, db, o)
}

// The tables of the leaf map cannot be read, and that does not pass: whoever needs
// one gets the error, and so does whoever asks again: nobody tries for ever.
// Nothing is poisoned, what needs no map goes on, and once the disk reads again
// everything is there.
func TestUnreadableLeafMap(t *testing.T) {
	const rows = 1500
	mem := newCrashFS(t)
	f := &faults{kind: errorfs.OpIsRead, err: errInjected, skip: func(op errorfs.Op) bool { return !ofMapTable(op) }}
	o := faultOptions(errorfs.Wrap(mem, f))
	key := longKey
	db := largeMap(t, o, rows)
	tb := mustTable(t, db, "t")
	other := mustTable(t, db, "other")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, other, "here", "in memory") })

	release := db.space.HoldCompactions() // they would read the blocks into memory, or fail
	f.arm(0)
	// Pebble's cache has some blocks of the map: one of these keys is not in them.
	inMemory := errors.New("all of the map is in memory")
	each := func(do func(key []byte) error) error {
		for i := 7; i < rows; i += 50 {
			if err := do(key(i)); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return inMemory
	}
	write := func(do func(tx *Tx, key []byte) error) func() error {
		return func() error {
			return db.Update(ctx, func(tx *Tx) error { return each(func(k []byte) error { return do(tx, k) }) })
		}
	}
	scan := func(r Range) error {
		return db.View(ctx, func(tx *Tx) error {
			for _, err := range tx.Scan(tb, r) {
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	steps := []struct {
		what string
		need bool // it cannot do without the map
		do   func() error
	}{
		{"get", true, write(func(tx *Tx, k []byte) error { _, err := tx.Get(tb, k); return err })},
		{"scan", true, func() error { return scan(Range{}) }},
		{"scan in reverse", true, func() error { return scan(Range{Reverse: true}) }},
		{"put", true, write(func(tx *Tx, k []byte) error { return tx.Put(tb, k, []byte("new")) })},
		{"insert", true, write(func(tx *Tx, k []byte) error { return tx.Insert(tb, append(k, 'x'), []byte("new")) })},
		{"delete", true, write(func(tx *Tx, k []byte) error { return tx.Delete(tb, k) })},
		{"merge", false, func() error { return db.cache.Merge(ctx, tb, key(700), db.m.Stretches) }},
		{"verify", true, func() error { return db.Verify(ctx) }},
		{"collect space", false, func() error { return db.CollectSpace(ctx) }},
		{"get and put in memory", false, func() error {
			inUpdate(t, db, func(tx *Tx) {
				gets(t, tx, other, "here", "in memory")
				put(t, tx, other, "here", "in memory")
			})
			return nil
		}},
		{"checkpoint", false, func() error { return db.Checkpoint(ctx) }},
		{"close", false, func() error { release(); return db.Close() }},
	}
	for _, s := range steps {
		for range 2 {
			if s.what == "close" && db.closed.Load() {
				break
			}
			before := f.failed.Load()
			var err error
			within(t, func() string { return s.what }, func() { err = s.do() })
			tries := f.failed.Load() - before
			t.Logf("%s: %d reads failed: %v", s.what, tries, err)
			if _, ok := errors.AsType[*CorruptionError](err); ok {
				t.Errorf("%s: the disk does not read, and it says %v", s.what, err)
			}
			if err == nil && s.need || err != nil && !errors.Is(err, errInjected) {
				t.Errorf("%s: %v", s.what, err)
			}
			if err := db.failed(); err != nil {
				t.Fatalf("%s: the store has failed: %v", s.what, err)
			}
		}
	}

	within(t, func() string { return "open" }, func() {
		if db, err := Open("db", o); err == nil {
			t.Error("it opened")
			check(t, db.Close())
		} else if !errors.Is(err, errInjected) {
			t.Errorf("open: %v", err)
		}
	})
	f.armed.Store(false)
	db = mustOpen(t, o)
	inView(t, db, func(tx *Tx) {
		found := all(t, tx, mustTable(t, db, "t"))
		if len(found) != rows {
			t.Fatalf("%d rows", len(found))
		}
		for i, row := range found {
			if row != string(key(i))+"="+string(value(i, 900)) {
				t.Fatalf("row %d is %.20q", i, row)
			}
		}
		gets(t, tx, mustTable(t, db, "other"), "here", "in memory")
	})
	mustClose(t, db)
}
