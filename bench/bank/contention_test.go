package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

// Contention: go test -run '^$' -bench . ./bench/bank. Each operation is one
// transaction that has committed, its retries included.

var (
	benchLevels     = []engine.Isolation{engine.ReadCommitted, engine.Snapshot, engine.Serializable}
	benchGoroutines = []int{1, 2, 8, 64}
)

// benchBank opens a bank with resident accounts.
func benchBank(b *testing.B, level engine.Isolation, accounts int) *bank {
	b.Helper()
	k := newBank(&config{Flags: command.Flags{Level: level, RecordMemory: 128 << 20}, accounts: accounts, padding: 92}, b.TempDir())
	ctx := context.Background()
	if err := k.open(ctx); err != nil {
		b.Fatal(err)
	}
	if err := k.fund(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := k.store.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	return k
}

// together runs op b.N times in some goroutines, and reports the conflicts,
// deadlocks and waits of each.
func together(b *testing.B, k *bank, goroutines int, op func(rng *rand.Rand) error) {
	b.Helper()
	before := k.store.Metrics()
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for left.Add(-1) >= 0 {
				if err := op(rng); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	m, n := k.store.Metrics(), float64(b.N)
	b.ReportMetric(float64(m.Conflicts-before.Conflicts)/n, "conflicts/op")
	b.ReportMetric(float64(m.Deadlocks-before.Deadlocks)/n, "deadlocks/op")
	b.ReportMetric(float64(m.Waits-before.Waits)/n, "waits/op")
}

// BenchmarkHotCounter adds one to a single row, which is locked first or not.
func BenchmarkHotCounter(b *testing.B) {
	ctx := context.Background()
	for _, level := range benchLevels {
		for _, lock := range []bool{true, false} {
			if !lock && level == engine.ReadCommitted {
				continue // it would lose updates
			}
			for _, goroutines := range benchGoroutines {
				b.Run(fmt.Sprintf("%v/lock=%v/goroutines=%d", level, lock, goroutines), func(b *testing.B) {
					k := benchBank(b, level, 2)
					together(b, k, goroutines, func(*rand.Rand) error {
						return k.store.UpdateWith(ctx, engine.TxOptions{Isolation: level, NoSync: true}, func(tx *engine.Tx) error {
							return k.add(tx, 0, 1, lock)
						})
					})
					expect(b, k, 0, opening+int64(b.N))
				})
			}
		}
	}
}

// BenchmarkTransfer moves money between accounts at random.
func BenchmarkTransfer(b *testing.B) {
	ctx := context.Background()
	for _, accounts := range []int{10, 1000, 100_000} {
		for _, level := range benchLevels {
			for _, goroutines := range benchGoroutines {
				b.Run(fmt.Sprintf("accounts=%d/%v/goroutines=%d", accounts, level, goroutines), func(b *testing.B) {
					k := benchBank(b, level, accounts)
					together(b, k, goroutines, func(rng *rand.Rand) error {
						from, to := rng.IntN(accounts), rng.IntN(accounts-1)
						if to >= from {
							to++
						}
						return k.store.UpdateWith(ctx, engine.TxOptions{Isolation: level, NoSync: true}, func(tx *engine.Tx) error {
							return k.move(tx, from, to, 1, level == engine.ReadCommitted)
						})
					})
					if err := k.audit(ctx, rand.New(rand.NewPCG(1, 1)), nil); err != nil {
						b.Error(err)
					}
				})
			}
		}
	}
}

// expect checks the balance of an account.
func expect(b *testing.B, k *bank, i int, want int64) {
	b.Helper()
	err := k.store.View(context.Background(), func(tx *engine.Tx) error {
		v, err := tx.Get(k.table, account(i))
		if err == nil && int64(binary.LittleEndian.Uint64(v)) != want {
			err = fmt.Errorf("account %d has %d, not %d", i, int64(binary.LittleEndian.Uint64(v)), want)
		}
		return err
	})
	if err != nil {
		b.Error(err)
	}
}
