package engine

import (
	"errors"
	"testing"
)

// serial begins a serializable transaction.
func serial(t tester, db *DB) *Tx {
	t.Helper()
	tx, err := db.Begin(ctx, TxOptions{Isolation: Serializable})
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return tx
}

// G2-item, write skew: each reads both rows and writes one of them.
func TestSerializableWriteSkew(t *testing.T) {
	db := mustOpen(t, memOptions())
	tb := mustTable(t, db, "t")
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "x", "1"); put(t, tx, tb, "y", "1") })
	t1, t2 := serial(t, db), serial(t, db)
	gets(t, t1, tb, "x", "1")
	gets(t, t1, tb, "y", "1")
	gets(t, t2, tb, "x", "1")
	gets(t, t2, tb, "y", "1")
	put(t, t1, tb, "x", "0")
	put(t, t2, tb, "y", "0")
	commit(t, t1)
	err := t2.Commit()
	wantErr(t, "commit", err, ErrConflict)
	if !IsRetryable(err) || errors.Is(t2.Rollback(), nil) {
		t.Fatal("not rolled back for a retry")
	}
	mustClose(t, db)
}
