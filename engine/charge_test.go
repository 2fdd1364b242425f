package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// maxListed returns how many frames the longest list in the leaf map has, and how
// many entries there are.
func maxListed(t tester, db *DB, tb *Table) (frames, entries int) {
	t.Helper()
	for at := []byte{}; at != nil; {
		en, found, _, high, err := db.space.Lookup(tb.ID, at)
		if err != nil {
			t.Fatalf("lookup: %v", err)
		}
		if found {
			frames, high = max(frames, len(en.Frames)), en.High
			entries++
			db.space.ReleaseEntry(&en)
		}
		at = high
	}
	return frames, entries
}

// A crash took all edits of the map since the table was one leaf. Recovery listed
// every frame since in that leaf, and wrote its growing list again for each of
// them: 195 frames in one list here, as many as record memory allows in a larger
// store. Frames listed again cut leaves at their fences (L11).
func TestRecoveryCutsLeaves(t *testing.T) {
	o := tinyOptions()
	o.MapMemTable = 16 << 20 // no flush of its own
	o.ChillThreshold = 400 << 10
	fs := newCrashFS(t)
	o.FS = fs
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "the map knows one leaf") })
	evictAll(t, db)
	check(t, db.Checkpoint(ctx))
	const rows = 20000
	key := func(i int) string { return fmt.Sprintf("k%06d", i*7919%rows) }
	tx := mustBegin(t, db, TxOptions{})
	for i := range rows {
		put(t, tx, tb, key(i), string(value(i, 100)))
	}
	commit(t, tx)
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	o.Memory, o.RecordMemory = 32<<20, 16<<20 // a long list would fit
	again := mustOpen(t, o)
	tb2 := mustTable(t, again, "t")
	longest, leaves := maxListed(t, again, tb2)
	t.Logf("%d leaves, up to %d frames each", leaves, longest)
	if longest > 64 {
		t.Errorf("L11: a leaf lists %d frames of %d leaves", longest, leaves)
	}
	checkStore(t, again)
	inView(t, again, func(tx *Tx) {
		gets(t, tx, tb2, "k", "the map knows one leaf")
		want := make([]string, rows)
		for i := range rows {
			want[i*7919%rows] = fmt.Sprintf("k%06d=%s", i*7919%rows, value(i, 100))
		}
		if got := all(t, tx, tb2)[1:]; !slices.Equal(got, want) {
			t.Errorf("%d rows, want %d, or others", len(got), rows)
		}
	})
	mustClose(t, again)
	mustClose(t, db)
}

// Lists of many frames are charged before they are made, whatever makes them: a
// split, a large value, a checkpoint, a merge; with hardly any memory free (M1).
func TestListsAreChargedAhead(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	var owners []*Tx
	for i := range 150 { // one frame each in one leaf, which nobody can merge
		tx := mustBegin(t, db, TxOptions{})
		for j := range 3 {
			put(t, tx, tb, fmt.Sprintf("k%d%04d", j*4, i), "x")
		}
		backlogAll(t, db)
		owners = append(owners, tx)
	}
	frames, entries := maxListed(t, db, tb)
	if frames < 150 || entries != 1 {
		t.Fatalf("the list has %d frames, in %d leaves", frames, entries)
	}
	var hog [][]byte
	for b := db.arena.Alloc(1 << 10); b != nil; b = db.arena.Alloc(1 << 10) {
		hog = append(hog, b)
	}
	// with runs op with no memory free, then with a KiB more each time, until it
	// succeeds.
	with := func(what string, op func(ctx context.Context) error) {
		t.Helper()
		for {
			c, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
			err := op(c)
			cancel()
			checkCap(t, db)
			if err == nil {
				return
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%s: %v", what, err)
			}
			if len(hog) == 0 {
				t.Fatalf("%s: no memory is enough", what)
			}
			db.arena.Free(hog[len(hog)-1])
			hog = hog[:len(hog)-1]
		}
	}
	write := func(key string, size int) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			tx, err := db.Begin(ctx, TxOptions{NoSync: true})
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if err := tx.Put(tb, []byte(key), value(1, size)); err != nil {
				return err
			}
			return tx.Commit()
		}
	}
	for i := range 60 {
		with("put", write(fmt.Sprintf("k5%04d", i), 900))
	}
	for i := range 5 {
		with("large", write(fmt.Sprintf("k5%04d", 100+i), 10000))
	}
	if db.Metrics().LeafSplits == 0 {
		t.Error("no leaf was split")
	}
	with("checkpoint", db.Checkpoint)
	for i := range 150 {
		if i%2 == 0 {
			commit(t, owners[i])
		} else {
			rollback(t, owners[i])
		}
		checkCap(t, db)
	}
	mergeAt(t, db, tb, []byte("k0"))
	checkCap(t, db)
	for _, b := range hog {
		db.arena.Free(b)
	}
	inView(t, db, func(tx *Tx) {
		if n := len(all(t, tx, tb)); n != 75*3+65 {
			t.Errorf("%d rows", n)
		}
	})
	mustClose(t, db)
}

// A record with the longest key got large values faster than a merge took the
// superseded ones off its leaf's list. The list outgrew record memory, and the next
// value ended in ErrRecordMemory: within one transaction at once, with one
// transaction per value after a wait for more than could ever be had. Now the list
// is made shorter first (M3).
func TestSupersededValuesFillNoMemory(t *testing.T) {
	o := tinyOptions()
	db := mustOpen(t, o)
	db.cache.OnMerge(func(*recordcache.Table, []byte) {}) // too late, always
	tb := mustTable(t, db, "t")
	key := strings.Repeat("k", MaxKeySize)
	inUpdate(t, db, func(tx *Tx) {
		for i := range 80 {
			put(t, tx, tb, key, string(value(i, 17<<10)))
		}
	})
	for i := range 80 {
		inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, key, string(value(i, 17<<10))) })
	}
	checkCap(t, db)
	checkStore(t, db)
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, key, string(value(79, 17<<10))) })
	mustClose(t, db)
}

// M3: ErrRecordMemory names who holds memory: pinned versions, buffers, outcomes, the
// oldest transaction. It told how much was reserved, and nobody could act on that.
func TestHolders(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 1 << 30
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	has := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := db.holders(); !strings.Contains(got, w) {
				t.Errorf("%q is not in %q", w, got)
			}
		}
	}
	has("no transaction is open", "0 leaves", "outcomes of 0 transactions")
	old := mustBegin(t, db, TxOptions{ReadOnly: true})
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "x") })
	tx := mustBegin(t, db, TxOptions{})
	for i := range 100 {
		put(t, tx, tb, fmt.Sprintf("%04d", i), strings.Repeat("v", 100))
	}
	backlogAll(t, db)
	put(t, tx, tb, "resident", "x")
	has("2 transactions are open", "the oldest has written nothing and began 1 commits ago", "1 leaves, 0 of them with pinned versions")
	if got := db.holders(); strings.Contains(got, "buffers of 0 bytes") || strings.Contains(got, "hold 0 bytes in pages") {
		t.Error(got)
	}
	check(t, old.Rollback())
	has("1 transactions are open", "the oldest is t1.")
	commit(t, tx)
	has("outcomes of 1 transactions", "no transaction is open")
	mustClose(t, db)
}
