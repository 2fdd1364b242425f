package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

var errInjected = errors.New("injected fault")

// faults fails every write operation from the n-th on, while it is armed.
type faults struct {
	armed atomic.Bool
	n     atomic.Int64
	once  bool // only the n-th fails
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if !f.armed.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	switch n := f.n.Add(-1); {
	case n == 0, n < 0 && !f.once:
		return errInjected
	}
	return nil
}

// poisoned reports whether the error says that the store has failed.
func poisoned(err error) bool {
	return errors.Is(err, ErrPoisoned) || os.Getenv("SAKER_KNOWN") != "" && errors.Is(err, errInjected)
}

// faultLife does work until something fails; it returns what was acknowledged as
// durable, and what may or may not be there.
func faultLife(t *testing.T, db *DB, rng *rand.Rand) (sure, maybe map[string]string) {
	t.Helper()
	sure = map[string]string{}
	tb, err := db.Table("t")
	check(t, err)
	for i := range 60 {
		tx, err := db.Begin(ctx, TxOptions{})
		if err != nil {
			return sure, nil
		}
		next := maps.Clone(sure)
		err = func() error {
			rows := rng.IntN(5) + 1
			if i%10 == 5 {
				rows = 600 // leaves memory
			}
			for range rows {
				k := fmt.Sprint("k", rng.IntN(1000))
				v := string(value(i, rng.IntN(300)+1))
				if i%17 == 3 {
					v = string(value(i, 20000))
				}
				if err := tx.Put(tb, []byte(k), []byte(v)); err != nil {
					return err
				}
				next[k] = v
			}
			if i%7 == 6 {
				if err := db.Checkpoint(ctx); err != nil {
					return err
				}
			}
			if i%5 == 4 {
				return errors.Join(tx.Rollback(), errInjected)
			}
			return nil
		}()
		if errors.Is(err, errInjected) && i%5 == 4 && tx.Commit() != nil {
			continue // the rollback
		}
		if err != nil {
			_ = tx.Rollback()
			return sure, nil
		}
		if err := tx.Commit(); err != nil {
			if !poisoned(err) {
				t.Errorf("commit: %v", err)
			}
			return sure, next
		}
		sure = next
	}
	return sure, nil
}

// TestFaultAtEveryWrite fails the n-th write of the disk, for many n: the store is
// poisoned, committed reads go on, nothing hangs; reopened without faults it has
// what was acknowledged (L8).
func TestFaultAtEveryWrite(t *testing.T) {
	for n := int64(1); n < 400; n += 1 + n/6 {
		for _, once := range []bool{false, true} {
			faultAt(t, n, once)
			if t.Failed() {
				t.Fatalf("fault at write %d, once %v", n, once)
			}
		}
	}
}

func faultAt(t *testing.T, n int64, once bool) {
	t.Helper()
	mem := newCrashFS(t)
	f := &faults{once: once}
	o := crashLifeOptions(errorfs.Wrap(mem, f))
	failed := make(chan error, 1)
	o.Events = &EventListener{Failed: func(err error) { failed <- err }}
	db := mustOpen(t, o)
	mustTable(t, db, "t")
	f.n.Store(n)
	f.armed.Store(true)
	rng := rand.New(rand.NewPCG(uint64(n), 4))
	done := make(chan struct{})
	var sure, maybe map[string]string
	go func() {
		defer close(done)
		sure, maybe = faultLife(t, db, rng)
	}()
	select {
	case <-done:
	case <-time.After(40 * time.Second):
		panic(fmt.Sprintf("fault at write %d, once %v: the store hangs", n, once))
	}
	if db.failed() != nil {
		select {
		case err := <-failed:
			if !errors.Is(err, ErrPoisoned) {
				t.Errorf("Failed was told %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Failed was not called")
		}
		afterFailure(t, db, sure, maybe)
	}
	f.armed.Store(false)
	if err := db.Close(); err != nil && db.failed() == nil {
		t.Errorf("close: %v", err)
	}
	// What the process had written is there after a crash of it alone; what was
	// synced after a crash of the machine.
	for _, percent := range []int{0, 100} {
		o := crashLifeOptions(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		db, err := Open("db", o)
		if err != nil {
			t.Errorf("reopen with %d %% of unsynced data: %v", percent, err)
			return
		}
		checkStore(t, db)
		got := rowsOf(t, db)
		if !maps.Equal(got, sure) && (maybe == nil || !maps.Equal(got, maybe)) {
			t.Errorf("after reopening with %d %% of unsynced data: %d rows, acknowledged were %d", percent, len(got), len(sure))
		}
		mustClose(t, db)
	}
}

func rowsOf(t *testing.T, db *DB) map[string]string {
	t.Helper()
	got := map[string]string{}
	inView(t, db, func(tx *Tx) {
		for row, err := range tx.Scan(mustTable(t, db, "t"), Range{}) {
			check(t, err)
			got[string(row.Key)] = string(row.Value)
		}
	})
	return got
}

// afterFailure checks that a poisoned store refuses writes and serves reads.
func afterFailure(t *testing.T, db *DB, sure, maybe map[string]string) {
	t.Helper()
	tb, err := db.Table("t")
	check(t, err)
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tx, err := db.Begin(limit, TxOptions{})
	if err == nil {
		err = tx.Put(tb, []byte("after"), []byte("x"))
		if err == nil {
			err = tx.Commit()
		} else {
			_ = tx.Rollback()
		}
	}
	wantErr(t, "write to a poisoned store", err, ErrPoisoned)
	_, err = db.CreateTable(limit, "u")
	wantErr(t, "create in a poisoned store", err, ErrPoisoned)
	wantErr(t, "sync of a poisoned store", db.Sync(), ErrPoisoned)
	wantErr(t, "checkpoint of a poisoned store", db.Checkpoint(limit), ErrPoisoned)
	inView(t, db, func(tx *Tx) {
		for k, v := range sure {
			got, err := tx.Get(tb, []byte(k))
			if err != nil || string(got) != v && string(got) != maybe[k] {
				t.Errorf("committed row %s after the failure: %.40q %v, want %.40q", k, got, err, v)
				return
			}
		}
	})
}

// A waiter is released when the transaction that it waits for cannot commit
// because the store has failed.
func TestWaitersAreReleasedByFailure(t *testing.T) {
	for n := int64(1); n <= 4; n++ {
		f := &faults{}
		o := memOptions()
		o.FS = errorfs.Wrap(o.FS, f)
		o.ChillThreshold = 1
		db := mustOpen(t, o)
		tb := mustTable(t, db, "t")
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, "k", "x")
		waiter := mustBegin(t, db, TxOptions{})
		done := waiting(t, db, func() error { return waiter.Put(tb, []byte("k"), nil) })
		f.n.Store(n)
		f.armed.Store(true)
		if err := tx.Commit(); err != nil {
			if !poisoned(err) {
				t.Errorf("commit: %v", err)
			}
			select {
			case err := <-done:
				if err == nil {
					err = waiter.Commit()
				}
				if !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrConflict) {
					t.Errorf("the waiter got %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("fault at write %d: the waiter waits for ever", n)
			}
		} else {
			<-done
		}
		f.armed.Store(false)
		_ = db.Close()
	}
}

// One flipped bit anywhere in a closed store is corruption or does no harm: never
// a panic, never wrong rows.
func TestFlippedBits(t *testing.T) {
	mem := newCrashFS(t)
	o := tinyOptions()
	o.FS = mem
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 1500, 60) })
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "large", string(value(1, 20000))) })
	evictAll(t, db)
	inUpdate(t, db, func(tx *Tx) {
		for i := 0; i < 1500; i += 3 {
			put(t, tx, tb, fmt.Sprintf("k%06d", i), "changed")
		}
	})
	mustClose(t, db)
	want := func() map[string]string {
		db := mustOpen(t, o)
		defer func() { check(t, db.Close()) }()
		return rowsOf(t, db)
	}()
	rng := rand.New(rand.NewPCG(8, 8))
	var files []string
	for _, dir := range []string{"db", "db/log", "db/space/runs", "db/space/map"} {
		names, err := mem.List(dir)
		check(t, err)
		for _, name := range names {
			if st, err := mem.Stat(dir + "/" + name); err == nil && !st.IsDir() && st.Size() > 0 {
				files = append(files, dir+"/"+name)
			}
		}
	}
	detected, silent := 0, 0
	for i := range 120 {
		fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
		name := files[i%len(files)]
		at := flip(t, fs, name, rng)
		c := *o
		c.FS = fs
		if err := readAll(t, &c, want); err != nil {
			detected++
		} else {
			silent++
		}
		if t.Failed() {
			t.Fatalf("bit flipped in %s at %d", name, at)
		}
	}
	t.Logf("%d faults were detected, %d did no harm", detected, silent)
	if detected == 0 {
		t.Error("no fault was detected")
	}
}

func flip(t *testing.T, fs *vfs.MemFS, name string, rng *rand.Rand) int {
	t.Helper()
	f, err := fs.Open(name)
	check(t, err)
	b, err := io.ReadAll(f)
	check(t, errors.Join(err, f.Close()))
	at := rng.IntN(len(b))
	b = bytes.Clone(b)
	b[at] ^= 1 << rng.IntN(8)
	w, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	check(t, err)
	_, err = w.Write(b)
	check(t, errors.Join(err, w.Sync(), w.Close()))
	return at
}

// readAll opens a damaged store and reads it; an error is fine, wrong rows are not.
func readAll(t *testing.T, o *Options, want map[string]string) error {
	t.Helper()
	db, err := Open("db", o)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	tb, err := db.Table("t")
	if err != nil {
		t.Errorf("the table is gone: %v", err)
		return err
	}
	if err := db.Verify(ctx); err != nil {
		return err
	}
	return db.View(ctx, func(tx *Tx) error {
		n := 0
		for row, err := range tx.Scan(tb, Range{}) {
			if err != nil {
				return err
			}
			if want[string(row.Key)] != string(row.Value) {
				t.Errorf("row %q is %.40q, want %.40q", row.Key, row.Value, want[string(row.Key)])
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d rows, want %d", n, len(want))
		}
		return nil
	})
}
