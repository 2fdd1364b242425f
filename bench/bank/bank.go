package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

// opening is the balance of an account at first.
const opening = 1000

// bank is one run.
type bank struct {
	c     *config
	dir   string
	store command.Store
	table *engine.Table

	transfers, retries, rolledBack, savepoints, audits, rows atomic.Int64
}

func newBank(c *config, dir string) *bank { return &bank{c: c, dir: dir} }

// run opens the accounts, lets tellers and auditors work, and counts once more
// after the store was opened again.
func (b *bank) run(ctx context.Context) *result {
	err := b.open(ctx)
	if err == nil {
		err = b.fund(ctx)
	}
	start := time.Now()
	if err == nil {
		err = b.work(ctx)
	}
	seconds := time.Since(start).Seconds()
	if b.store.DB != nil {
		err = errors.Join(err, b.store.Close(context.WithoutCancel(ctx)))
	}
	if err == nil {
		if err = b.open(ctx); err == nil {
			err = errors.Join(b.audit(ctx, rand.New(rand.NewPCG(1, 1)), nil), b.store.Close(ctx))
		}
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // interrupted
	}
	return b.result(seconds, err)
}

func (b *bank) result(seconds float64, err error) *result {
	m := b.store.Seen()
	r := &result{
		Level: b.c.Level.String(), Accounts: b.c.accounts, Goroutines: b.c.Goroutines, Seed: b.c.Seed, Seconds: seconds,
		Transfers: b.transfers.Load(), TransfersPerSecond: float64(b.transfers.Load()) / seconds, Retries: b.retries.Load(),
		RolledBack: b.rolledBack.Load(), Savepoints: b.savepoints.Load(), Audits: b.audits.Load(), RowsRead: b.rows.Load(),
		RecordMemoryCapBytes: m.RecordMemoryCap, RecordMemoryPeakBytes: m.RecordMemoryPeak,
		BackloggedChains: m.BackloggedChains, RestoredChains: m.RestoredChains, ColdReads: m.ColdReads,
		Conflicts: m.Conflicts, Deadlocks: m.Deadlocks, Waits: m.Waits,
	}
	if err == nil && m.RecordMemoryPeak > m.RecordMemoryCap {
		err = fmt.Errorf("record memory: %d bytes above a cap of %d", m.RecordMemoryPeak-m.RecordMemoryCap, m.RecordMemoryCap)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (b *bank) open(ctx context.Context) (err error) {
	if err = b.store.Open(b.dir, &engine.Options{Memory: int64(max(4<<20, 4*b.c.RecordMemory)), RecordMemory: int64(b.c.RecordMemory), LogLimit: 32 << 20}); err != nil {
		return err
	}
	b.table, err = b.store.Table(ctx, "accounts")
	return err
}

// fund opens the accounts, in small transactions: their rows stay in memory as long
// as there is room.
func (b *bank) fund(ctx context.Context) error {
	for i := 0; i < b.c.accounts; {
		err := b.store.UpdateWith(ctx, engine.TxOptions{NoSync: true}, func(tx *engine.Tx) error {
			for end := min(i+1000, b.c.accounts); i < end; i++ {
				if err := tx.Put(b.table, account(i), b.row(nil, opening)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func account(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// row appends a row: the balance, and padding that is one with it.
func (b *bank) row(dst []byte, balance int64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(balance))
	for range b.c.padding {
		dst = append(dst, byte(balance))
	}
	return dst
}

func (b *bank) balance(row []byte) (int64, error) {
	if len(row) != 8+b.c.padding {
		return 0, fmt.Errorf("row of %d bytes", len(row))
	}
	balance := int64(binary.LittleEndian.Uint64(row))
	for _, p := range row[8:] {
		if p != byte(balance) {
			return 0, errors.New("row put together from two")
		}
	}
	return balance, nil
}

// work runs everybody until the time is over or something is wrong.
func (b *bank) work(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(b.c.Duration, func() { cancel(nil) })
	defer timer.Stop()
	var wg sync.WaitGroup
	seed := uint64(0)
	repeat := func(job func(rng *rand.Rand) error) {
		seed++
		rng := rand.New(rand.NewPCG(b.c.Seed, seed))
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := job(rng); err != nil && !errors.Is(err, context.Canceled) {
					cancel(err)
				}
			}
		})
	}
	for range b.c.Goroutines {
		repeat(func(rng *rand.Rand) error { return b.transfer(ctx, rng) })
	}
	for range 2 {
		repeat(func(rng *rand.Rand) error { return b.audit(ctx, rng, nil) })
	}
	repeat(func(rng *rand.Rand) error { return b.audit(ctx, rng, func() error { return b.until(ctx, 1000) }) })
	repeat(func(*rand.Rand) error {
		if err := b.until(ctx, 5000); err != nil {
			return err
		}
		return b.store.Checkpoint(ctx)
	})
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errGoal) {
		return err
	}
	return nil
}

// until waits for n more transfers.
func (b *bank) until(ctx context.Context, n int64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for goal := b.transfers.Load() + n; b.transfers.Load() < goal; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// transfer moves money until it succeeds, or rolls back on purpose.
func (b *bank) transfer(ctx context.Context, rng *rand.Rand) error {
	from, to := rng.IntN(b.c.accounts), rng.IntN(b.c.accounts-1)
	if to >= from {
		to++
	}
	amount, give, regret := 1+rng.Int64N(100), rng.IntN(50) == 0, rng.IntN(10) == 0
	lock := b.c.Level == engine.ReadCommitted || rng.IntN(4) == 0
	tries := int64(0)
	err := b.store.UpdateWith(ctx, engine.TxOptions{Isolation: b.c.Level, NoSync: !b.c.durable}, func(tx *engine.Tx) error {
		tries++
		if regret {
			if err := b.regret(tx, from, to, lock); err != nil {
				return err
			}
		}
		if err := b.move(tx, from, to, amount, lock); err != nil {
			return err
		}
		if give {
			return errGiveUp
		}
		return nil
	})
	if tries > 0 {
		b.retries.Add(tries - 1)
	}
	switch {
	case err == nil:
		if n := b.transfers.Add(1); n == b.c.goal {
			return errGoal
		}
	case errors.Is(err, errGiveUp):
		b.rolledBack.Add(1)
	default:
		return err
	}
	return nil
}

// errGoal ends the run.
var errGoal = errors.New("as many transfers as were asked for")

// errGiveUp rolls a transfer back on purpose.
var errGiveUp = errors.New("given up")

// regret moves money and takes that back.
func (b *bank) regret(tx *engine.Tx, from, to int, lock bool) error {
	sp, err := tx.Savepoint()
	if err != nil {
		return err
	}
	if err := b.move(tx, from, to, 1_000_000, lock); err != nil {
		return err
	}
	b.savepoints.Add(1)
	return tx.RollbackTo(sp)
}

func (b *bank) move(tx *engine.Tx, from, to int, amount int64, lock bool) error {
	if err := b.add(tx, from, -amount, lock); err != nil {
		return err
	}
	return b.add(tx, to, amount, lock)
}

// add reads a balance, for update or not, and writes it back changed.
func (b *bank) add(tx *engine.Tx, i int, amount int64, lock bool) error {
	get := tx.Get
	if lock {
		get = tx.GetForUpdate
	}
	v, err := get(b.table, account(i))
	if err != nil {
		return err
	}
	balance, err := b.balance(v)
	if err != nil {
		return err
	}
	return tx.Update(b.table, account(i), b.row(v[:0], balance+amount))
}

// audit counts the money in one snapshot, in a direction at random; with between
// once more after that.
func (b *bank) audit(ctx context.Context, rng *rand.Rand, between func() error) error {
	tx, err := b.store.Begin(ctx, engine.TxOptions{ReadOnly: true, Isolation: b.c.Level})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	first, err := b.count(tx, rng.IntN(2) == 0)
	if err != nil {
		return err
	}
	if between == nil {
		return tx.Commit()
	}
	if err := between(); err != nil {
		return err
	}
	second, err := b.count(tx, rng.IntN(2) == 0)
	if err != nil {
		return err
	}
	if first != second && b.c.Level != engine.ReadCommitted {
		return errors.New("the same snapshot has other rows")
	}
	return tx.Commit()
}

// count checks that every account is there, and the sum; it returns a sum of
// hashes of all rows, which knows no order.
func (b *bank) count(tx *engine.Tx, reverse bool) (hash uint64, err error) {
	sum, n := int64(0), 0
	for row, err := range tx.Scan(b.table, engine.Range{Reverse: reverse}) {
		if err != nil {
			return 0, err
		}
		want := n
		if reverse {
			want = b.c.accounts - 1 - n
		}
		if len(row.Key) != 8 || binary.BigEndian.Uint64(row.Key) != uint64(want) {
			return 0, fmt.Errorf("account %x where %d should be, reverse: %v", row.Key, want, reverse)
		}
		balance, err := b.balance(row.Value)
		if err != nil {
			return 0, err
		}
		h := fnv.New64a()
		h.Write(row.Key)
		h.Write(row.Value[:8])
		hash += h.Sum64()
		sum += balance
		n++
	}
	if want := opening * int64(b.c.accounts); sum != want || n != b.c.accounts {
		return 0, fmt.Errorf("%d in %d accounts, not %d in %d, reverse: %v", sum, n, want, b.c.accounts, reverse)
	}
	b.audits.Add(1)
	b.rows.Add(int64(n))
	return hash, nil
}
