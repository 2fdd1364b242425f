package engine

import "testing"

// A scan to the end of a table, and then one from its beginning. The bound behind
// all keys has no bytes, as the first of all keys has none: the second range was
// taken for one that begins where the first ends, so that nothing of it was noted,
// and a phantom in it went unseen.
func TestSerializableFromTheEndToTheBeginning(t *testing.T) {
	for name, scans := range map[string]func(tx *Tx, tb *Table){
		"scans": func(tx *Tx, tb *Table) {
			scanAll(t, tx, tb, Range{From: []byte("m")})
			scanAll(t, tx, tb, Range{To: []byte("c")})
		},
		"cursor": func(tx *Tx, tb *Table) {
			c := tx.Cursor(tb, Range{})
			for ok := c.Seek([]byte("m")); ok; ok = c.Next() {
			}
			if !c.First() || string(c.Key()) != "b" {
				t.Fatalf("the first is %q: %v", c.Key(), c.Err())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, memOptions())
			defer mustClose(t, db)
			tb := mustTable(t, db, "t")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "b", "1"); put(t, tx, tb, "n", "1") })
			t1 := serial(t, db)
			scans(t1, tb)
			put(t, t1, tb, "z", "read")
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "a", "phantom") })
			wantSkew(t, t1)
		})
	}
}
