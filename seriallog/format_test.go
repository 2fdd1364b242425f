package seriallog

import (
	"flag"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/segment"
)

var writeFormat = flag.Bool("write-format", false, "write testdata of the current format")

// writeOldFormat writes a log with one record of each type into dir. The file
// is cut off behind the last block to keep testdata small.
func writeOldFormat(t *testing.T, dir string) {
	t.Helper()
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	addGroup(t, l, 5, rows(1, 2, 20))
	addCommit(t, l, testCommits()[2], rows(2, 1, 20))
	d := &DDL{TS: 7, Op: OpCreateTable, Table: 3, Name: "accounts"}
	if err := l.Reserve(t.Context(), DDLCost(d)); err != nil {
		t.Fatal(err)
	}
	end, err := l.AppendDDL(d)
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	name := segment.Name(l.SegmentOf(end))
	if err := vfs.Default.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err = vfs.LimitedCopy(rootFS{fs}, fs.PathJoin(testDir, name), vfs.Default.PathJoin(dir, name), l.offset(end)+40)
	if err != nil {
		t.Fatal(err)
	}
}

// rootFS reads from one file system and creates on the default one.
type rootFS struct{ vfs.FS }

func (rootFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return vfs.Default.Create(name, c)
}
