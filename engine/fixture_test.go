package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/recordcache"
)

// Fixtures are stores of every format that was ever released, as archives. They
// are opened for ever. To add those of the current format:
//
//	go test ./engine -run '^TestFixtures$' -saker.fixtures
var writeFixtures = flag.Bool("saker.fixtures", false, "write the fixtures of the current format")

// fixtureRows is what each fixture holds: rows by table.
func fixtureRows() map[string]map[string]string {
	birds, logs := map[string]string{}, map[string]string{}
	for i := range 300 {
		if i%7 != 3 { // deleted
			birds[fmt.Sprintf("bird%04d", i)] = string(value(i, i%90+1))
		}
	}
	for i := 0; i < 300; i += 5 {
		if i%7 != 3 {
			birds[fmt.Sprintf("bird%04d", i)] = fmt.Sprint("second value of ", i)
		}
	}
	birds["large"] = string(value(1, 30000))
	for i := range 2000 { // the bulk transaction
		logs[fmt.Sprintf("log%05d", i)] = string(value(i, 40))
	}
	logs["log00007"] = "written after the checkpoint"
	delete(logs, "log00008")
	return map[string]map[string]string{"birds": birds, "logs": logs}
}

// makeFixture makes a store with fixtureRows: checkpointed and not, in frames, in
// the log and in memory. It returns what a crash leaves, and what Close leaves.
func makeFixture(t *testing.T) (killed, closed image) {
	t.Helper()
	mem := newCrashFS(t)
	o := faultOptions(mem)
	o.RunSize = 1 << 20
	db := mustOpen(t, o)
	birds, logs := mustTable(t, db, "birds"), mustTable(t, db, "logs")
	gone := mustTable(t, db, "gone")
	fixtureIndexes(t, db)
	inUpdate(t, db, func(tx *Tx) {
		for i := range 300 {
			put(t, tx, birds, fmt.Sprintf("bird%04d", i), string(value(i, i%90+1)))
		}
		put(t, tx, gone, "k", "v")
	})
	evictAll(t, db)
	inUpdate(t, db, func(tx *Tx) {
		for i := range 300 {
			if i%7 == 3 {
				del(t, tx, birds, fmt.Sprintf("bird%04d", i))
			}
		}
		put(t, tx, birds, "large", string(value(1, 30000)))
	})
	check(t, db.DropTable(ctx, "gone"))
	check(t, db.Checkpoint(ctx))
	inUpdate(t, db, func(tx *Tx) {
		for i := range 2000 {
			put(t, tx, logs, fmt.Sprintf("log%05d", i), string(value(i, 40)))
		}
		sp, err := tx.Savepoint()
		check(t, err)
		put(t, tx, logs, "log00009", "rolled back")
		relieveAll(t, db, recordcache.BacklogAll)
		check(t, tx.RollbackTo(sp))
	})
	inUpdate(t, db, func(tx *Tx) {
		for i := 0; i < 300; i += 5 {
			if i%7 != 3 {
				put(t, tx, birds, fmt.Sprintf("bird%04d", i), fmt.Sprint("second value of ", i))
			}
		}
		put(t, tx, logs, "log00007", "written after the checkpoint")
		del(t, tx, logs, "log00008")
	})
	loser := mustBegin(t, db, TxOptions{})
	put(t, loser, logs, "loser", "never committed")
	relieveAll(t, db, recordcache.BacklogAll)
	killed = takeImage(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}), "db")
	rollback(t, loser)
	mustClose(t, db)
	return killed, takeImage(t, mem, "db")
}

// fixtureIndexes makes the indexes of a fixture, or gives them their functions.
func fixtureIndexes(t *testing.T, db *DB) {
	t.Helper()
	_, err := db.CreateIndex(ctx, mustTable(t, db, "birds"), "end", false, func(row Row, emit func([]byte)) {
		emit(row.Value[max(0, len(row.Value)-3):])
		emit(row.Value[len(row.Value)/2:][:1])
	})
	check(t, err)
	_, err = db.CreateIndex(ctx, mustTable(t, db, "logs"), "number", true, func(row Row, emit func([]byte)) {
		if number, _, ok := bytes.Cut(row.Value, []byte(".")); ok {
			emit(number)
		}
	})
	check(t, err)
}

func (im image) archive(t *testing.T, name string) {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, p := range im.files() {
		check(t, w.WriteHeader(&tar.Header{Name: p, Mode: 0o644, Size: int64(len(im[p])), Format: tar.FormatUSTAR}))
		_, err := w.Write(im[p])
		check(t, err)
	}
	check(t, errors.Join(w.Close(), z.Close()))
	check(t, os.WriteFile(name, buf.Bytes(), 0o644))
}

func readArchive(t *testing.T, name string) image {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	z, err := gzip.NewReader(bytes.NewReader(b))
	check(t, err)
	im := image{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return im
		}
		check(t, err)
		im[h.Name], err = io.ReadAll(r)
		check(t, err)
	}
}

// TestFixtures opens stores of every format, killed and closed ones.
func TestFixtures(t *testing.T) {
	if *writeFixtures {
		killed, closed := makeFixture(t)
		killed.archive(t, filepath.Join("testdata", fmt.Sprintf("format-%d-killed.tar.gz", formatVersion)))
		closed.archive(t, filepath.Join("testdata", fmt.Sprintf("format-%d-closed.tar.gz", formatVersion)))
	}
	names, err := filepath.Glob(filepath.Join("testdata", "format-*.tar.gz"))
	check(t, err)
	if len(names) < 2*formatVersion {
		t.Errorf("format %d has %d fixtures", formatVersion, len(names))
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			o := faultOptions(readArchive(t, name).restore(t))
			indexed := !strings.Contains(name, "format-1-") && !strings.Contains(name, "format-2-")
			for range 2 { // as it is, and as this version leaves it
				db := mustOpen(t, o)
				checkFixture(t, db)
				if n := len(db.Indexes(mustTable(t, db, "birds"))); (n == 1) != indexed {
					t.Errorf("%d indexes", n)
				}
				mustClose(t, db)
			}
			db := mustOpen(t, o)
			fixtureIndexes(t, db)
			checkFixture(t, db) // they agree with their tables
			inUpdate(t, db, func(tx *Tx) { put(t, tx, mustTable(t, db, "logs"), "new", "row") })
			mustClose(t, db)
		})
	}
}

func checkFixture(t *testing.T, db *DB) {
	t.Helper()
	checkStore(t, db)
	want := fixtureRows()
	if got := fmt.Sprint(db.Tables()); got != "[birds logs]" {
		t.Errorf("tables %s", got)
	}
	inView(t, db, func(tx *Tx) {
		for name, rows := range want {
			tb := mustTable(t, db, name)
			found := all(t, tx, tb)
			if len(found) != len(rows) {
				t.Errorf("%s has %d rows, want %d", name, len(found), len(rows))
			}
			for key, val := range rows {
				gets(t, tx, tb, key, val)
			}
		}
	})
}
