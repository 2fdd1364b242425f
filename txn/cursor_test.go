package txn

import (
	"errors"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// A zero Cursor says that it is of no use, as a zero Tx does; it panicked.
func TestZeroCursor(t *testing.T) {
	for name, move := range map[string]func(c *Cursor) bool{
		"first": (*Cursor).First, "last": (*Cursor).Last, "next": (*Cursor).Next, "prev": (*Cursor).Prev,
		"seek":   func(c *Cursor) bool { return c.Seek([]byte("k")) },
		"before": func(c *Cursor) bool { return c.SeekBefore([]byte("k")) },
	} {
		var c Cursor
		if move(&c) || !errors.Is(c.Err(), base.ErrTxDone) || c.Key() != nil || c.Value() != nil {
			t.Errorf("%s: %v", name, c.Err())
		}
		if err := c.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}
