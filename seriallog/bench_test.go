package seriallog

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

// benchLog opens a log of default sizes in a directory of the real disk.
func benchLog(b *testing.B) *Log {
	b.Helper()
	l, err := Open(Options{FS: vfs.Default, Dir: vfs.Default.PathJoin(b.TempDir(), "log"), Incarnation: 1})
	if err != nil {
		b.Fatal(err)
	}
	if err := l.StartWriting(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	b.ReportAllocs()
	return l
}

// BenchmarkAppendGroup is chill: groups that the background writer writes out.
func BenchmarkAppendGroup(b *testing.B) {
	for _, n := range []int{1, 100, 4000} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			l := benchLog(b)
			body := rows(1, n, 100)
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if err := l.Reserve(b.Context(), RecordOverhead()+len(body)); err != nil {
					b.Fatal(err)
				}
				start, err := l.AppendGroup(1, body)
				if err != nil {
					b.Fatal(err)
				}
				l.Checkpointed(start)
			}
			st := l.Stats()
			b.ReportMetric(float64(st.WrittenBytes)/float64(max(st.Writes, 1)), "B/write")
		})
	}
}

// BenchmarkAppendCommit is a NoSync commit of one row.
func BenchmarkAppendCommit(b *testing.B) {
	l := benchLog(b)
	body := rows(1, 1, 100)
	c := &Commit{Txn: 1, TS: 1}
	for b.Loop() {
		if err := l.Reserve(b.Context(), CommitCost(c, len(body))); err != nil {
			b.Fatal(err)
		}
		end, err := l.AppendCommit(c, body)
		if err != nil {
			b.Fatal(err)
		}
		l.Checkpointed(end)
	}
}

// BenchmarkSync is a durable commit of one row by 1, 8 and 64 goroutines.
func BenchmarkSync(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			l := benchLog(b)
			body := rows(1, 1, 100)
			syncs := l.Stats().Syncs
			var ops atomic.Int64
			b.SetParallelism(max(1, n/2))
			if n == 1 {
				c := &Commit{Txn: 1, TS: 1}
				for b.Loop() {
					benchCommit(b, l, c, body)
					ops.Add(1)
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					c := &Commit{Txn: 1, TS: 1}
					for pb.Next() {
						benchCommit(b, l, c, body)
						ops.Add(1)
					}
				})
			}
			b.ReportMetric(float64(ops.Load())/float64(l.Stats().Syncs-syncs), "commits/sync")
			b.ReportMetric(float64(ops.Load())/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

func benchCommit(b *testing.B, l *Log, c *Commit, body []byte) {
	b.Helper()
	if err := l.Reserve(b.Context(), CommitCost(c, len(body))); err != nil {
		b.Fatal(err)
	}
	end, err := l.AppendCommit(c, body)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Sync(end); err != nil {
		b.Fatal(err)
	}
	l.Checkpointed(end)
}

// BenchmarkRead is a thaw of one row from the buffer and from the file.
func BenchmarkRead(b *testing.B) {
	for _, where := range []string{"buffer", "file"} {
		b.Run(where, func(b *testing.B) {
			l := benchLog(b)
			body := rows(1, 1, 100)
			if err := l.Reserve(b.Context(), RecordOverhead()+len(body)); err != nil {
				b.Fatal(err)
			}
			start, err := l.AppendGroup(1, body)
			if err != nil {
				b.Fatal(err)
			}
			if where == "file" {
				if err := l.Sync(l.End()); err != nil {
					b.Fatal(err)
				}
			}
			var dst []byte
			for b.Loop() {
				if dst, err = l.Read(start, len(body), dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReplay reads 100 000 small commits.
func BenchmarkReplay(b *testing.B) {
	fs := vfs.NewMem()
	o := Options{FS: fs, Dir: "/log", Incarnation: 1}
	l, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.StartWriting(); err != nil {
		b.Fatal(err)
	}
	const n = 100_000
	for i := range n {
		addCommit(b, l, &Commit{Txn: base.TxnID(i + 1), TS: base.CommitTS(i + 1)}, rows(i, 1, 100))
	}
	closeLog(b, l)
	b.ReportAllocs()
	for b.Loop() {
		if l, err = Open(o); err != nil {
			b.Fatal(err)
		}
		if got := 0; l.Replay(0, func(Record) error { got++; return nil }) != nil || got != n {
			b.Fatal(got)
		}
		closeLog(b, l)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
