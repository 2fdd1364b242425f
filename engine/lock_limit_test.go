package engine

import (
	"encoding/binary"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// LockTimeout bounds the waits of a statement together, whatever it waits for: the
// entries of its row, or the record numbers that Append finds taken one after the
// other, each of which had the whole limit. The clock is not the machine's.
func TestLockTimeoutIsOfTheStatement(t *testing.T) {
	const limit = time.Second
	for _, c := range []struct {
		name string
		iso  Isolation
		// key and value of what another transaction has, the i-th; do needs all of it.
		other func(i int) (string, string)
		undo  bool
		do    func(tx *Tx, tb *Table) error
	}{
		{
			"entries", Snapshot, func(i int) (string, string) { return fmt.Sprint("row", i), string(rune('a' + i)) }, true,
			func(tx *Tx, tb *Table) error { return tx.Put(tb, []byte("x"), []byte("a b c d e f")) },
		},
		{
			"numbers", ReadCommitted, func(i int) (string, string) {
				return string(binary.BigEndian.AppendUint64(nil, uint64(i+2))), ""
			}, false,
			func(tx *Tx, tb *Table) error { _, err := tx.Append(tb, nil); return err },
		},
	} {
		for _, each := range []time.Duration{limit / 7, limit / 5} {
			t.Run(fmt.Sprint(c.name, each), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					db := mustOpen(t, memOptions())
					tb := mustTable(t, db, "t")
					mustIndex(t, db, tb, "unique", true)
					inUpdate(t, db, func(tx *Tx) { _, err := tx.Append(tb, nil); check(t, err) })
					tx := mustBegin(t, db, TxOptions{Isolation: c.iso, LockTimeout: limit})
					var others []*Tx
					for i := range 6 {
						others = append(others, mustBegin(t, db, TxOptions{}))
						k, v := c.other(i)
						put(t, others[i], tb, k, v)
					}
					done := make(chan error, 1)
					go func() { done <- c.do(tx, tb) }()
					for _, o := range others {
						time.Sleep(each)
						synctest.Wait()
						if c.undo {
							rollback(t, o)
						} else {
							commit(t, o)
						}
					}
					var want error
					if 6*each > limit {
						want = ErrLockTimeout
					}
					if err := <-done; err != want { //nolint:errorlint // as it is
						t.Errorf("six waits of %v of %v: %v", each, limit, err)
					}
					rollback(t, tx)
					mustClose(t, db)
				})
			})
		}
	}
}
