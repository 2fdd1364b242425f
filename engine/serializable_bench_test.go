package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// What serializable costs: one Get and one Put of a million rows, of the same row and
// of two, by one and two goroutines, beside a snapshot.
func BenchmarkSerializable(b *testing.B) {
	const rows = 1 << 20
	db, tb := loaded(b, rows)
	for _, goroutines := range []int{1, 2} {
		for _, two := range []bool{false, true} {
			for _, level := range []Isolation{Snapshot, Serializable} {
				b.Run(fmt.Sprintf("goroutines=%d/two=%v/%v", goroutines, two, level), func(b *testing.B) {
					b.ReportAllocs()
					var g sync.WaitGroup
					for range goroutines {
						g.Go(func() {
							u := newUpdater(b, db, tb, rows)
							u.level, u.two = level, two
							for range b.N / goroutines {
								u.update()
							}
						})
					}
					g.Wait()
				})
			}
		}
	}
}

// How many commits fail that need not, by how precise read sets are: sixteen
// transactions are open at a time, each reads keys and short ranges at random and
// writes four keys. What they read is known to the key, so every abort is judged.
func BenchmarkSerializableFalseAborts(b *testing.B) {
	db, tb := loaded(b, abortKeys)
	for _, reads := range []int{10, 100, 1000, 5000} {
		for _, spans := range []int{16, 256, 1024, 4096} {
			b.Run(fmt.Sprintf("reads=%d/spans=%d", reads, spans), func(b *testing.B) {
				db.m.ReadSpans = spans
				a := &aborts{B: b, db: db, tb: tb, reads: reads, rng: rand.New(rand.NewPCG(1, 1)), changed: map[uint64]int{}}
				for range b.N {
					a.turn()
				}
				n := float64(a.commits + a.needed + a.needless)
				b.ReportMetric(100*float64(a.needed)/n, "%needed")
				b.ReportMetric(100*float64(a.needless)/n, "%false")
				for _, x := range a.open {
					_ = x.tx.Rollback()
				}
			})
		}
	}
}

// aborts runs transactions side by side and judges their ends.
type aborts struct {
	*testing.B
	db                        *DB
	tb                        *Table
	rng                       *rand.Rand
	reads                     int
	open                      []*knownReads
	changed                   map[uint64]int
	clock                     int
	commits, needed, needless int
}

type knownReads struct {
	tx   *Tx
	snap int
	keys [][2]uint64
}

const abortKeys = 1 << 20

// turn lets the oldest transaction write and commit, and a new one begin.
func (a *aborts) turn() {
	for len(a.open) < 16 {
		a.begin()
	}
	x := a.open[0]
	a.open = a.open[1:]
	var key [8]byte
	var wrote [4]uint64
	for i := range wrote {
		wrote[i] = a.rng.Uint64N(abortKeys)
		binary.BigEndian.PutUint64(key[:], wrote[i])
		if err := x.tx.Put(a.tb, key[:], []byte("w")); err != nil {
			_ = x.tx.Rollback() // first updater wins: says nothing about reads
			return
		}
	}
	conflict := false
	for _, r := range x.keys {
		for k := r[0]; k < r[1]; k++ {
			conflict = conflict || a.changed[k] > x.snap
		}
	}
	switch err := x.tx.Commit(); {
	case err == nil && conflict:
		a.Fatal("a conflict was missed")
	case err == nil:
		a.commits++
		a.clock++
		for _, k := range wrote {
			a.changed[k] = a.clock
		}
	case !errors.Is(err, ErrConflict):
		a.Fatal(err)
	case conflict:
		a.needed++
	default:
		a.needless++
	}
}

func (a *aborts) begin() {
	x := &knownReads{tx: serial(a, a.db), snap: a.clock}
	var from, to [8]byte
	for i := range a.reads {
		k := a.rng.Uint64N(abortKeys)
		n := uint64(1)
		binary.BigEndian.PutUint64(from[:], k)
		if i%10 == 0 {
			n += a.rng.Uint64N(4)
			binary.BigEndian.PutUint64(to[:], k+n)
			scanAll(a, x.tx, a.tb, Range{From: from[:], To: to[:]})
		} else if _, err := x.tx.Get(a.tb, from[:]); err != nil {
			a.Fatal(err)
		}
		x.keys = append(x.keys, [2]uint64{k, k + n})
	}
	a.open = append(a.open, x)
}
