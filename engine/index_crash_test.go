package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// indexCrash is what a crash left, and which indexes it must have, and may have.
type indexCrash struct {
	fs      *vfs.MemFS
	at      string
	percent int
	must    string
	may     string
}

// Crashes after syncs, renames and removals while indexes are built, written and
// dropped. Each leaves indexes that agree with their tables: one that CreateIndex has
// returned is there, one that DropIndex has dropped is not, one that was being built
// is gone, and nothing of it is left.
func TestIndexCrashAtEverySync(t *testing.T) {
	mem := newCrashFS(t)
	var mu sync.Mutex // guards what follows: several goroutines sync
	var points []indexCrash
	rng := rand.New(rand.NewPCG(max(*crashSeed, 1), 5))
	must, may, on := "", "", false
	fs := &syncFS{MemFS: mem, after: func(moment, name string) {
		mu.Lock()
		defer mu.Unlock()
		percents := []int{rng.IntN(3) * 50}
		switch {
		case !on || moment != "sync":
			return
		case *everySync:
			percents = []int{0, 50, 100}
		case rng.IntN(3) > 0:
			return
		}
		for _, p := range percents {
			points = append(points, indexCrash{
				fs: mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: p, RNG: rng}),
				at: name, percent: p, must: must, may: may,
			})
		}
	}}
	phase := func(mustHave, mayHave string) {
		mu.Lock()
		defer mu.Unlock()
		on, must, may = true, mustHave, mayHave
	}
	o := tinyOptions()
	o.FS = fs
	o.LogSegmentSize = 64 << 10
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	fillWords(t, db, tb, 1200)
	write := func(n int) {
		for i := range n {
			inUpdate(t, db, func(tx *Tx) {
				for j := range 40 {
					put(t, tx, tb, fmt.Sprintf("k%06d", (i*977+j*31)%1300), fmt.Sprintf("w%d w%d", i%50, j))
				}
			})
		}
		backlogAll(t, db)
	}
	for _, unique := range []bool{false, true} {
		name := "i"
		fn := byWords
		if unique {
			fn = firstWord
		}
		phase("", name)
		_, err := db.CreateIndex(ctx, tb, name, unique, fn)
		check(t, err)
		phase(name, name)
		write(6)
		check(t, db.Checkpoint(ctx))
		write(3)
		phase("", name)
		check(t, db.DropIndex(ctx, tb, name))
		phase("", "")
		write(2)
		check(t, db.Checkpoint(ctx))
	}
	phase("", "")
	_, err := db.CreateIndex(ctx, tb, "fails", false, func(row Row, emit func([]byte)) {
		emit(row.Value)
		if strings.HasPrefix(string(row.Key), "k0011") {
			panic("no more")
		}
	})
	wantErr(t, "create", err, ErrIndexFunc)
	phase("", "last")
	mustIndex(t, db, tb, "last", false)
	phase("", "last table")
	check(t, db.DropTable(ctx, "t"))
	check(t, db.Checkpoint(ctx))
	mu.Lock()
	on = false
	mu.Unlock()
	mustClose(t, db)
	built := 0
	for i := range points {
		built += points[i].open(t, *o)
	}
	t.Logf("%d crashes, %d with an index", len(points), built)
	if built == 0 || built == len(points) {
		t.Errorf("%d crashes, %d with an index", len(points), built)
	}
}

// open opens what the crash left, and says whether there is an index.
func (c *indexCrash) open(t *testing.T, o Options) (built int) {
	t.Helper()
	o.FS = c.fs
	db, err := Open("db", &o)
	what := fmt.Sprintf("%s, %d %% of unsynced data", c.at, c.percent)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer mustClose(t, db)
	if n := len(db.tables); n > 2 {
		t.Fatalf("%s: %d tables", what, n)
	}
	tb, err := db.Table("t")
	if errors.Is(err, ErrTableNotFound) && strings.Contains(c.may, "table") {
		if n := len(db.tables); n > 0 {
			t.Fatalf("%s: %d tables are left", what, n)
		}
		return 0
	}
	check(t, err)
	names := db.Indexes(tb)
	if len(db.tables) != 1+len(names) {
		t.Fatalf("%s: %d tables, indexes %q", what, len(db.tables), names)
	}
	if got := strings.Join(names, " "); c.must != "" && got != c.must || got != "" && !strings.HasPrefix(c.may, got) {
		t.Fatalf("%s: indexes %q, must be %q, may be %q", what, got, c.must, c.may)
	}
	for _, name := range names {
		ix, err := db.Index(tb, name)
		check(t, err)
		fn := byWords
		if ix.Unique() {
			fn = firstWord
		}
		_, err = db.CreateIndex(ctx, tb, name, ix.Unique(), fn)
		check(t, err)
		inUpdate(t, db, func(tx *Tx) {
			put(t, tx, tb, "k000001", "u5 x")
			if !ix.Unique() {
				sameIndex(t, tx, ix)
			}
		})
	}
	checkStore(t, db)
	return len(names)
}

// An index whose table is gone, as a crash between the two drops leaves it.
func TestIndexWithoutTable(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	mustIndex(t, db, tb, "i", false)
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "1", "a") })
	check(t, db.ddl.lock(ctx))
	check(t, db.commitDrop(tb)) // and then the crash
	db.ddl.unlock()
	db = reopen(t, db, o)
	if len(db.tables) != 0 {
		t.Errorf("%d tables are left", len(db.tables))
	}
	mustClose(t, db)
}

// A backup made while an index is built is a store without it; one made later has it.
func TestIndexBackup(t *testing.T) {
	o := memOptions()
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	fillWords(t, db, tb, 50)
	first := true
	_, err := db.CreateIndex(ctx, tb, "i", false, func(row Row, emit func([]byte)) {
		if first {
			first = false
			check(t, db.Backup(ctx, "early"))
		}
		byWords(row, emit)
	})
	check(t, err)
	check(t, db.Backup(ctx, "late"))
	for dir, want := range map[string]int{"early": 0, "late": 1} {
		copied, err := Open(dir, o)
		check(t, err)
		of := mustTable(t, copied, "t")
		if n := len(copied.Indexes(of)); n != want || len(copied.tables) != 1+want {
			t.Errorf("%s: %d indexes, %d tables", dir, n, len(copied.tables))
		}
		for range want {
			ix := mustIndex(t, copied, of, "i", false)
			inView(t, copied, func(tx *Tx) { sameIndex(t, tx, ix) })
		}
		mustClose(t, copied)
	}
	mustClose(t, db)
}

// Verify finds an entry that is missing, one too many, one that is another row's and
// one that is none; while the index is detached, what the rows' keys can tell.
func TestVerifyFindsInIndex(t *testing.T) {
	entry := func(ik, pk string) []byte { return append(base.AppendIndexKey(nil, []byte(ik)), pk...) }
	for _, c := range []struct {
		name     string
		unique   bool
		do       func(t *testing.T, tx *Tx, entries *Table)
		attached string // found, and found while detached
		detached string
	}{
		{"nothing", false, func(*testing.T, *Tx, *Table) {}, "", ""},
		{"missing", false, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			del(t, tx, x, string(entry("a", "1")))
		}, "of row 31 is missing", ""},
		{"missing, unique", true, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			del(t, tx, x, string(entry("a", "")))
		}, "of row 31 is missing", ""},
		{"one too many", false, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			put(t, tx, x, string(entry("z", "1")), "")
		}, "is not one of its row, 31", ""},
		{"without row", false, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			put(t, tx, x, string(entry("z", "9")), "")
		}, "is of a row that is not there", "is of a row that is not there"},
		{"of another row", true, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			put(t, tx, x, string(entry("a", "")), "2")
		}, "is not of row 31", ""},
		{"no entry", false, func(t *testing.T, tx *Tx, x *Table) { t.Helper(); put(t, tx, x, "rubbish", "") }, "is none", "is none"},
		{"no entry, unique", true, func(t *testing.T, tx *Tx, x *Table) {
			t.Helper()
			put(t, tx, x, string(entry("a", "1")), "")
		}, "is none", "is none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := memOptions()
			db := mustOpen(t, o)
			tb := mustTable(t, db, "t")
			ix := mustIndex(t, db, tb, "i", c.unique)
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "1", "a")
				put(t, tx, tb, "2", "b")
			})
			check(t, db.Verify(ctx))
			inUpdate(t, db, func(tx *Tx) { c.do(t, tx, ix.Entries()) })
			finds := func(want string) {
				t.Helper()
				err := db.Verify(ctx)
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			finds(c.attached)
			check(t, db.Close())
			db = mustOpen(t, o)
			finds(c.detached)
			check(t, db.Close())
		})
	}
}
