package recordcache

import (
	"github.com/dgraph-io/ristretto/v2"

	"github.com/sakerdb/saker/internal/base"
)

// coldRows keeps rows that point reads found in frames of leaves that are not
// resident. An entry is valid only while the leaf has the epoch under which it
// was read (P7), so nothing ever needs to be invalidated in it.
type coldRows struct {
	c *ristretto.Cache[uint64, coldRow]
}

type coldRow struct {
	table base.TableID
	epoch base.EditSeq
	ts    base.CommitTS
	key   []byte
	value []byte
}

// coldOverhead is what ristretto and the Go heap add to a row, in bytes.
const coldOverhead = 190

func newColdRows(maxBytes int64) (*coldRows, error) {
	c, err := ristretto.NewCache(&ristretto.Config[uint64, coldRow]{
		NumCounters:        max(1024, maxBytes/32),
		MaxCost:            maxBytes,
		BufferItems:        64,
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, err
	}
	return &coldRows{c: c}, nil
}

func (cr *coldRows) close() { cr.c.Close() }

// SettleCold waits until the cold-row cache has taken or refused every row offered
// so far; by itself it does so in its own time. For tests.
func (c *Cache) SettleCold() {
	if c.cold != nil {
		c.cold.c.Wait()
	}
}

// DropCold forgets every cold row. For tests, which want the next read to go to the
// disk. REQUIRES: nobody reads meanwhile.
func (c *Cache) DropCold() {
	if c.cold != nil {
		c.cold.c.Clear()
	}
}

func coldKey(t base.TableID, hash uint64) uint64 {
	return hash ^ uint64(t)*0x9e3779b97f4a7c15
}

// get appends the row's value to dst.
func (cr *coldRows) get(dst []byte, t base.TableID, key []byte, hash uint64, epoch base.EditSeq) ([]byte, base.CommitTS, bool) {
	r, ok := cr.c.Get(coldKey(t, hash))
	if !ok || r.table != t || r.epoch != epoch || string(r.key) != string(key) {
		return dst, 0, false
	}
	return append(dst, r.value...), r.ts, true
}

// set offers a row; key and value are copied.
func (cr *coldRows) set(t base.TableID, key []byte, hash uint64, epoch base.EditSeq, ts base.CommitTS, value []byte) {
	b := make([]byte, len(key)+len(value))
	copy(b, key)
	copy(b[len(key):], value)
	cr.c.Set(coldKey(t, hash), coldRow{table: t, epoch: epoch, ts: ts, key: b[:len(key):len(key)], value: b[len(key):]},
		int64(len(b))+coldOverhead)
}
