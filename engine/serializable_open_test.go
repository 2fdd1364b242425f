package engine

import "testing"

// A transaction read the end of a table and then the whole of it. The bound behind
// all keys was taken for an empty key, where the second range began; so that seemed
// to go on where the first had ended, and to add nothing. What others changed before
// the first range was missed. Found by TestModel.
func TestSerializableReadsTheEndThenAll(t *testing.T) {
	for name, again := range map[string]Range{"forward": {}, "reverse": {Reverse: true}, "beginning": {To: []byte("b")}} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "0"); put(t, tx, tb, "x", "0") })
			tx := mustBegin(t, db, TxOptions{Isolation: Serializable})
			for _, r := range []Range{{From: []byte("m")}, again} {
				for _, err := range tx.Scan(tb, r) {
					check(t, err)
				}
			}
			put(t, tx, tb, "mine", "1")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "1") })
			wantErr(t, "commit", tx.Commit(), ErrConflict)
			mustClose(t, db)
		})
	}
}
