package engine

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// Close comes in the middle of everything that a store can be asked for. Each call
// has its effect or says ErrClosed; nobody panics and nobody hangs. Changes of the
// catalog, Sync, CollectSpace and Metrics had not been waited for, and found log
// and leaf map closed under them.
func TestCloseDuringEverything(t *testing.T) {
	for round := range 5 * *scale {
		closeDuringEverything(t, round)
	}
}

func closeDuringEverything(t *testing.T, round int) {
	o := memOptions()
	o.RecordMemory = 1 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { fillRows(t, tx, tb, 0, 3000, 200) })
	var created []string // by one goroutine, read when it has ended
	calls := map[string]func(i int) error{
		"create": func(i int) error {
			if i > 30 {
				return db.Sync()
			}
			name := fmt.Sprint("c", i)
			_, err := db.CreateTable(ctx, name)
			if err == nil {
				created = append(created, name)
			}
			return err
		},
		"create and drop": func(i int) error {
			if i > 30 {
				return db.Sync()
			}
			name := fmt.Sprint("d", i)
			if _, err := db.CreateTable(ctx, name); err != nil {
				return err
			}
			return db.DropTable(ctx, name)
		},
		"sync":       func(int) error { return db.Sync() },
		"collect":    func(int) error { return db.CollectSpace(ctx) },
		"checkpoint": func(int) error { return db.Checkpoint(ctx) },
		"verify":     func(int) error { return db.Verify(ctx) },
		"backup":     func(i int) error { return db.Backup(ctx, fmt.Sprint("backup", i)) },
		"metrics": func(int) error {
			if db.Metrics().RecordMemoryCap == 0 {
				return ErrClosed
			}
			_, err := db.Table("t")
			return err
		},
		"update": func(i int) error {
			return db.Update(ctx, func(tx *Tx) error { return tx.Put(tb, u64(uint64(i%10)), value(i, 100)) })
		},
		"update too": func(i int) error {
			return db.Update(ctx, func(tx *Tx) error {
				if err := tx.Put(tb, u64(uint64(i%10)), value(i, 100)); err != nil {
					return err
				}
				_, err := tx.Append(tb, value(i, 10))
				return err
			})
		},
		"fill": func(i int) error {
			return db.Update(ctx, func(tx *Tx) error {
				for k := range uint64(2000) {
					if err := tx.Put(tb, u64(1<<32+k), value(i, 300)); err != nil {
						return err
					}
				}
				return nil
			})
		},
		"scan": func(int) error {
			return db.View(ctx, func(tx *Tx) error {
				for _, err := range tx.Scan(tb, Range{}) {
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	var all, begun sync.WaitGroup
	begun.Add(len(calls))
	for name, call := range calls {
		all.Go(func() {
			for i := 0; ; i++ {
				err := call(i)
				if i == 0 {
					begun.Done()
				}
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("round %d: %s: %v", round, name, err)
					return
				}
			}
		})
	}
	begun.Wait()
	if err := db.Close(); err != nil {
		t.Errorf("round %d: close: %v", round, err)
	}
	all.Wait()
	db = mustOpen(t, o)
	for _, name := range created {
		if _, err := db.Table(name); err != nil {
			t.Errorf("round %d: a table that was created is lost: %v", round, err)
		}
	}
	mustClose(t, db)
	if t.Failed() {
		t.FailNow()
	}
}

// A statement that waited for room in the log held its transaction meanwhile: Close
// could not end it, nor the scavenger take its buffers (M6).
func TestWaitForTheLogHoldsNothing(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	tx := mustBegin(t, db, TxOptions{})
	put(t, tx, tb, "k", "x")
	room := int(db.o.logBuffer)
	check(t, db.log.Reserve(ctx, room)) // as if the disk were slow
	done := make(chan error, 1)
	go func() {
		for i := 0; ; i++ { // until its redo is long enough to be logged
			if err := tx.Put(tb, fmt.Appendf(nil, "%08d", i), make([]byte, 1000)); err != nil {
				done <- err
				return
			}
		}
	}()
	eventually(t, "a wait for the log", func() bool { return db.log.Stats().Waiting > 0 })
	closed := make(chan error, 1)
	go func() { closed <- db.m.Close() }()
	eventually(t, "the end of the transaction", func() bool { return db.m.Active() == 0 })
	db.log.Unreserve(room)
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("the statement: %v, want ErrClosed", err)
	}
	check(t, <-closed)
	if err := db.Close(); !errors.Is(err, ErrClosed) { // the transactions were
		t.Errorf("Close: %v", err)
	}
}
