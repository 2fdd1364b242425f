package engine

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/sakerdb/saker/recordcache"
)

// benchDB opens a store in a directory of the operating system's.
func benchDB(b *testing.B, o *Options) (*DB, *Table) {
	b.Helper()
	db, err := Open(b.TempDir(), o)
	check(b, err)
	b.Cleanup(func() { check(b, db.Close()) })
	tb, err := db.CreateTable(ctx, "t")
	check(b, err)
	return db, tb
}

// fatal is check without b.Helper, which walks the stack: for loops that are
// measured.
func fatal(b *testing.B, err error) { //nolint:thelper // b.Helper is what it is there to avoid
	if err != nil {
		b.Fatal(err)
	}
}

// mix is a bijection of the 64-bit numbers.
func mix(x uint64) uint64 {
	x ^= x >> 31
	x *= 0x7fb5d329728ea185
	x ^= x >> 27
	x *= 0x81dadef4bc2dd44d
	return x ^ x>>33
}

func randomValue(n int) []byte {
	v := make([]byte, n)
	for i := range v {
		v[i] = byte(rand.Uint32())
	}
	return v
}

// One transaction of b.N rows, to the durable commit.
func benchmarkBulk(b *testing.B, order func(uint64) uint64) {
	b.Helper()
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20})
	v := randomValue(100)
	key := make([]byte, 8)
	b.ReportAllocs()
	b.ResetTimer()
	tx := mustBegin(b, db, TxOptions{})
	for i := range b.N {
		binary.BigEndian.PutUint64(key, order(uint64(i)))
		binary.LittleEndian.PutUint64(v, uint64(i))
		if err := tx.Put(tb, key, v); err != nil {
			b.Fatal(err)
		}
	}
	check(b, tx.Commit())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkBulkInKeyOrder(b *testing.B) { benchmarkBulk(b, func(i uint64) uint64 { return i }) }

func BenchmarkBulkAtRandom(b *testing.B) { benchmarkBulk(b, mix) }

// loaded is a store with n resident rows of 100 bytes, loaded in transactions of
// a thousand rows.
func loaded(b *testing.B, n uint64) (*DB, *Table) {
	b.Helper()
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20, NoSync: true})
	v := randomValue(100)
	for i := uint64(0); i < n; {
		tx := mustBegin(b, db, TxOptions{})
		for range 1000 {
			check(b, tx.Put(tb, u64(i), v))
			i++
		}
		check(b, tx.Commit())
	}
	return db, tb
}

const hotRows = 1 << 20

func BenchmarkGetHot(b *testing.B) {
	db, tb := loaded(b, hotRows)
	tx := mustBegin(b, db, TxOptions{ReadOnly: true})
	key, dst := make([]byte, 8), make([]byte, 0, 128)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		binary.BigEndian.PutUint64(key, mix(uint64(i))%hotRows)
		if _, err := tx.AppendGet(dst, tb, key); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	check(b, tx.Rollback())
}

func BenchmarkScan(b *testing.B) {
	db, tb := loaded(b, hotRows)
	tx := mustBegin(b, db, TxOptions{ReadOnly: true})
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		for _, err := range tx.Scan(tb, Range{Limit: b.N - n}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.StopTimer()
	check(b, tx.Rollback())
}

// BenchmarkUpdateNoSync is a read-modify-write transaction: one Get, one Put. The
// rows fit into memory with two fifths to spare: nothing should be read cold. Half as
// many transactions as there are rows go before, in which leaves make room for versions
// and the checkpoint of what was loaded passes. The later ones come every second or so:
// only a run of several seconds has its share of them.
func BenchmarkUpdateNoSync(b *testing.B) {
	db, tb := loaded(b, hotRows)
	defer func() { b.ReportMetric(float64(db.Metrics().ColdReads)/float64(b.N), "coldreads/op") }()
	warm := newUpdater(b, db, tb, hotRows)
	for range hotRows / 2 {
		warm.update()
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		u := newUpdater(b, db, tb, hotRows)
		for pb.Next() {
			u.update()
		}
	})
}

// updater runs transactions of one Get and one Put, at random.
type updater struct {
	b     *testing.B
	db    *DB
	tb    *Table
	rows  uint64
	level Isolation
	two   bool // what is put is another row than what was read
	rng   *rand.Rand
	key   [8]byte
	val   [128]byte
}

func newUpdater(b *testing.B, db *DB, tb *Table, rows uint64) *updater {
	b.Helper()
	return &updater{b: b, db: db, tb: tb, rows: rows, rng: rand.New(rand.NewPCG(rand.Uint64(), 1))}
}

func (u *updater) draw() { binary.BigEndian.PutUint64(u.key[:], u.rng.Uint64N(u.rows)) }

// update runs one transaction, again if it fails as one may.
func (u *updater) update() {
	for {
		tx, err := u.db.Begin(ctx, TxOptions{Isolation: u.level, NoSync: true})
		if err != nil {
			u.b.Error(err)
			return
		}
		u.draw()
		v, err := tx.AppendGet(u.val[:0], u.tb, u.key[:])
		if err == nil {
			v[0]++
			if u.two {
				u.draw()
			}
			err = tx.Put(u.tb, u.key[:], v)
		}
		if err == nil {
			err = tx.Commit()
		}
		if err == nil {
			return
		}
		_ = tx.Rollback()
		if !IsRetryable(err) {
			u.b.Error(err)
			return
		}
	}
}

// BenchmarkCommit is a durable transaction of one row.
func BenchmarkCommit(b *testing.B) {
	for _, g := range []int{1, 8, 64} {
		b.Run("goroutines="+string(rune('0'+g/10))+string(rune('0'+g%10)), func(b *testing.B) {
			db, tb := benchDB(b, nil)
			v := randomValue(100)
			commit := func(key []byte, n uint64) {
				binary.BigEndian.PutUint64(key, n)
				tx, err := db.Begin(ctx, TxOptions{})
				fatal(b, err)
				fatal(b, tx.Put(tb, key, v))
				fatal(b, tx.Commit())
			}
			b.SetParallelism(max(1, g/2))
			b.ReportAllocs()
			b.ResetTimer()
			if g == 1 {
				key := make([]byte, 8)
				for i := range b.N {
					commit(key, mix(uint64(i)))
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				key := make([]byte, 8)
				for pb.Next() {
					commit(key, rand.Uint64())
				}
			})
		})
	}
}

func BenchmarkBeginReadOnly(b *testing.B) {
	db, _ := benchDB(b, nil)
	b.ReportAllocs()
	for range b.N {
		tx, err := db.Begin(ctx, TxOptions{ReadOnly: true})
		fatal(b, err)
		fatal(b, tx.Rollback())
	}
}

// backlogged is an open transaction with n rows, all of them in its temp table.
func backlogged(b *testing.B, db *DB, tb *Table, n int) *Tx {
	b.Helper()
	tx := mustBegin(b, db, TxOptions{})
	v := randomValue(100)
	for i := range n {
		check(b, tx.Put(tb, u64(mix(uint64(i))), v))
	}
	return tx
}

func moveOut(b *testing.B, db *DB) {
	b.Helper()
	rq := recordcache.Request{Action: recordcache.BacklogAll, Horizon: db.snaps.Horizon()}
	db.cache.Walk(func(l *recordcache.Leaf) bool {
		_, err := db.cache.Relieve(ctx, l, &rq)
		check(b, err)
		return true
	})
}

// BenchmarkBacklog is the cost of one chain on its way to the temp table.
func BenchmarkBacklog(b *testing.B) {
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20})
	const rows = 100000
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += rows {
		b.StopTimer()
		tx := backlogged(b, db, tb, rows)
		b.StartTimer()
		moveOut(b, db)
		b.StopTimer()
		check(b, tx.Rollback())
		waitSwept(b, db)
		b.StartTimer()
	}
}

// BenchmarkRestore is an update that brings a backlogged chain back to memory.
func BenchmarkRestore(b *testing.B) {
	db, tb := benchDB(b, &Options{RecordMemory: 250 << 20})
	const rows = 100000
	tx := backlogged(b, db, tb, rows)
	moveOut(b, db)
	_, err := tx.Savepoint()
	check(b, err)
	v := randomValue(100)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%rows == rows-1 {
			b.StopTimer()
			moveOut(b, db)
			b.StartTimer()
		}
		check(b, tx.Update(tb, u64(mix(uint64(i%rows))), v))
	}
	b.StopTimer()
	check(b, tx.Rollback())
}
