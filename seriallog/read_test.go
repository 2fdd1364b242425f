package seriallog

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

func TestReadFromBufferAndFile(t *testing.T) {
	l, _ := open(t, vfs.NewMem(), 1)
	type at struct {
		lsn base.LSN
		row []byte
	}
	var all []at
	check := func(when string) {
		t.Helper()
		for i, a := range all {
			got, err := l.Read(a.lsn, len(a.row), []byte("prefix"))
			if err != nil || string(got) != "prefix"+string(a.row) {
				t.Fatalf("%s: row %d at %d: %v", when, i, a.lsn, err)
			}
			if _, _, err := DecodeRow(got[6:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 200 {
		r1, r2 := rows(i, 1, 900), rows(i+1000, 1, 10)
		start := addGroup(t, l, 1, append(bytes.Clone(r1), r2...))
		all = append(all, at{start, r1}, at{start + base.LSN(len(r1)), r2})
		if i%40 == 0 {
			check("in between")
		}
	}
	check("buffered")
	mustSync(t, l, l.End())
	check("on file")
	if l.Stats().Segments < 3 {
		t.Error("the test does not switch segments")
	}
	for name, bad := range map[string]struct {
		lsn base.LSN
		n   int
	}{
		"beyond the end":   {l.End() - 4, 8},
		"segment header":   {base.LSN(l.SegmentSize()), 8},
		"far away":         {1 << 50, 8},
		"before the log":   {0, 8},
		"negative":         {all[0].lsn, -1},
		"end of a segment": {base.LSN(2*l.SegmentSize() - 4), 8},
	} {
		if _, err := l.Read(bad.lsn, bad.n, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	closeLog(t, l)
}

// Readers race with appends, writes, syncs and reuse: a pinned segment is
// always readable.
func TestReadWhileWriting(t *testing.T) {
	l, _ := open(t, vfs.NewMem(), 1)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 300 {
				body := rows(g*1000+i, 3, rng.IntN(500))
				if err := l.Reserve(t.Context(), RecordOverhead()+len(body)); err != nil {
					t.Error(err)
					return
				}
				start, err := l.AppendGroupPinned(base.TxnID(g+1), body)
				if err != nil {
					t.Error(err)
					return
				}
				if rng.IntN(10) == 0 {
					if err := l.Sync(l.End()); err != nil {
						t.Error(err)
					}
				}
				l.Checkpointed(start)
				got, err := l.Read(start, len(body), nil)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("goroutine %d, group %d at %d: %v", g, i, start, err)
				}
				l.Unpin(l.SegmentOf(start))
			}
		})
	}
	wg.Wait()
	idle(t, l)
	if st := l.Stats(); st.PinnedSegments != 0 || st.Segments > 2 {
		t.Errorf("%d segments, %d pinned, when all is checkpointed", st.Segments, st.PinnedSegments)
	}
	closeLog(t, l)
}
