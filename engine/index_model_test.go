package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
)

// The model of indexes: a table with a plain and a unique index, random statements of
// several transactions, everything done to memory in between. At every snapshot the
// indexes show what is computed from the rows, and a statement that fails changes
// nothing. (That the rows are right is TestModel's business.)

type indexModel struct {
	t    *testing.T
	rng  *rand.Rand
	o    *Options
	db   *DB
	tb   *Table
	ix   []*Index
	txs  []*indexTx
	fill int

	failed map[string]int // statements, by error
}

type indexTx struct {
	tx       *Tx
	ctx      *switchCtx
	readOnly bool
	sps      []Savepoint
}

func (m *indexModel) open() {
	m.db = mustOpen(m.t, m.o)
	m.tb = mustTable(m.t, m.db, "t")
	m.ix = []*Index{mustIndex(m.t, m.db, m.tb, "plain", false)}
	one, err := m.db.CreateIndex(ctx, m.tb, "unique", true, firstWord)
	check(m.t, err)
	m.ix = append(m.ix, one)
}

// firstWord is the function of the model's unique index: few rows have a key.
func firstWord(row Row, emit func([]byte)) {
	if w, _, ok := strings.Cut(string(row.Value), " "); ok && w[0] == 'u' {
		emit([]byte(w))
	}
}

func (m *indexModel) begin() {
	if len(m.txs) > 5 {
		return
	}
	x := &indexTx{ctx: &switchCtx{Context: ctx}, readOnly: m.rng.IntN(3) == 0}
	tx, err := m.db.Begin(x.ctx, TxOptions{
		ReadOnly: x.readOnly, NoSync: m.rng.IntN(2) == 0, Isolation: Isolation(m.rng.IntN(3)),
	})
	check(m.t, err)
	x.tx = tx
	m.txs = append(m.txs, x)
}

func (m *indexModel) value() []byte {
	words := []string{fmt.Sprintf("u%d", m.rng.IntN(40)), "x"}
	for range m.rng.IntN(4) {
		words = append(words, fmt.Sprintf("w%d", m.rng.IntN(12)))
	}
	if m.rng.IntN(3) > 0 {
		words = words[1:]
	}
	switch m.rng.IntN(30) {
	case 0: // a large value
		m.fill++
		words = append(words, string(value(m.fill, 9000)))
		words[len(words)-1] = "L" + words[len(words)-1][:8000]
	case 1: // an entry that is too large
		words = append(words, strings.Repeat("y", MaxKeySize))
	}
	return []byte(strings.Join(words, " "))
}

// write does one statement; if it fails, everything is as it was.
func (m *indexModel) write(x *indexTx) {
	m.t.Helper()
	key, val := fmt.Appendf(nil, "k%02d", m.rng.IntN(30)), m.value()
	check := m.rng.IntN(4) == 0
	var before []string
	if check {
		before = all(m.t, x.tx, m.tb)
	}
	mode := m.rng.IntN(5)
	err := x.ctx.impatiently(func() error {
		switch mode {
		case 0:
			return x.tx.Insert(m.tb, key, val)
		case 1:
			return x.tx.Update(m.tb, key, val)
		case 2:
			return x.tx.Delete(m.tb, key)
		case 3:
			_, err := x.tx.Append(m.tb, val)
			return err
		default:
			return x.tx.Put(m.tb, key, val)
		}
	})
	known := false
	for _, want := range []error{nil, ErrConflict, ErrKeyExists, ErrNotFound, ErrKeyTooLarge, context.Canceled} {
		if errors.Is(err, want) {
			m.failed[fmt.Sprint(want)]++
			known = true
			break
		}
	}
	if !known {
		m.t.Fatalf("mode %d of %q: %v", mode, key, err)
	}
	if err != nil && check {
		if after := all(m.t, x.tx, m.tb); !slices.Equal(after, before) {
			m.t.Fatalf("mode %d of %q failed with %v and changed the rows", mode, key, err)
		}
	}
	if check {
		m.look(x.tx)
	}
}

// look compares the indexes with the rows, in every way to read them.
func (m *indexModel) look(tx *Tx) {
	m.t.Helper()
	sameIndex(m.t, tx, m.ix[0])
	want := map[string]string{}
	for row, err := range tx.Scan(m.tb, Range{}) {
		check(m.t, err)
		firstWord(row, func(ik []byte) { want[string(ik)] = string(row.Key) })
	}
	got := map[string]string{}
	for row, err := range tx.ScanIndex(m.ix[1], Range{}) {
		check(m.t, err)
		got[string(row.IndexKey)] = string(row.Key)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		m.t.Fatalf("unique index shows %v, of the rows it is %v", got, want)
	}
}

func (m *indexModel) savepoints(x *indexTx) {
	if n := len(x.sps); n > 0 && m.rng.IntN(3) > 0 {
		i := m.rng.IntN(n)
		if m.rng.IntN(3) > 0 {
			check(m.t, x.tx.RollbackTo(x.sps[i]))
			x.sps = x.sps[:i+1]
		} else {
			check(m.t, x.tx.Release(x.sps[i]))
			x.sps = x.sps[:i]
		}
		return
	}
	sp, err := x.tx.Savepoint()
	check(m.t, err)
	x.sps = append(x.sps, sp)
}

func (m *indexModel) end(i int) {
	x := m.txs[i]
	if m.rng.IntN(3) == 0 {
		rollback(m.t, x.tx)
	} else if err := x.tx.Commit(); err != nil && !errors.Is(err, ErrConflict) { // as serializable ones may
		m.t.Fatalf("commit: %v", err)
	}
	m.txs = slices.Delete(m.txs, i, i+1)
}

func (m *indexModel) memory() {
	switch m.rng.IntN(9) {
	case 0:
		relieveAll(m.t, m.db, recordcache.Backlog)
	case 1:
		backlogAll(m.t, m.db)
	case 2:
		chillAll(m.t, m.db)
	case 3:
		pruneAll(m.t, m.db)
	case 4:
		evictAll(m.t, m.db)
	case 5:
		mergeAt(m.t, m.db, m.tb, fmt.Appendf(nil, "k%02d", m.rng.IntN(30)))
	case 6:
		i := m.rng.IntN(2)
		mergeAt(m.t, m.db, m.ix[i].Entries(), base.AppendIndexKey(nil, fmt.Appendf(nil, "%c%d", "wu"[i], m.rng.IntN(40))))
	case 7:
		check(m.t, m.db.Checkpoint(ctx))
	default:
		collapseAll(m.db)
	}
}

func (m *indexModel) step() {
	m.t.Helper()
	if len(m.txs) == 0 {
		m.begin()
	}
	i := m.rng.IntN(len(m.txs))
	x := m.txs[i]
	switch n := m.rng.IntN(100); {
	case n < 60 && !x.readOnly:
		m.write(x)
	case n < 70 && !x.readOnly:
		m.savepoints(x)
	case n < 78:
		m.memory()
	case n < 86:
		m.begin()
	case n < 94:
		m.look(x.tx)
	case n < 99:
		m.end(i)
	default:
		m.restart()
	}
}

// restart crashes and goes on, or reopens, or makes an index anew.
func (m *indexModel) restart() {
	m.t.Helper()
	kind := m.rng.IntN(3)
	if kind == 0 { // what a crash leaves is as consistent, and stays behind
		o := crashed(m.o, m.rng.IntN(3)*50)
		db := mustOpen(m.t, o)
		c := &indexModel{t: m.t, db: db, tb: mustTable(m.t, db, "t")}
		c.ix = []*Index{mustIndex(m.t, db, c.tb, "plain", false)}
		one, err := db.CreateIndex(ctx, c.tb, "unique", true, firstWord)
		check(m.t, err)
		c.ix = append(c.ix, one)
		inView(m.t, db, c.look)
		mustClose(m.t, db)
		return
	}
	for len(m.txs) > 0 {
		m.end(0)
	}
	if kind == 1 {
		mustClose(m.t, m.db)
		m.open()
		return
	}
	check(m.t, m.db.DropIndex(ctx, m.tb, "unique"))
	var err error
	m.ix[1], err = m.db.CreateIndex(ctx, m.tb, "unique", true, firstWord)
	check(m.t, err)
}

func TestIndexModel(t *testing.T) {
	for _, c := range []struct {
		name string
		o    func(*Options)
	}{
		{"tiny", func(o *Options) { o.Memory, o.RecordMemory, o.ChillThreshold = 4<<20, 1<<20, 1<<10 }},
		{"large transactions", func(o *Options) { o.ChillThreshold = 1 }},
		{"roomy", func(*Options) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(*scale) {
				if *crashSeed != 0 {
					seed = *crashSeed
				}
				t.Logf("seed %d", seed)
				o := crashOptions(t)
				c.o(o)
				m := &indexModel{t: t, rng: rand.New(rand.NewPCG(seed, 3)), o: o, failed: map[string]int{}}
				m.open()
				for range 800 {
					m.step()
				}
				for len(m.txs) > 0 {
					m.look(m.txs[0].tx)
					m.end(0)
				}
				inView(t, m.db, m.look)
				for _, want := range []error{nil, ErrConflict, ErrKeyExists, ErrNotFound, ErrKeyTooLarge, context.Canceled} {
					if m.failed[fmt.Sprint(want)] == 0 {
						t.Errorf("no statement ended with %v: %v", want, m.failed)
					}
				}
				mustClose(t, m.db)
			}
		})
	}
}
