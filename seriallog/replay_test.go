package seriallog

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/segment"
)

// cloneFS copies the log of fs into a new file system.
func cloneFS(tb testing.TB, fs vfs.FS) *vfs.MemFS {
	tb.Helper()
	to := vfs.NewMem()
	if err := to.MkdirAll(testDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	names, err := fs.List(testDir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		name = fs.PathJoin(testDir, name)
		if err := vfs.CopyAcrossFS(fs, name, to, name); err != nil {
			tb.Fatal(err)
		}
	}
	return to
}

// damage inverts n bytes of a segment.
func damage(tb testing.TB, fs vfs.FS, seg uint64, off int64, n int) {
	tb.Helper()
	f, err := fs.OpenReadWrite(fs.PathJoin(testDir, segment.Name(seg)), vfs.WriteCategoryUnspecified)
	if err != nil {
		tb.Fatal(err)
	}
	defer closeFile(tb, f)
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		tb.Fatal(err)
	}
	for i := range b {
		b[i] = ^b[i]
	}
	if _, err := f.WriteAt(b, off); err != nil {
		tb.Fatal(err)
	}
}

// L4, one row per kind of damage: below what a later block knew to be synced it
// is corruption, else the end of the log.
func TestDamage(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	var starts []base.LSN // of bodies, one block each
	for i := range 100 {
		starts = append(starts, addGroup(t, l, 1, rows(i, 1, 2<<10)))
		mustSync(t, l, l.End())
	}
	crashed := cloneFS(t, fs) // as after a crash: no end record
	closeLog(t, l)
	first, last := l.SegmentOf(starts[0]), l.SegmentOf(starts[99])
	off := func(i int) int64 { return l.offset(starts[i]) }
	inLast := 0
	for l.SegmentOf(starts[inLast]) != last {
		inLast++
	}
	for _, tc := range []struct {
		name    string
		fs      *vfs.MemFS
		seg     uint64
		off     int64
		want    int   // records
		corrupt int64 // offset, -1: not corrupt
	}{
		{"nothing", crashed, first, 0, 100, -1},
		{"last block", crashed, last, off(99), 99, -1},
		{"header of the last block", crashed, last, off(99) - 40, 99, -1},
		{"last block after a clean close", fs, last, off(99), 0, off(99) - 40},
		{"last but one block", crashed, last, off(98), 0, off(98) - 40},
		{"first block", crashed, first, off(0), 0, off(0) - 40},
		{"block of an earlier segment", crashed, first, off(5), 0, off(5) - 40},
		{"last block of an earlier segment", crashed, last - 1, off(inLast - 1), 0, off(inLast-1) - 40},
		{"end record", crashed, first, -1, 0, -2},
		{"header of the last segment", crashed, last, 10, 0, -2},
		{"header of a middle segment", crashed, first + 1, 10, 0, -2},
		{"header of the first segment", crashed, first, 10, 0, 32},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := cloneFS(t, tc.fs)
			if tc.off == -1 {
				// The end record follows the last record of the segment.
				i := 0
				for l.SegmentOf(starts[i+1]) == first {
					i++
				}
				tc.off = off(i) + int64(len(rows(i, 1, 2<<10))) + 24
			}
			if tc.name != "nothing" {
				damage(t, c, tc.seg, tc.off, 4)
			}
			l := openOnly(t, c, 2)
			defer closeLog(t, l)
			got, err := tryReplay(l, 0)
			if tc.corrupt == -1 {
				if err != nil || len(got) != tc.want {
					t.Fatalf("%d records, %v; want %d", len(got), err, tc.want)
				}
				return
			}
			var ce *base.CorruptionError
			if !errors.As(err, &ce) {
				t.Fatalf("%d records, %v; want corruption", len(got), err)
			}
			if tc.corrupt >= 0 && (ce.Offset != tc.corrupt || !strings.Contains(ce.File, ".seg")) {
				t.Errorf("%v; want it at offset %d", ce, tc.corrupt)
			}
			if err := l.StartWriting(); !errors.Is(err, errReplayFirst) {
				t.Errorf("writing to a corrupt log: %v", err)
			}
		})
	}
}

func TestReplayFromBeyondTheEndIsCorruption(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	start := addGroup(t, l, 1, rows(1, 1, 10))
	closeLog(t, l)
	l = openOnly(t, fs, 2)
	defer closeLog(t, l)
	for _, from := range []base.LSN{start + 10000, start + 1<<30} {
		if _, err := tryReplay(l, from); !isCorruption(err) {
			t.Errorf("from %d: %v", from, err)
		}
	}
}

func TestReplayStopsAtAnErrorOfTheCallback(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	addGroup(t, l, 1, nil)
	closeLog(t, l)
	l = openOnly(t, fs, 2)
	defer closeLog(t, l)
	stop := errors.New("stop")
	if err := l.Replay(0, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := l.StartWriting(); !errors.Is(err, errReplayFirst) {
		t.Error("writing after an interrupted replay:", err)
	}
}

func TestReplaySegmentsDetectsDamage(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	var starts []base.LSN
	for i := range 60 {
		starts = append(starts, addGroup(t, l, 1, rows(i, 1, 2<<10)))
		mustSync(t, l, l.End())
	}
	closeLog(t, l)
	seg := l.SegmentOf(starts[0])
	n := 0
	for l.SegmentOf(starts[n]) == seg {
		n++
	}
	for i := range n {
		c := cloneFS(t, fs)
		damage(t, c, seg, l.offset(starts[i]), 1)
		l := openOnly(t, c, 2)
		replay(t, l, starts[50])
		err := l.ReplaySegments([]uint64{seg, seg}, starts[50], func(Record) error { return nil })
		if !isCorruption(err) {
			t.Errorf("block %d of %d damaged: %v", i, n, err)
		}
		// Records behind upto are not missed.
		got := 0
		err = l.ReplaySegments([]uint64{seg}, starts[i]-40, func(Record) error { got++; return nil })
		if err != nil || got != i {
			t.Errorf("up to the damaged block %d: %d records, %v", i, got, err)
		}
		if err := l.ReplaySegments([]uint64{99}, 1, nil); !isCorruption(err) {
			t.Errorf("missing segment: %v", err)
		}
		closeLog(t, l)
	}
}

// craft writes segment seq with one sealed block per payload, followed by raw.
func craft(tb testing.TB, fs vfs.FS, h segment.Header, raw []byte, payloads ...[]byte) {
	tb.Helper()
	h.Size = 64 << 10
	b := make([]byte, segment.HeaderSize, h.Size)
	segment.PutHeader(b, &h)
	for _, p := range payloads {
		block := append(make([]byte, segment.BlockHeaderSize), p...)
		segment.SealBlock(block, segment.Place{Seq: h.Seq, Incarnation: h.Incarnation, Off: int64(len(b))}, 0)
		b = append(b, block...)
	}
	b = append(b, raw...)
	if err := fs.MkdirAll(testDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	w, err := fs.Create(fs.PathJoin(testDir, segment.Name(h.Seq)), vfs.WriteCategoryUnspecified)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(b[:h.Size]); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
}

func groupRecord(txn byte) []byte {
	return append(putRecordHeader(nil, TypeGroup, 8, 0), txn, 0, 0, 0, 0, 0, 0, 0)
}

func endRecord(next uint64) []byte {
	return binary.LittleEndian.AppendUint64(putRecordHeader(nil, typeEnd, 8, 0), next)
}

// End record and header of the successor must agree; one row per way not to.
func TestLinks(t *testing.T) {
	const end = 64<<10 + 64 + 2*(24+16)
	for _, tc := range []struct {
		name    string
		next    uint64
		prevEnd base.LSN
		want    int
	}{
		{"agree", 2, end, 2},
		{"another successor", 3, end, 1},
		{"none yet", 0, end, 1},
		{"itself", 1, end, 1},
		{"another position", 2, end - 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			craft(t, fs, segment.Header{Seq: 1, Incarnation: 1}, nil, groupRecord(1), endRecord(tc.next))
			craft(t, fs, segment.Header{Seq: 2, Incarnation: 1, PrevEnd: tc.prevEnd}, nil, groupRecord(2))
			l, got := open(t, fs, 2)
			closeLog(t, l)
			if len(got) != tc.want {
				t.Errorf("%d records, want %d", len(got), tc.want)
			}
			l, got = open(t, fs, 3)
			closeLog(t, l)
			if len(got) != tc.want {
				t.Errorf("%d records when opened again, want %d", len(got), tc.want)
			}
		})
	}
}

func TestBadRecords(t *testing.T) {
	c := testCommits()[0]
	for name, payload := range map[string][]byte{
		"end record with others": append(groupRecord(1), endRecord(2)...),
		"cut record header":      groupRecord(1)[:7],
		"length beyond block":    groupRecord(1)[:15],
		"length below header":    make([]byte, 20),
		"meta beyond record":     putRecordHeader(nil, TypeGroup, 8, -8),
		"unknown type":           putRecordHeader(nil, 77, 0, 0),
		"group without txn":      putRecordHeader(nil, TypeGroup, 0, 0),
		"commit with a tail":     append(putCommit(putRecordHeader(nil, TypeCommit, commitSize(c)+1, 0), c), 0),
		"ddl with a body":        append(putDDL(putRecordHeader(nil, TypeDDL, 6, 1), &DDL{Op: OpCeiling}), 0),
	} {
		fs := vfs.NewMem()
		craft(t, fs, segment.Header{Seq: 1, Incarnation: 1}, nil, payload)
		l := openOnly(t, fs, 2)
		if got, err := tryReplay(l, 0); !isCorruption(err) {
			t.Errorf("%s: %d records, %v", name, len(got), err)
		}
		closeLog(t, l)
	}
}

func TestSegmentsOfDifferentSize(t *testing.T) {
	fs := vfs.NewMem()
	craft(t, fs, segment.Header{Seq: 1, Incarnation: 1}, nil)
	b := make([]byte, segment.HeaderSize)
	segment.PutHeader(b, &segment.Header{Seq: 2, Incarnation: 1, Size: 128 << 10})
	w, err := fs.Create(fs.PathJoin(testDir, segment.Name(2)), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	closeFile(t, w)
	if _, err := Open(Options{FS: fs, Dir: testDir}); !isCorruption(err) {
		t.Errorf("opened: %v", err)
	}
}

// FuzzReplay replays a segment whose bytes behind the header are arbitrary,
// with the checksums of the first block made right, so that the fuzzer gets
// through to the records.
func FuzzReplay(f *testing.F) {
	row := rows(1, 2, 20)
	c := testCommits()[2]
	commit := append(putCommit(putRecordHeader(nil, TypeCommit, commitSize(c), len(row)), c), row...)
	end := endRecord(2)
	f.Add(commit, end)
	f.Add(end, commit)
	f.Add([]byte{}, []byte{1})
	f.Add(append(putRecordHeader(nil, TypeGroup, 8, 0), make([]byte, 8)...), []byte(nil))
	f.Add(make([]byte, 100), []byte(nil))
	f.Fuzz(func(t *testing.T, payload, raw []byte) {
		const size = 64 << 10
		if len(payload)+len(raw) > size/2 {
			return
		}
		fs := vfs.NewMem()
		if len(payload) > 0 {
			craft(t, fs, segment.Header{Seq: 1, Incarnation: 1}, raw, payload)
		} else {
			craft(t, fs, segment.Header{Seq: 1, Incarnation: 1}, raw)
		}
		l := openOnly(t, fs, 2)
		defer closeLog(t, l)
		first, err := tryReplay(l, 0)
		if err != nil {
			if !isCorruption(err) {
				t.Fatalf("not a corruption: %v", err)
			}
			return
		}
		// What was replayed once is replayed again, and nothing more.
		if err := l.StartWriting(); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		l2, again := open(t, fs, 3)
		closeLog(t, l2)
		if len(first) != len(again) {
			t.Fatalf("%d records, then %d", len(first), len(again))
		}
	})
}

// The log in testdata was written by version 1 of the format. It must be
// readable for ever. Run with -run OldFormat -write-format to make a new one.
func TestOldFormat(t *testing.T) {
	dir := filepath.Join("testdata", "v1")
	if *writeFormat {
		writeOldFormat(t, dir)
	}
	fs := vfs.NewMem()
	if err := fs.MkdirAll(testDir, 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := vfs.CopyAcrossFS(vfs.Default, filepath.Join(dir, n.Name()), fs, fs.PathJoin(testDir, n.Name())); err != nil {
			t.Fatal(err)
		}
	}
	l, got := open(t, fs, 100)
	defer closeLog(t, l)
	if len(got) != 3 || got[0].Type != TypeGroup || got[1].Type != TypeCommit || got[2].Type != TypeDDL {
		t.Fatalf("replayed %+v", got)
	}
	if row, _, err := DecodeRow([]byte(got[0].body)); err != nil || string(row.Key) != "key-000001-000" {
		t.Errorf("row %+v, %v", row, err)
	}
	if c := got[1].Commit; c.TS != 6 || len(c.Runs) != 2 || len(c.Segments) != 3 || len(c.Dead) != 2 {
		t.Errorf("commit %+v", c)
	}
	if d := got[2].DDL; d.Name != "accounts" || d.Op != OpCreateTable {
		t.Errorf("ddl %+v", d)
	}
}
