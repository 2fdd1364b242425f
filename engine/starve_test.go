package engine

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Small transactions keep redo and a list of what they wrote, charged to record
// memory, and nobody but they themselves could take it from them: a hundred and
// fifty idle ones held all of it, and the next writer waited for ever, without
// even ErrRecordMemory, since stubs came and went (M3, M6).
func TestIdleTransactionsGiveUpBuffers(t *testing.T) {
	o := tinyOptions()
	o.ChillThreshold = 64 << 20
	db := mustOpen(t, o)
	tb := mustTable(t, db, "t")
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	const idle, rows = 250, 24
	var txs []*Tx
	for w := range idle {
		tx, err := db.Begin(limit, TxOptions{})
		check(t, err)
		txs = append(txs, tx)
		for i := range rows {
			if err := tx.Put(tb, fmt.Appendf(nil, "k%02d/%03d", i, w), value(i, 150)); err != nil {
				t.Fatalf("transaction %d, row %d: %v\n%s", w, i, err, db.Metrics())
			}
		}
		checkCap(t, db)
	}
	for i, tx := range txs {
		if i%3 == 0 {
			rollback(t, tx)
		} else {
			commit(t, tx)
		}
	}
	inView(t, db, func(tx *Tx) {
		if n, want := len(all(t, tx, tb)), (idle-(idle+2)/3)*rows; n != want {
			t.Fatalf("%d rows, want %d", n, want)
		}
	})
	mustClose(t, db)
}
