package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reads sweeps what is no statement of one transaction: do, with a fault at each of
// its reads, and at last without. Whatever fails has changed nothing.
func (b *broken) reads(what string, do func() error, undo func()) {
	b.Helper()
	state := func() (rows []string) { inView(b, b.db, func(tx *Tx) { rows = b.seen(tx) }); return rows }
	before, held, failed := state(), b.held(), 0
	for n := int64(1); ; {
		b.cold()
		b.f.failed.Store(0)
		b.f.arm(n)
		err := do()
		b.f.armed.Store(false)
		met := b.f.failed.Load() > 0
		_, corrupt := errors.AsType[*CorruptionError](err)
		if err != nil && !errors.Is(err, errInjected) || !met && err != nil || corrupt {
			b.Fatalf("%s, read %d: %v", what, n, err)
		}
		if b.db.failed() != nil {
			b.Fatalf("%s, read %d: %v", what, n, b.db.failed())
		}
		if err == nil {
			undo()
		} else {
			failed++
		}
		if d := cmp.Diff(before, state()); d != "" {
			b.Fatalf("%s, read %d: %v: something else is committed: %.600s", what, n, err, d)
		}
		if d := cmp.Diff(held, b.held()); d != "" {
			b.Fatalf("%s, read %d: %v: locks (+ is now): %s", what, n, err, d)
		}
		if !met {
			b.Logf("%s: %d reads, %d failures", what, n-1, failed)
			return
		}
		if n++; !*long {
			n += n / 4
		}
	}
}

// A serializable commit reads what it has read once more. If it cannot, the
// transaction is rolled back, rows and entries.
func TestIndexReadFaultInCommit(t *testing.T) {
	for _, threshold := range []int64{1, 1 << 30} {
		t.Run(fmt.Sprint("threshold=", threshold), func(t *testing.T) {
			b := openBroken(t, threshold)
			b.f.once = true // the sweeper reads, too, and does not come back if it cannot
			i := 0
			b.reads("commit", func() error {
				b.f.armed.Store(false)
				tx := mustBegin(t, b.db, TxOptions{Isolation: Serializable})
				check(t, brokenScan(tx, b.ixs[0], Range{From: []byte("w2"), To: []byte("w3")}))
				check(t, brokenScan(tx, b.ixs[1], Range{From: []byte("u10"), To: []byte("u12")}))
				_, err := tx.GetForUpdate(b.tb, []byte("k0101"))
				check(t, err)
				gets(t, tx, b.tb, "nothing", "")
				put(t, tx, b.tb, "n0001", brokenNews["n0001"])
				put(t, tx, b.tb, "k0100", brokenNews["k0100"])
				inUpdate(t, b.db, func(tx *Tx) { // in the same leaves, and nothing that was read
					i++
					for j := range 20 {
						put(t, tx, b.tb, fmt.Sprintf("m%04d", j), fmt.Sprintf("u8%02d w1 w4 n%d", j, i))
					}
				})
				b.cold()
				b.f.armed.Store(true)
				err = tx.Commit()
				if _, after := tx.Get(b.tb, []byte("k0100")); !errors.Is(after, ErrTxDone) {
					t.Fatalf("get: %v", after)
				}
				b.f.armed.Store(false)
				waitSwept(t, b.db)
				inUpdate(t, b.db, func(tx *Tx) {
					for j := range 20 {
						del(t, tx, b.tb, fmt.Sprintf("m%04d", j))
					}
				})
				return err
			}, func() {
				inUpdate(t, b.db, func(tx *Tx) {
					del(t, tx, b.tb, "n0001")
					put(t, tx, b.tb, "k0100", brokenValue(100))
				})
			})
			mustClose(t, b.db)
		})
	}
}

// An index that cannot be built, because rows cannot be read, is not there; a drop
// reads nothing; a check that cannot read says that, not that something is wrong.
func TestIndexReadFaultInDDL(t *testing.T) {
	b := openBroken(t, 1)
	b.reads("create index", func() error {
		_, err := b.db.CreateIndex(ctx, b.tb, "new", false, byWords)
		b.f.armed.Store(false)
		if _, has := b.db.Index(b.tb, "new"); (has == nil) != (err == nil) {
			t.Fatalf("create: %v; index: %v", err, has)
		}
		return err
	}, func() {
		ix, err := b.db.Index(b.tb, "new")
		check(t, err)
		inView(t, b.db, func(tx *Tx) { sameIndex(t, tx, ix) })
		check(t, b.db.DropIndex(ctx, b.tb, "new"))
	})
	b.reads("create unique index", func() error {
		_, err := b.db.CreateIndex(ctx, b.tb, "new", true, byWords)
		if errors.Is(err, ErrKeyExists) {
			err = nil // rows share words; whoever met the fault works in the background
		}
		b.f.armed.Store(false)
		if _, has := b.db.Index(b.tb, "new"); !errors.Is(has, ErrIndexNotFound) {
			t.Fatalf("create: %v; index: %v", err, has)
		}
		return err
	}, func() {})
	b.reads("drop index", func() error {
		b.f.armed.Store(false)
		mustIndex(t, b.db, b.tb, "new", false)
		b.cold()
		b.f.armed.Store(true)
		return b.db.DropIndex(ctx, b.tb, "new")
	}, func() {
		if names := b.db.Indexes(b.tb); len(names) != 2 {
			t.Fatalf("indexes: %q", names)
		}
	})
	for _, ix := range b.ixs {
		b.reads("check of index", func() error {
			return b.db.m.CheckIndex(ctx, ix, func(err error) { t.Errorf("found: %v", err) })
		}, func() {})
	}
	waitSwept(t, b.db) // a sweep that met a fault is repeated
	mustClose(t, b.db)
}
