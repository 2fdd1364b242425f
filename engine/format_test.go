package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// laterSchema is that of an engine to come, which keeps the log in a directory of
// another name for a while: three steps after the current format.
func laterSchema() *schema {
	s := currentSchema()
	move := func(from, to string) migrationStep {
		return func(fs vfs.FS, dir string) error {
			if _, err := fs.Stat(fs.PathJoin(dir, from)); err == nil {
				if err := fs.Rename(fs.PathJoin(dir, from), fs.PathJoin(dir, to)); err != nil {
					return err
				}
			} // else it was moved before a crash
			d, err := fs.OpenDir(dir)
			if err != nil {
				return err
			}
			return errors.Join(d.Sync(), d.Close())
		}
	}
	s.steps = append(s.steps, move("log", "redo"), nil, move("redo", "log"))
	s.version += 3
	return s
}

// TestMigration crashes and fails at every operation of a migration of several
// steps, starting from format 1: the next opening goes on with it.
func TestMigration(t *testing.T) {
	old := readArchive(t, "testdata/format-1-killed.tar.gz")
	reached := true
	for n := int64(1); reached; n++ {
		mem := vfs.NewCrashableMem()
		copyInto(t, mem, old)
		f := &faults{kind: errorfs.OpIsWrite, err: errInjected}
		f.arm(n)
		inc, err := openFormat(errorfs.Wrap(mem, f), "db", laterSchema())
		reached = f.failed.Load() > 0
		if reached != (err != nil) || reached && !errors.Is(err, errInjected) {
			t.Fatalf("fault at operation %d: %d %v", n, inc, err)
		}
		for _, percent := range []int{0, 50, 100} {
			if !*long && percent != int(n)%3*50 {
				continue
			}
			rng := rand.New(rand.NewPCG(uint64(n), 8))
			o := faultOptions(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			o.schema = laterSchema()
			db, err := Open("db", o)
			if err != nil {
				t.Fatalf("operation %d, %d %%: %v", n, percent, err)
			}
			if !reached {
				checkFixture(t, db)
			}
			if db.incarnation < inc+1 {
				t.Errorf("incarnation %d after %d", db.incarnation, inc)
			}
			tb := mustTable(t, db, "logs")
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "log00007", "written after the checkpoint") })
			mustClose(t, db)
			got, _, err := readFormat(o.FS, "db", laterSchema().version)
			if err != nil || got.version != laterSchema().version || got.engine != Version {
				t.Errorf("FORMAT says %v, %v", got, err)
			}
			o.schema = nil // this engine does not know what that one has made
			_, err = Open("db", o)
			wantErr(t, "opening with an older engine", err, ErrFormatTooNew)
		}
		if n > 100 {
			t.Fatal("the migration does not end")
		}
	}
}

// A step that fails leaves the store at the format before it.
func TestMigrationStepFails(t *testing.T) {
	o := faultOptions(readArchive(t, "testdata/format-1-closed.tar.gz").restore(t))
	o.schema = laterSchema()
	failure := errors.New("no")
	o.schema.steps[formatVersion] = func(vfs.FS, string) error { return failure }
	_, err := Open("db", o)
	wantErr(t, "open", err, failure)
	got, _, err := readFormat(o.FS, "db", 9)
	if err != nil || got.version != formatVersion+1 {
		t.Errorf("FORMAT says %v, %v", got, err)
	}
	o.schema = laterSchema()
	db := mustOpen(t, o)
	checkFixture(t, db)
	mustClose(t, db)
}

func copyInto(t *testing.T, fs vfs.FS, im image) {
	t.Helper()
	ok, err := vfs.Clone(im.restore(t), fs, "db", "db", vfs.CloneSync)
	if check(t, err); !ok {
		t.Fatal("nothing to copy")
	}
	d, err := fs.OpenDir("")
	check(t, err)
	check(t, errors.Join(d.Sync(), d.Close()))
}

// FuzzParseFormat: what is accepted is what an engine writes, to the byte.
func FuzzParseFormat(f *testing.F) {
	f.Add("saker format 1\nincarnation 3\n")
	f.Add((&format{2, "0.2.0", 17}).encode())
	f.Add((&format{formatVersion, Version, 17}).encode())
	f.Add((&format{2, "0.1.0-rc.1+x", 4194304}).encode())
	f.Add("saker format 4\n")
	f.Add("saker format 4294967297\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFormat(s, formatVersion)
		var ce *CorruptionError
		switch {
		case err == nil && got.version == 1:
			if s != fmt.Sprintf("saker format 1\nincarnation %d\n", got.incarnation) {
				t.Errorf("%q is accepted as %v", s, got)
			}
		case err == nil:
			if s != got.encode() || got.incarnation == 0 || strings.ContainsAny(got.engine, " \n") {
				t.Errorf("%q is accepted as %v", s, got)
			}
		case errors.Is(err, ErrFormatTooNew), errors.As(err, &ce) && ce.File == formatName:
		default:
			t.Errorf("%q: %v", s, err)
		}
	})
}
