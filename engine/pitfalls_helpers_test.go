package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// atEachCrash opens what a crash with 0, 50 and 100 % of unsynced data leaves
// and gives it to fn.
func atEachCrash(t *testing.T, o *Options, fs *vfs.MemFS, fn func(t *testing.T, db *DB, o *Options)) {
	t.Helper()
	for _, percent := range []int{0, 50, 100} {
		t.Run(fmt.Sprintf("unsynced=%d%%", percent), func(t *testing.T) {
			c := *o
			c.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, uint64(percent)))})
			db := mustOpen(t, &c)
			checkStore(t, db)
			fn(t, db, &c)
			mustClose(t, db)
		})
	}
}

func fillRows(t tester, tx *Tx, tb *Table, from, to, size int) {
	t.Helper()
	for i := from; i < to; i++ {
		put(t, tx, tb, fmt.Sprintf("k%06d", i), string(value(i, size)))
	}
}

func wantRows(t tester, tx *Tx, tb *Table, from, to, size int) {
	t.Helper()
	rows := all(t, tx, tb)
	if len(rows) != to-from {
		t.Fatalf("%d rows, want %d", len(rows), to-from)
	}
	for i, row := range rows {
		if want := fmt.Sprintf("k%06d=%s", from+i, value(from+i, size)); row != want {
			t.Fatalf("row %d is %.50q, want %.50q", i, row, want)
		}
	}
	for i := from; i < to; i += 1 + (to-from)/100 {
		gets(t, tx, tb, fmt.Sprintf("k%06d", i), string(value(i, size)))
	}
}
