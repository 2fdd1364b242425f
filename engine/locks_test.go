package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// writes are the statements that want a record, and whether they demand that it
// exists (1) or does not (-1).
var writes = []struct {
	name   string
	demand int
	do     func(tx *Tx, tb *Table, key string) error
}{
	{"put", 0, func(tx *Tx, tb *Table, key string) error { return tx.Put(tb, []byte(key), []byte("new")) }},
	{"insert", -1, func(tx *Tx, tb *Table, key string) error { return tx.Insert(tb, []byte(key), []byte("new")) }},
	{"update", 1, func(tx *Tx, tb *Table, key string) error { return tx.Update(tb, []byte(key), []byte("new")) }},
	{"delete", 1, func(tx *Tx, tb *Table, key string) error { return tx.Delete(tb, []byte(key)) }},
	{"lock", 1, func(tx *Tx, tb *Table, key string) error { _, err := tx.GetForUpdate(tb, []byte(key)); return err }},
}

// wanted is the answer of a statement that goes on: by whether the record exists.
func wanted(demand int, exists bool) error {
	switch {
	case demand > 0 && !exists:
		return ErrNotFound
	case demand < 0 && exists:
		return ErrKeyExists
	}
	return nil
}

// S3: a committed GetForUpdate conflicts as an update does, of a record that exists
// and of one that does not, wherever the lock is by then: resident, in a frame, in a
// frame that was merged. At ReadCommitted it only makes writers wait: they go on with
// what the record is, when the lock is gone and while it waits to be forgotten.
func TestCommittedLocks(t *testing.T) {
	for _, merged := range []bool{false, true} {
		for _, w := range writes {
			t.Run(fmt.Sprintf("%s, merged=%v", w.name, merged), func(t *testing.T) {
				eachMove(t, func(s *story) {
					s.seed("there", "0")
					// With it the merged frame cannot be decided unread.
					inUpdate(s, s.db, func(tx *Tx) { put(s, tx, s.tb, "there2", "0") })
					older := s.begin()
					locker := s.begin()
					for _, key := range []string{"there", "absent"} {
						wantErr(s, "lock of "+key, writes[4].do(locker, s.tb, key), wanted(1, key == "there"))
					}
					s.move()
					c := &switchCtx{Context: ctx}
					waiter, err := s.db.Begin(c, readCommitted)
					check(s, err)
					for _, key := range []string{"there", "absent"} {
						err := c.impatiently(func() error { return w.do(waiter, s.tb, key) })
						wantErr(s, w.name+" of the locked "+key, err, context.Canceled)
					}
					commit(s, locker)
					s.move()
					if merged {
						evictAll(s, s.db)
						mergeAt(s, s.db, s.tb, []byte("there"))
					}
					for _, key := range []string{"there", "absent"} {
						wantErr(s, w.name+" under an older snapshot of "+key, w.do(older, s.tb, key), ErrConflict)
						wantErr(s, w.name+" at read committed of "+key, w.do(waiter, s.tb, key), wanted(w.demand, key == "there"))
					}
					gets(s, older, s.tb, "there", "0")
					rollback(s, older)
					rollback(s, waiter)
					inView(s, s.db, func(tx *Tx) { s.want(tx, "there", "0", "there2", "0") })
				})
			})
		}
	}
}

// Concurrent inserts of one key: one wins and the others wait, wherever the winner's
// row is. Its commit is a conflict for who cannot see it, and makes the key one that
// exists for who can; after its rollback the next one wins.
func TestConcurrentInserts(t *testing.T) {
	for _, commits := range []bool{true, false} {
		t.Run(fmt.Sprintf("commits=%v", commits), func(t *testing.T) {
			eachMove(t, func(s *story) {
				s.seed("other", "0")
				insert := func(tx *Tx, value string) error { return tx.Insert(s.tb, []byte("k"), []byte(value)) }
				winner := s.begin()
				check(s, insert(winner, "winner"))
				s.move()
				var txs []*Tx
				var done []chan error
				for i, o := range []TxOptions{{}, readCommitted, {}, readCommitted} {
					txs = append(txs, mustBegin(s, s.db, o))
					done = append(done, waiting(s.T, s.db, func() error { return insert(txs[i], fmt.Sprint(i)) }))
				}
				if commits {
					commit(s, winner)
					s.move()
					for i, tx := range txs {
						wantErr(s, "insert after the winner's commit", <-done[i], []error{ErrConflict, ErrKeyExists}[i%2])
						rollback(s, tx)
					}
					later := s.begin()
					wantErr(s, "insert under a snapshot that sees it", insert(later, "later"), ErrKeyExists)
					rollback(s, later)
					s.wantCommitted("k", "winner", "other", "0")
					return
				}
				rollback(s, winner)
				for i, tx := range txs[:3] {
					check(s, <-done[i])
					s.move()
					rollback(s, tx)
				}
				check(s, <-done[3])
				commit(s, txs[3])
				s.wantCommitted("k", "3", "other", "0")
			})
		})
	}
}

// Only a conflict and a deadlock are worth another run, and not if the context ended.
func TestIsRetryable(t *testing.T) {
	retryable := []error{ErrConflict, ErrDeadlock}
	for _, err := range retryable {
		if !IsRetryable(err) || !IsRetryable(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v is not retryable", err)
		}
		for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
			if IsRetryable(errors.Join(end, err)) {
				t.Errorf("%v is retryable after %v", err, end)
			}
		}
	}
	for _, err := range []error{
		nil, ErrClosed, ErrLocked, ErrFormatTooNew, ErrInvalidOptions, ErrBackupExists, ErrTableExists, ErrTableNotFound,
		ErrInvalidName, ErrTxDone, ErrReadOnly, ErrSavepointNotFound, ErrKeyEmpty, ErrKeyTooLarge, ErrValueTooLarge,
		ErrNotSupported, ErrNotFound, ErrKeyExists, ErrLockTimeout, ErrRecordMemory, ErrPoisoned, ErrDiskFull,
		context.Canceled, context.DeadlineExceeded, &base.CorruptionError{}, errors.New("another"),
	} {
		if IsRetryable(err) {
			t.Errorf("%v is retryable", err)
		}
	}
}

// UpdateWith runs fn again, in a transaction of the same level, until it succeeds,
// fails for another reason, or the context ends.
func TestUpdateWith(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	for _, o := range []TxOptions{{}, readCommitted, {NoSync: true}} {
		calls := 0
		check(t, db.UpdateWith(ctx, o, func(tx *Tx) error {
			if calls++; calls < 4 {
				put(t, tx, tb, "k", "rolled back")
				return fmt.Errorf("try %d: %w", calls, []error{ErrConflict, ErrDeadlock}[calls%2])
			}
			gets(t, tx, tb, "k", "")
			put(t, tx, tb, "k", "done")
			return nil
		}))
		if calls != 4 {
			t.Errorf("%d calls", calls)
		}
		inUpdate(t, db, func(tx *Tx) { del(t, tx, tb, "k") })
		calls = 0
		cctx, cancel := context.WithCancel(ctx)
		err := db.UpdateWith(cctx, o, func(*Tx) error {
			if calls++; calls == 3 {
				cancel()
			}
			return ErrConflict
		})
		wantErr(t, "update whose context ends", err, context.Canceled)
		wantErr(t, "update whose context ends", err, ErrConflict)
	}
	check(t, db.UpdateWith(ctx, TxOptions{ReadOnly: true}, func(tx *Tx) error {
		wantErr(t, "put", tx.Put(tb, []byte("k"), nil), ErrReadOnly)
		return nil
	}))
	wantErr(t, "update at no level", db.UpdateWith(ctx, TxOptions{Isolation: 77}, nil), ErrNotSupported)
	mustClose(t, db)
}
