package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Transactions of one operation on one record: whatever the level, each takes place
// at a moment between its call and its return. Porcupine looks for such moments.

type recordOp uint8

const (
	opGet recordOp = iota
	opPut
	opAdd // read and write back with something added
	opInsert
	opDelete
)

// recordIn and recordOut are what goes into an operation and what comes out.
type recordIn struct {
	op  recordOp
	key int
	val int
}

type recordOut struct {
	val int // read; 0: the record was absent
	ok  bool
}

// recordModel is one record: its state is the value, 0 for none.
func recordModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			byKey := map[int][]porcupine.Operation{}
			for _, o := range history {
				k := o.Input.(recordIn).key //nolint:errcheck // it is one
				byKey[k] = append(byKey[k], o)
			}
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			was, in, out := state.(int), input.(recordIn), output.(recordOut) //nolint:errcheck // they are
			switch in.op {
			case opGet:
				return out.val == was, was
			case opPut:
				return true, in.val
			case opAdd:
				return out.val == was, was + in.val
			case opInsert:
				if was != 0 {
					return !out.ok, was
				}
				return out.ok, in.val
			default:
				return out.ok == (was != 0), 0
			}
		},
	}
}

// recordRun is goroutines that work on the same few records.
type recordRun struct {
	*testing.T
	db    *DB
	tb    *Table
	level Isolation
	clock atomic.Int64
}

const recordKeys = 6

// run returns the history of clients with n operations each.
func (r *recordRun) run(seed uint64, clients, n int) []porcupine.Operation {
	r.Helper()
	all := make([][]porcupine.Operation, clients)
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			for range n {
				if rng.IntN(8) == 0 {
					moves[rng.IntN(len(moves))].fn(r, r.db)
				}
				in := recordIn{op: recordOp(rng.IntN(5)), key: rng.IntN(recordKeys), val: 1 + rng.IntN(1000)}
				call := r.clock.Add(1)
				out, err := r.do(in, rng)
				if err != nil {
					r.Errorf("operation %+v: %v", in, err)
					return
				}
				all[c] = append(all[c], porcupine.Operation{ClientId: c, Input: in, Output: out, Call: call, Return: r.clock.Add(1)})
			}
		})
	}
	wg.Wait()
	var history []porcupine.Operation
	for _, ops := range all {
		history = append(history, ops...)
	}
	return history
}

// do runs one operation in a transaction of its own.
func (r *recordRun) do(in recordIn, rng *rand.Rand) (out recordOut, err error) {
	key := fmt.Appendf(nil, "record%d", in.key)
	row := func(v int) []byte {
		return append(strconv.AppendInt(nil, int64(v), 10), bytes.Repeat([]byte("."), v%400)...)
	}
	read := func(get func(*Table, []byte) ([]byte, error)) (int, error) {
		b, err := get(r.tb, key)
		if errors.Is(err, ErrNotFound) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(string(bytes.TrimRight(b, ".")))
	}
	o := TxOptions{Isolation: r.level, NoSync: true, ReadOnly: in.op == opGet}
	lock := r.level == ReadCommitted || rng.IntN(2) == 0
	err = r.db.UpdateWith(ctx, o, func(tx *Tx) (err error) {
		out = recordOut{}
		switch in.op {
		case opGet:
			out.val, err = read(tx.Get)
			return err
		case opPut:
			return tx.Put(r.tb, key, row(in.val))
		case opAdd:
			get := tx.Get
			if lock {
				get = tx.GetForUpdate
			}
			if out.val, err = read(get); err != nil {
				return err
			}
			return tx.Put(r.tb, key, row(out.val+in.val))
		case opInsert:
			err = tx.Insert(r.tb, key, row(in.val))
		default:
			err = tx.Delete(r.tb, key)
		}
		if out.ok = err == nil; errors.Is(err, ErrNotFound) || errors.Is(err, ErrKeyExists) {
			err = nil
		}
		return err
	})
	return out, err
}

// checkRecords runs clients, which also move versions in every way, and returns
// what porcupine says.
func checkRecords(t *testing.T, level Isolation, seed uint64, n int) porcupine.CheckResult {
	t.Helper()
	db := mustOpen(t, tinyOptions())
	r := &recordRun{T: t, db: db, tb: mustTable(t, db, "t"), level: level}
	history := r.run(seed, 6, n)
	m := db.Metrics()
	mustClose(t, db)
	if m.BackloggedChains == 0 || m.ColdReads == 0 {
		t.Errorf("nothing left memory\n%s", m)
	}
	return porcupine.CheckOperationsTimeout(recordModel(), history, 2*patience)
}

func TestRecordsAreLinearizable(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 100
	}
	for _, level := range []Isolation{ReadCommitted, Snapshot, Serializable} {
		t.Run(level.String(), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			if *crashSeed != 0 {
				seed = *crashSeed
			}
			if got := checkRecords(t, level, seed, n); got != porcupine.Ok {
				t.Fatalf("seed %d: %s", seed, got)
			}
		})
	}
}

// The model itself refuses what cannot be.
func TestRecordModel(t *testing.T) {
	op := func(call, ret int64, in recordIn, out recordOut) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	put := op(1, 2, recordIn{op: opPut, val: 5}, recordOut{})
	for name, tc := range map[string]struct {
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		"read back":        {[]porcupine.Operation{put, op(3, 4, recordIn{op: opGet}, recordOut{val: 5})}, porcupine.Ok},
		"stale":            {[]porcupine.Operation{put, op(3, 4, recordIn{op: opGet}, recordOut{})}, porcupine.Illegal},
		"concurrent":       {[]porcupine.Operation{op(1, 4, recordIn{op: opPut, val: 5}, recordOut{}), op(2, 3, recordIn{op: opGet}, recordOut{})}, porcupine.Ok},
		"other record":     {[]porcupine.Operation{put, op(3, 4, recordIn{op: opGet, key: 1}, recordOut{})}, porcupine.Ok},
		"lost update":      {[]porcupine.Operation{put, op(3, 5, recordIn{op: opAdd, val: 1}, recordOut{val: 5}), op(4, 6, recordIn{op: opAdd, val: 1}, recordOut{val: 5})}, porcupine.Illegal},
		"two inserts":      {[]porcupine.Operation{op(1, 3, recordIn{op: opInsert, val: 1}, recordOut{ok: true}), op(2, 4, recordIn{op: opInsert, val: 2}, recordOut{ok: true})}, porcupine.Illegal},
		"deleted twice":    {[]porcupine.Operation{put, op(3, 5, recordIn{op: opDelete}, recordOut{ok: true}), op(4, 6, recordIn{op: opDelete}, recordOut{ok: true})}, porcupine.Illegal},
		"deleted, refused": {[]porcupine.Operation{put, op(3, 5, recordIn{op: opDelete}, recordOut{ok: true}), op(4, 6, recordIn{op: opDelete}, recordOut{})}, porcupine.Ok},
	} {
		t.Run(name, func(t *testing.T) {
			if got := porcupine.CheckOperationsTimeout(recordModel(), tc.history, 0); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
