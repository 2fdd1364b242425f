package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/segment"
)

// image is a store as bytes, to be damaged at will.
type image map[string][]byte

// takeImage reads all files below dir.
func takeImage(t *testing.T, fs vfs.FS, dir string) image {
	t.Helper()
	im := image{}
	names, err := fs.List(dir)
	check(t, err)
	for _, name := range names {
		p := path.Join(dir, name)
		st, err := fs.Stat(p)
		check(t, err)
		if st.IsDir() {
			maps.Copy(im, takeImage(t, fs, p))
			continue
		}
		f, err := fs.Open(p)
		check(t, err)
		b, err := io.ReadAll(f)
		check(t, errors.Join(err, f.Close()))
		im[p] = b
	}
	return im
}

// restore makes a file system with the files.
func (im image) restore(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	for p, b := range im {
		check(t, fs.MkdirAll(path.Dir(p), 0o755))
		f, err := fs.Create(p, vfs.WriteCategoryUnspecified)
		check(t, err)
		_, err = f.Write(bytes.Clone(b))
		check(t, errors.Join(err, f.Sync(), f.Close()))
	}
	return fs
}

func (im image) files() []string {
	names := slices.Collect(maps.Keys(im))
	slices.Sort(names)
	return names
}

// used returns how many bytes of a file may mean something: segments of the log
// end in zeros.
func used(name string, b []byte) int {
	if strings.HasSuffix(name, ".seg") {
		return min(len(bytes.TrimRight(b, "\x00"))+64, len(b))
	}
	return len(b)
}

// victim is a store to be damaged.
type victim struct {
	im image
	o  *oracle
	n  int // commits in it
}

// logSegment is the size of log segments in faultOptions.
const logSegment = 64 << 10

// newVictims makes a store that was closed, and one that was killed with a log to
// replay and frames to list again.
func newVictims(t *testing.T) (closed, killed *victim) {
	t.Helper()
	mem := newCrashFS(t)
	o := faultOptions(mem)
	db := mustOpen(t, o)
	orc := newOracle()
	l := newLife(db, orc, 11, func(error) bool { return false })
	work := func() {
		t.Helper()
		check(t, l.transaction("a", 8, 100, false, false, nil))
		check(t, l.transaction("a", 60, 60, false, false, func() error { return l.evict() }))
		check(t, l.transaction("b", 200, 60, false, false, nil))
		check(t, l.transaction("b", 2, 12000, false, false, nil))
		check(t, l.transaction("a", 12, 100, false, false, l.chill))
	}
	check(t, l.create("a"))
	check(t, l.create("b"))
	work()
	check(t, db.Checkpoint(ctx))
	check(t, l.create("c"))
	check(t, l.drop("c"))
	work()
	_, _, n := orc.span()
	killed = &victim{takeImage(t, mem.CrashClone(vfs.CrashCloneCfg{}), "db"), orc, n}
	check(t, db.Close())
	closed = &victim{takeImage(t, mem, "db"), orc, n}
	return closed, killed
}

// read opens a store that may be damaged and reads all of it, by every path. It
// returns the first error, or the commits that the rows are the state after. What
// is read before an error must be right too.
func (v *victim) read(fs vfs.FS) (commits int, err error) {
	db, err := Open("db", faultOptions(fs))
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	err = db.Verify(ctx)
	rows := map[string][]byte{}
	seen := func(key string, val []byte) { rows[key] = bytes.Clone(val) }
	for _, name := range db.Tables() {
		if strings.HasPrefix(name, "w0/") {
			rows[name] = []byte("table")
			err = errors.Join(err, readTable(db, name, seen))
		}
	}
	if err != nil {
		// A state that rows from everywhere agree with must exist.
		for n := v.n; n >= 0; n-- {
			if st := v.o.state(n); agree(st, rows) {
				return n, err
			}
		}
		return 0, &wrongData{fmt.Errorf("%w, but before that %s", err, diff(v.o.state(v.n), rows))}
	}
	var sum uint64
	for k, val := range rows {
		sum ^= rowSum(k, val)
	}
	for n := v.n; n >= 0; n-- {
		if v.o.sums[n] == sum {
			return n, nil
		}
	}
	return 0, &wrongData{errors.New(diff(v.o.state(v.n), rows))}
}

// wrongData is what must never happen.
type wrongData struct{ error }

func agree(state, rows map[string][]byte) bool {
	for k, v := range rows {
		if w, ok := state[k]; !ok || !bytes.Equal(v, w) {
			return false
		}
	}
	return true
}

// readTable reads a table forward, in reverse and by key, and joins what fails.
func readTable(db *DB, name string, seen func(key string, val []byte)) error {
	tb, err := db.Table(name)
	if err != nil {
		return err
	}
	return db.View(ctx, func(tx *Tx) error {
		var errs [3]error
		forward := 0
		for row, err := range tx.Scan(tb, Range{}) {
			if errs[0] = err; err != nil {
				break
			}
			forward++
			seen(name+"\x00"+string(row.Key), row.Value)
			if forward%16 == 0 {
				got, err := tx.Get(tb, row.Key)
				if err != nil {
					errs[1] = err
				} else if !bytes.Equal(got, row.Value) {
					return &wrongData{fmt.Errorf("get and scan of %q differ", row.Key)}
				}
			}
		}
		reverse := 0
		for row, err := range tx.Scan(tb, Range{Reverse: true}) {
			if errs[2] = err; err != nil {
				break
			}
			reverse++
			seen(name+"\x00"+string(row.Key), row.Value)
		}
		if errs[0] == nil && errs[2] == nil && forward != reverse {
			return &wrongData{fmt.Errorf("%s: %d rows forward, %d in reverse", name, forward, reverse)}
		}
		return errors.Join(errs[:]...)
	})
}

// verdicts counts what became of damage, by kind of file.
type verdicts struct {
	named, refused, harmless, shortened map[string]int
	example                             map[string]string
}

func kindOf(name string) string {
	switch base := path.Base(name); {
	case strings.Contains(name, "/map/"):
		return "map/" + strings.TrimRight(strings.Split(base, ".")[0], "-0123456789") + path.Ext(base)
	case path.Ext(base) != "":
		return path.Ext(base)
	default:
		return base
	}
}

func newVerdicts() *verdicts {
	return &verdicts{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]string{}}
}

// judge opens the damaged store and says what came of it. tail says that the
// damage may look like the end of the log: then an older state is right as well.
func (v *victim) judge(t *testing.T, vs *verdicts, name, what string, fs vfs.FS, tail bool) {
	t.Helper()
	kind := kindOf(name)
	within(t, func() string { return what }, func() {
		n, err := v.read(fs)
		var wrong *wrongData
		var corrupt *CorruptionError
		switch {
		case errors.As(err, &wrong):
			t.Errorf("%s: wrong data: %v", what, err)
		case errors.As(err, &corrupt):
			vs.named[kind]++
			if corrupt.File == "" {
				t.Errorf("%s: no file is named: %v", what, err)
			}
		case errors.Is(err, ErrFormatTooNew) && kind == formatName:
			vs.refused[kind]++
			vs.example[kind] = fmt.Sprintf("%s: %v", what, err)
		case err != nil:
			t.Errorf("%s: no CorruptionError: %v", what, err)
		case n == v.n, tail:
			if n == v.n {
				vs.harmless[kind]++
			} else {
				vs.shortened[kind]++
			}
			// What was built on the damage stands.
			if again, err := v.read(fs); err != nil || again != n {
				t.Errorf("%s: first the state after %d commits, then after %d: %v", what, n, again, err)
			}
		default:
			t.Errorf("%s: the state is that after %d of %d commits, and nobody says so", what, n, v.n)
		}
	})
}

func (vs *verdicts) log(t *testing.T) {
	t.Helper()
	kinds := map[string]struct{}{}
	for _, m := range []map[string]int{vs.named, vs.refused, vs.harmless, vs.shortened} {
		for k := range m {
			kinds[k] = struct{}{}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%-20s CorruptionError %6d, other error %5d, harmless %6d, taken for the end of the log %5d",
			k, vs.named[k], vs.refused[k], vs.harmless[k], vs.shortened[k])
		if vs.example[k] != "" {
			t.Logf("%-20s other error: %s", "", vs.example[k])
		}
	}
}

// vouched returns the greatest position that a block of the log says was synced
// before it was written. Damage at or behind it cannot be told from a crash (L4).
func (v *victim) vouched(t *testing.T) (pos uint64) {
	t.Helper()
	for name, b := range v.im {
		seq, ok := segment.ParseName(path.Base(name))
		if !ok {
			continue
		}
		h, ok := segment.ParseHeader(b)
		if !ok || h.Seq != seq {
			continue
		}
		pos = max(pos, uint64(h.Synced))
		for r := segment.NewReader(bytes.NewReader(b), &h, nil); ; {
			block, ok, err := r.Next()
			check(t, err)
			if !ok {
				break
			}
			pos = max(pos, uint64(block.Synced))
		}
	}
	return pos
}

// inTail reports whether the byte belongs to the log from pos on.
func inTail(name string, off int, pos uint64) bool {
	seq, ok := segment.ParseName(path.Base(name))
	return ok && seq*logSegment+uint64(off) >= pos
}

// eachVictim runs fn on a store that was closed and on one that was killed.
func eachVictim(t *testing.T, seed uint64, fn func(t *testing.T, v *victim, vs *verdicts, rng *rand.Rand)) {
	t.Helper()
	closed, killed := newVictims(t)
	for name, v := range map[string]*victim{"closed": closed, "killed": killed} {
		t.Run(name, func(t *testing.T) {
			vs := newVerdicts()
			fn(t, v, vs, rand.New(rand.NewPCG(seed, 9)))
			vs.log(t)
		})
	}
}

// TestFlippedBytes flips a byte of a store: that is detected, and named, or does
// no harm; nothing wrong is read, nothing panics or hangs. With -saker.long every
// byte of every file in turn, but for the zeros at the end of log segments.
func TestFlippedBytes(t *testing.T) {
	eachVictim(t, 3, func(t *testing.T, v *victim, vs *verdicts, rng *rand.Rand) {
		vouched := v.vouched(t)
		flip := func(name string, off int) {
			b := v.im[name]
			mask := byte(rng.IntN(255) + 1)
			b[off] ^= mask
			v.judge(t, vs, name, fmt.Sprintf("%s at %d ^ %#x", name, off, mask), v.im.restore(t), inTail(name, off, vouched))
			b[off] ^= mask
			if t.Failed() {
				t.FailNow()
			}
		}
		for _, name := range v.im.files() {
			n := used(name, v.im[name])
			if *long {
				for off := range n {
					flip(name, off)
				}
				for off := n; off < len(v.im[name]); off += 509 {
					flip(name, off)
				}
				t.Logf("%s: %d bytes", name, n)
				continue
			}
			for range min(n, 12) {
				flip(name, rng.IntN(n))
			}
		}
	})
}

// TestTruncatedFiles cuts files short, and fills what was cut with zeros: as with
// flipped bytes. A file that is empty, or gone, is noticed too.
func TestTruncatedFiles(t *testing.T) {
	eachVictim(t, 5, func(t *testing.T, v *victim, vs *verdicts, rng *rand.Rand) {
		vouched := v.vouched(t)
		for _, name := range v.im.files() {
			whole := v.im[name]
			cuts := []int{0, 1, len(whole) - 1, used(name, whole) / 2}
			rounds := 2
			if *long {
				rounds = 200
			}
			for range rounds {
				cuts = append(cuts, rng.IntN(len(whole)+1))
			}
			for _, at := range cuts {
				if at < 0 || at >= len(whole) {
					continue
				}
				for _, zeros := range []bool{false, true} {
					v.im[name] = bytes.Clone(whole[:at])
					if zeros {
						v.im[name] = append(v.im[name], make([]byte, len(whole)-at)...)
					}
					what := fmt.Sprintf("%s cut at %d of %d, zeros %v", name, at, len(whole), zeros)
					v.judge(t, vs, name, what, v.im.restore(t), inTail(name, at, vouched))
				}
			}
			if path.Base(name) != "LOCK" {
				delete(v.im, name)
				v.judge(t, vs, name, name+" gone", v.im.restore(t), inTail(name, 0, vouched))
			}
			v.im[name] = whole
		}
	})
}

// TestDamagedFirstHeader: a store that was killed before its first checkpoint has
// a single log segment, and with its header damaged it looks like a log that was
// never begun. It used to open as an empty store.
func TestDamagedFirstHeader(t *testing.T) {
	mem := newCrashFS(t)
	db := mustOpen(t, faultOptions(mem))
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "v") })
	im := takeImage(t, mem.CrashClone(vfs.CrashCloneCfg{}), "db")
	check(t, db.Close())
	for off := range segment.HeaderSize {
		im["db/log/000000000001.seg"][off] ^= 1
		db, err := Open("db", faultOptions(im.restore(t)))
		if _, ok := errors.AsType[*CorruptionError](err); !ok {
			t.Errorf("byte %d of the header is damaged: %v", off, err)
			if err == nil {
				check(t, db.Close())
			}
		}
		im["db/log/000000000001.seg"][off] ^= 1
	}
}

// Pebble refuses damage to some of its files with errors of no kind: of the OPTIONS,
// or of a table that is too short. They were handed on as they were. Each is a
// CorruptionError with the file.
func TestDamagedMapIsNamed(t *testing.T) {
	closed, _ := newVictims(t)
	damages := map[string]func(b []byte) []byte{
		"OPTIONS-": func(b []byte) []byte { return bytes.Replace(b, []byte("concatenate"), []byte("concat$nate"), 1) },
		".sst":     func(b []byte) []byte { return b[:len(b)-1] },
		"MANIFEST": func(b []byte) []byte { return append([]byte{b[0] ^ 1}, b[1:]...) },
	}
	for kind, damage := range damages {
		found := false
		for _, name := range closed.im.files() {
			if _, file, ok := strings.Cut(name, "/map/"); !ok || !strings.HasPrefix(file, kind) && path.Ext(file) != kind {
				continue
			}
			found = true
			im := maps.Clone(closed.im)
			im[name] = damage(bytes.Clone(im[name]))
			if _, err := closed.read(im.restore(t)); !names(err, name) {
				t.Errorf("%s is damaged: %v", name, err)
			}
		}
		if !found {
			t.Errorf("no file is called %s", kind)
		}
	}
}
