package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// One row that everybody writes, at ReadCommitted: how many transactions a second, and
// how many others committed while the unluckiest waited.
func BenchmarkHotRow(b *testing.B) {
	for _, goroutines := range []int{2, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			o := memOptions()
			db := mustOpen(b, o)
			tb := mustTable(b, db, "t")
			inUpdate(b, db, func(tx *Tx) { put(b, tx, tb, "k", "0") })
			var left, done, worst atomic.Int64
			left.Store(int64(b.N))
			var g sync.WaitGroup
			b.ResetTimer()
			for range goroutines {
				g.Go(func() {
					for left.Add(-1) >= 0 {
						began := done.Load()
						err := db.UpdateWith(ctx, TxOptions{Isolation: ReadCommitted, NoSync: true}, func(tx *Tx) error {
							v, err := tx.GetForUpdate(tb, []byte("k"))
							if err != nil {
								return err
							}
							return tx.Put(tb, []byte("k"), v)
						})
						if err != nil {
							b.Error(err)
							return
						}
						for others := done.Add(1) - began; ; {
							if w := worst.Load(); others <= w || worst.CompareAndSwap(w, others) {
								break
							}
						}
					}
				})
			}
			g.Wait()
			b.StopTimer()
			b.ReportMetric(float64(worst.Load()), "others")
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
