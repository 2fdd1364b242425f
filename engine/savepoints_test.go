package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// nest is a transaction whose savepoints nest hundreds deep, beside a stack of
// maps. All its writes meet in few records, whose chains leave memory and come
// back meanwhile.
type nest struct {
	t     *rapid.T
	db    *DB
	tb    *Table
	tx    *Tx
	rows  map[string]string
	marks []nestMark
	n     int
	trace []string
}

type nestMark struct {
	sp   Savepoint
	rows map[string]string
}

var nestKeys = []string{
	"a", "b", "c", strings.Repeat("k", MaxKeySize), strings.Repeat("k", MaxKeySize-1), strings.Repeat("q", 3000),
}

var nestSizes = []int{0, 1, 20, 100, 100, 1000, 8<<10 - 1, 8 << 10, 8<<10 + 1, 40000}

func (x *nest) fatalf(format string, args ...any) {
	x.t.Helper()
	x.t.Fatalf("step %d: %s\n%s", x.n, fmt.Sprintf(format, args...), strings.Join(x.trace[max(0, len(x.trace)-50):], "\n"))
}

func (x *nest) note(format string, args ...any) {
	x.trace = append(x.trace, fmt.Sprintf("%d: "+format, append([]any{x.n}, args...)...))
}

func (x *nest) step() {
	x.n++
	ops := []string{
		"write", "write", "write", "write", "write", "push", "push", "push", "push", "back", "release", "read", "maintain", "deep",
	}
	switch rapid.SampledFrom(ops).Draw(x.t, "op") {
	case "write":
		x.write()
	case "push":
		x.push()
	case "deep":
		for range rapid.IntRange(1, 60).Draw(x.t, "depth") {
			x.push()
			x.write()
		}
	case "back", "release":
		x.pop()
	case "read":
		x.compare(x.tx)
	case "maintain":
		x.maintain()
	}
}

func (x *nest) push() {
	sp, err := x.tx.Savepoint()
	if err != nil {
		x.fatalf("savepoint: %v", err)
	}
	x.marks = append(x.marks, nestMark{sp, maps.Clone(x.rows)})
	x.note("savepoint %d", len(x.marks))
}

// pop rolls back to a savepoint or releases one, mostly a young one.
func (x *nest) pop() {
	if len(x.marks) == 0 {
		return
	}
	i := len(x.marks) - 1
	if rapid.IntRange(0, 2).Draw(x.t, "far") == 0 {
		i = rapid.IntRange(0, i).Draw(x.t, "mark")
	}
	if rapid.Bool().Draw(x.t, "roll back") {
		if err := x.tx.RollbackTo(x.marks[i].sp); err != nil {
			x.fatalf("rollback to: %v", err)
		}
		x.rows = maps.Clone(x.marks[i].rows)
		x.marks = x.marks[:i+1]
		x.note("rolled back to %d", i+1)
		return
	}
	if err := x.tx.Release(x.marks[i].sp); err != nil {
		x.fatalf("release: %v", err)
	}
	x.marks = x.marks[:i]
	x.note("released %d", i+1)
}

func (x *nest) write() {
	k := rapid.SampledFrom(nestKeys).Draw(x.t, "key")
	size := rapid.SampledFrom(nestSizes).Draw(x.t, "size")
	if len(k) > 1000 {
		size = min(size, 8<<10) // many large values of one long key: see the known gaps
	}
	v := string(value(x.n, size))
	_, exists := x.rows[k]
	var err, want error
	mode := rapid.SampledFrom([]string{"put", "put", "insert", "update", "delete", "lock"}).Draw(x.t, "mode")
	switch mode {
	case "put":
		err = x.tx.Put(x.tb, []byte(k), []byte(v))
	case "insert":
		if err = x.tx.Insert(x.tb, []byte(k), []byte(v)); exists {
			want = ErrKeyExists
		}
	case "update":
		if err = x.tx.Update(x.tb, []byte(k), []byte(v)); !exists {
			want = ErrNotFound
		}
	case "delete":
		if err = x.tx.Delete(x.tb, []byte(k)); !exists {
			want = ErrNotFound
		}
	case "lock":
		var got []byte
		if got, err = x.tx.GetForUpdate(x.tb, []byte(k)); !exists {
			want = ErrNotFound
		} else if string(got) != x.rows[k] {
			x.fatalf("lock of %.5q: %.40q, want %.40q", k, got, x.rows[k])
		}
	}
	x.note("%s %.5q (%d) %d bytes: %v", mode, k, len(k), len(v), err)
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		x.fatalf("%s %.5q: %v, want %v", mode, k, err, want)
	}
	switch {
	case err != nil || mode == "lock":
	case mode == "delete":
		delete(x.rows, k)
	default:
		x.rows[k] = v
	}
}

func (x *nest) maintain() {
	op := rapid.SampledFrom([]string{"prune", "backlog", "all", "chill", "chill", "evict", "merge", "unburden", "give up", "checkpoint"}).Draw(x.t, "maintain")
	x.note("%s", op)
	switch op {
	case "unburden":
		x.db.m.Unburden(false)
	case "give up":
		x.db.m.Unburden(true)
	case "checkpoint":
		if err := x.db.Checkpoint(ctx); err != nil {
			x.fatalf("checkpoint: %v", err)
		}
	default:
		maintain(x.t, x.db, op, x.tb, []byte(nestKeys[0]))
	}
}

func (x *nest) compare(tx *Tx) {
	x.t.Helper()
	for _, k := range nestKeys {
		want, exists := x.rows[k]
		got, err := tx.Get(x.tb, []byte(k))
		if exists && (err != nil || string(got) != want) || !exists && !errors.Is(err, ErrNotFound) {
			x.fatalf("get %.5q (%d): %d bytes %.20q %v, want %d bytes %.20q", k, len(k), len(got), got, err, len(want), want)
		}
	}
	keys := slices.Sorted(maps.Keys(x.rows))
	for row, err := range tx.Scan(x.tb, Range{}) {
		if err != nil || len(keys) == 0 || string(row.Key) != keys[0] || !bytes.Equal(row.Value, []byte(x.rows[keys[0]])) {
			x.fatalf("scan: %.5q (%d) %d bytes, %v; want %.5q", row.Key, len(row.Key), len(row.Value), err, keys)
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		x.fatalf("scan misses %.5q", keys)
	}
}

// Savepoints nested hundreds deep over few records (S6, P6, P8, L3): own reads,
// errors of statements, commit, and what a crash leaves.
func TestDeepSavepoints(t *testing.T) {
	for name, threshold := range map[string]int64{"large at once": 1, "soon large": 64 << 10, "small": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { deepSavepoints(t, threshold) })
		})
	}
}

func deepSavepoints(t *rapid.T, threshold int64) {
	fs := newCrashFS(t)
	o := tinyOptions()
	o.FS, o.ChillThreshold = fs, threshold
	db, err := Open("db", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if !db.closed.Load() {
			_ = db.Close()
		}
	}()
	x := &nest{t: t, db: db, rows: map[string]string{}}
	if x.tb, err = db.CreateTable(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	inUpdate(t, db, func(tx *Tx) {
		for i, k := range nestKeys {
			if i%2 == 0 {
				put(t, tx, x.tb, k, "before")
				before[k] = "before"
			}
		}
	})
	x.rows = maps.Clone(before)
	if x.tx, err = db.Begin(ctx, TxOptions{}); err != nil {
		t.Fatal(err)
	}
	for range rapid.IntRange(10, 120).Draw(t, "steps") {
		x.step()
	}
	x.compare(x.tx)
	mine := x.rows
	inView(t, db, func(tx *Tx) { x.rows = before; x.compare(tx); x.rows = mine })
	if rapid.IntRange(0, 3).Draw(t, "commit") > 0 {
		commit(t, x.tx)
	} else {
		rollback(t, x.tx)
		x.rows = before
	}
	inView(t, db, x.compare)
	crashed := *o
	crashed.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	mustClose(t, db)
	x.note("crash")
	if x.db, err = Open("db", &crashed); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.db.Close() }()
	x.tb = mustTableOf(t, x.db)
	inView(t, x.db, x.compare)
	checkStore(t, x.db)
}

// Large values of one record, one in each of many live savepoints, make a list that
// cannot be cut. When it and one more were more than record memory, the writer
// brought the leaf back, the scavenger took it away to make room, and so on for
// ever. There is an end: an error that leaves the transaction as before.
func TestLargeValuesInSavepointsOfOneRecord(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 1 << 30
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	key := []byte(strings.Repeat("k", MaxKeySize))
	c, cancel := context.WithTimeout(ctx, time.Minute) // against hanging
	defer cancel()
	tx, err := db.Begin(c, TxOptions{})
	check(t, err)
	var marks []Savepoint
	for i := 0; err == nil; i++ {
		sp, serr := tx.Savepoint()
		check(t, serr)
		marks = append(marks, sp)
		if err = tx.Put(tb, key, value(i, 40000)); i%10 == 9 {
			evictAll(t, db)
		}
	}
	if !errors.Is(err, ErrRecordMemory) || len(marks) < 10 {
		t.Fatalf("after %d values: %v", len(marks), err)
	}
	n := len(marks) - 2 // the last that was written
	got, err := tx.Get(tb, key)
	check(t, err)
	if !bytes.Equal(got, value(n, 40000)) {
		t.Fatalf("the record is not as the statement before left it")
	}
	// Somebody else finds that the list is as short as it can be, which is not true
	// any more when savepoints have gone: the next write was refused all the same.
	evictAll(t, db)
	collapseAll(db)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "neighbour", "x") })
	check(t, tx.RollbackTo(marks[5]))
	if got, err = tx.Get(tb, key); err != nil || !bytes.Equal(got, value(4, 40000)) {
		t.Fatalf("after rollback: %d bytes, %v", len(got), err)
	}
	check(t, tx.Put(tb, key, value(1000, 40000)))
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "other", "x") })
	commit(t, tx)
	inView(t, db, func(tx *Tx) {
		if got, err := tx.Get(tb, key); err != nil || !bytes.Equal(got, value(1000, 40000)) {
			t.Errorf("after commit: %d bytes, %v", len(got), err)
		}
	})
	mustClose(t, db)
}
