package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A model of serializable transactions. Random small transactions run interleaved
// in one goroutine, while versions are moved about. Every statement and its answer is
// kept. When one commits, it is executed again, alone, on what is committed by then:
// if any answer differs, the commit had to fail (a missed conflict is an anomaly,
// whatever its name); if none does and the commit fails, the abort was false. Beside
// that the model knows to the key what was read, and which keys others have changed: a
// precise read set must fail exactly then.

// stmt is one statement of a transaction and what it answered.
type stmt struct {
	op        string
	key, to   int // keys of the universe; to is excluded
	limit     int
	val, want string
}

// serialTx is a transaction of the model.
type serialTx struct {
	tx     *Tx
	ctx    *switchCtx
	snap   int
	stmts  []stmt
	own    map[int]string // "" is deleted
	reads  map[int]bool
	sps    []serialSP
	cursor *openCursor
}

type serialSP struct {
	sp  Savepoint
	own map[int]string
	n   int // statements before
}

// openCursor is a cursor that stays open while its transaction does other things.
type openCursor struct {
	c       *Cursor
	reverse bool
	at      stmt
}

type serialModel struct {
	*testing.T
	rng      *rand.Rand
	db       *DB
	tb       *Table
	keys     int
	state    map[int]string
	changed  map[int]int // clock of the last change of a key
	clock    int
	txs      []*serialTx
	vals     int
	commits  int
	needless int // aborts that were false
	needed   int
	precise  bool
	pad      int // bytes that make values longer: many leaves, or frames of one value
}

func skey(i int) []byte { return fmt.Appendf(nil, "k%03d", i) }

func (m *serialModel) indexOf(key []byte) int {
	var i int
	if _, err := fmt.Sscanf(string(key), "k%d", &i); err != nil {
		m.Fatalf("key %q", key)
	}
	return i
}

// exec runs a statement of the model on a state and what the transaction did before.
func exec(s *stmt, state, own map[int]string) string {
	get := func(k int) string {
		if v, ok := own[k]; ok {
			return v
		}
		return state[k]
	}
	is := get(s.key)
	switch s.op {
	case "get", "lock":
		return is
	case "put":
		own[s.key] = s.val
	case "insert":
		if is != "" {
			return "exists"
		}
		own[s.key] = s.val
	case "update":
		if is == "" {
			return "absent"
		}
		own[s.key] = s.val
	case "delete":
		if is == "" {
			return "absent"
		}
		own[s.key] = ""
	case "scan", "back":
		var rows []string
		for i := range s.to - s.key {
			k := s.key + i
			if s.op == "back" {
				k = s.to - 1 - i
			}
			if v := get(k); v != "" {
				rows = append(rows, fmt.Sprintf("%d=%s", k, v))
			}
			if s.limit > 0 && len(rows) == s.limit {
				break
			}
		}
		return strings.Join(rows, ",")
	}
	return "ok"
}

func (m *serialModel) begin() {
	x := &serialTx{snap: m.clock, ctx: &switchCtx{Context: ctx}, own: map[int]string{}, reads: map[int]bool{}}
	tx, err := m.db.Begin(x.ctx, TxOptions{Isolation: Serializable, NoSync: true})
	check(m, err)
	x.tx = tx
	m.txs = append(m.txs, x)
}

// statement runs a random statement of x, and notes its answer and what it read.
func (m *serialModel) statement(x *serialTx) {
	s := stmt{key: m.rng.IntN(m.keys)}
	s.op = []string{"get", "get", "get", "lock", "put", "insert", "update", "delete", "scan", "scan", "back", "open"}[m.rng.IntN(12)]
	if m.rng.IntN(3) == 0 {
		s.op = "put" // or most only read
	}
	m.vals++
	s.val = fmt.Sprintf("v%d", m.vals)
	if m.pad > 0 && m.rng.IntN(2) == 0 {
		s.val += strings.Repeat("x", m.pad)
	}
	switch s.op {
	case "scan", "back":
		s.to = s.key + m.rng.IntN(min(8, m.keys-s.key)+1)
		s.limit = m.rng.IntN(4)
		m.scan(x, &s)
	case "open":
		m.moveCursor(x, s)
		return
	case "get":
		got, err := x.tx.Get(m.tb, skey(s.key))
		if err != nil && !errors.Is(err, ErrNotFound) {
			m.Fatalf("get: %v", err)
		}
		s.want = string(got)
		x.reads[s.key] = true
	default:
		if !m.write(x, &s) {
			return
		}
	}
	m.note(x, s)
}

// note keeps a statement, which the model must answer alike as of the snapshot.
func (m *serialModel) note(x *serialTx, s stmt) { x.stmts = append(x.stmts, s) }

// impatient runs a statement that locks and returns what it answered; ok is false if it
// would wait or conflicts.
func impatient(t tester, c *switchCtx, tx *Tx, tb *Table, op string, key, val []byte) (answer string, ok bool) {
	t.Helper()
	var got []byte
	err := c.impatiently(func() (err error) {
		switch op {
		case "put":
			return tx.Put(tb, key, val)
		case "insert":
			return tx.Insert(tb, key, val)
		case "update":
			return tx.Update(tb, key, val)
		case "delete":
			return tx.Delete(tb, key)
		default:
			got, err = tx.GetForUpdate(tb, key)
			return err
		}
	})
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrConflict), errors.Is(err, ErrDeadlock):
		return "", false
	case op == "lock" && (err == nil || errors.Is(err, ErrNotFound)):
		return string(got), true
	case errors.Is(err, ErrKeyExists):
		return "exists", true
	case errors.Is(err, ErrNotFound):
		return "absent", true
	case err != nil:
		t.Fatalf("%s: %v", op, err)
	}
	return "ok", true
}

// write runs a statement that locks; false if it would wait or conflicts.
func (m *serialModel) write(x *serialTx, s *stmt) (ok bool) {
	if s.want, ok = impatient(m, x.ctx, x.tx, m.tb, s.op, skey(s.key), []byte(s.val)); !ok {
		return false
	}
	if s.want == "ok" {
		if x.own[s.key] = s.val; s.op == "delete" {
			x.own[s.key] = ""
		}
	}
	refused := s.want == "exists" || s.want == "absent"
	if refused || s.op != "put" && len(x.sps) > 0 { // a rollback gives the record back
		x.reads[s.key] = true
	}
	return true
}

// scan runs a scan; with a limit it ends at its last row, else at its bound.
func (m *serialModel) scan(x *serialTx, s *stmt) {
	var rows []string
	last := -1
	r := Range{From: skey(s.key), To: skey(s.to), Reverse: s.op == "back", Limit: s.limit}
	for row, err := range x.tx.Scan(m.tb, r) {
		check(m, err)
		last = m.indexOf(row.Key)
		rows = append(rows, fmt.Sprintf("%d=%s", last, row.Value))
	}
	s.want = strings.Join(rows, ",")
	from, to := s.key, s.to
	if s.limit > 0 && len(rows) == s.limit {
		if s.op == "back" {
			from = last
		} else {
			to = last + 1
		}
	}
	for k := from; k < to; k++ {
		x.reads[k] = true
	}
}

// moveCursor opens a cursor or moves the one that is open by one row: as a scan with
// the limit of one row, from behind where it stood.
func (m *serialModel) moveCursor(x *serialTx, s stmt) {
	if x.cursor == nil {
		o := &openCursor{c: x.tx.Cursor(m.tb, Range{From: skey(0), To: skey(m.keys)}), reverse: m.rng.IntN(2) == 0}
		if o.at = (stmt{op: "scan", key: s.key, to: m.keys}); o.reverse {
			o.at = stmt{op: "back", to: s.key}
		}
		x.cursor = o
		if o.reverse {
			m.moved(x, o.c.SeekBefore(skey(s.key)))
		} else {
			m.moved(x, o.c.Seek(skey(s.key)))
		}
		return
	}
	o := x.cursor
	if m.rng.IntN(8) == 0 {
		check(m, o.c.Close())
		x.cursor = nil
		return
	}
	if o.reverse {
		m.moved(x, o.c.Prev())
	} else {
		m.moved(x, o.c.Next())
	}
}

// moved notes what a move of the open cursor has read.
func (m *serialModel) moved(x *serialTx, ok bool) {
	o := x.cursor
	check(m, o.c.Err())
	s := o.at
	s.limit = 1
	if ok {
		k := m.indexOf(o.c.Key())
		s.want = fmt.Sprintf("%d=%s", k, o.c.Value())
		if o.reverse {
			o.at.to = k
		} else {
			o.at.key = k + 1
		}
	} else if o.reverse {
		o.at.to = o.at.key
	} else {
		o.at.key = o.at.to
	}
	from, to := s.key, o.at.key
	if o.reverse {
		from, to = o.at.to, s.to
	}
	for k := from; k < to; k++ {
		x.reads[k] = true
	}
	m.note(x, s)
}

func (m *serialModel) savepoint(x *serialTx) {
	if len(x.sps) > 0 && m.rng.IntN(2) == 0 {
		i := m.rng.IntN(len(x.sps))
		sp := x.sps[i]
		if m.rng.IntN(3) == 0 {
			check(m, x.tx.Release(sp.sp))
			x.sps = x.sps[:i]
			return
		}
		check(m, x.tx.RollbackTo(sp.sp))
		x.sps = x.sps[:i+1]
		x.own = maps.Clone(sp.own)
		m.note(x, stmt{op: "rollback", key: i, limit: sp.n})
		return
	}
	sp, err := x.tx.Savepoint()
	check(m, err)
	x.sps = append(x.sps, serialSP{sp: sp, own: maps.Clone(x.own), n: len(x.stmts)})
}

// replay executes the transaction again on what is committed, and reports whether
// every answer is the same.
func (m *serialModel) replay(x *serialTx) bool {
	owns := make([]map[int]string, 0, len(x.stmts)+1) // before each statement
	own := map[int]string{}
	for i := range x.stmts {
		s := &x.stmts[i]
		owns = append(owns, maps.Clone(own))
		if s.op == "rollback" {
			own = map[int]string{}
			if s.limit < len(owns) {
				own = maps.Clone(owns[s.limit])
			}
			continue
		}
		if exec(s, m.state, own) != s.want {
			return false
		}
	}
	return true
}

func (m *serialModel) commit(x *serialTx) {
	m.txs = slices.DeleteFunc(m.txs, func(y *serialTx) bool { return y == x })
	conflict := false
	for k := range x.reads {
		conflict = conflict || m.changed[k] > x.snap
	}
	if len(x.own) == 0 {
		check(m, x.tx.Commit()) // it takes place at its snapshot
		return
	}
	same := m.replay(x)
	if !same && !conflict {
		m.Fatalf("the model is wrong: an answer differs and nothing that was read was changed: %+v", x.stmts)
	}
	err := x.tx.Commit()
	if err != nil && !errors.Is(err, ErrConflict) {
		m.Fatalf("commit: %v", err)
	}
	switch {
	case err == nil && !same:
		m.Fatalf("missed: executed at its timestamp, the transaction would have been told other things: %+v", x.stmts)
	case err == nil && conflict:
		m.Fatalf("missed: keys that were read have changed: %+v", x.stmts)
	case err != nil && !conflict:
		if m.precise {
			m.Fatalf("false: nothing that was read has changed: %+v", x.stmts)
		}
		m.needless++
		return
	case err != nil:
		m.needed++
		return
	}
	m.commits++
	if len(x.own) > 0 {
		m.clock++
	}
	for k, v := range x.own {
		m.state[k] = v
		m.changed[k] = m.clock
	}
}

func (m *serialModel) step() {
	switch n := m.rng.IntN(40); {
	case len(m.txs) < 2 || (n < 3 && len(m.txs) < 6):
		m.begin()
	case n < 30:
		m.statement(m.txs[m.rng.IntN(len(m.txs))])
	case n < 33:
		m.savepoint(m.txs[m.rng.IntN(len(m.txs))])
	case n < 37:
		m.commit(m.txs[m.rng.IntN(len(m.txs))])
	case n < 38:
		x := m.txs[m.rng.IntN(len(m.txs))]
		rollback(m, x.tx)
		m.txs = slices.DeleteFunc(m.txs, func(y *serialTx) bool { return y == x })
	case n < 39:
		moves[m.rng.IntN(len(moves))].fn(m, m.db)
	default:
		mergeAt(m, m.db, m.tb, skey(m.rng.IntN(m.keys)))
	}
}

func runSerialModel(t *testing.T, seed uint64, spans int, threshold int64, steps int) *serialModel {
	o := memOptions()
	o.ChillThreshold = threshold
	db := mustOpen(t, o)
	m := &serialModel{
		T: t, rng: rand.New(rand.NewPCG(seed, 7)), db: db, tb: mustTable(t, db, "t"), keys: 40,
		state: map[int]string{}, changed: map[int]int{}, precise: spans == 0,
	}
	m.pad = []int{0, 2000, 9000}[seed%3]
	db.m.ReadSpans = spans
	for range steps {
		m.step()
	}
	for len(m.txs) > 0 {
		m.commit(m.txs[0])
	}
	mustClose(t, db)
	return m
}

// S4: every commit and every abort against the model, for small and large
// transactions, precise and coarse.
func TestSerializableModel(t *testing.T) {
	for _, spans := range []int{0, 4} {
		for _, threshold := range []int64{0, 1} {
			t.Run(fmt.Sprintf("spans=%d, large=%v", spans, threshold == 1), func(t *testing.T) {
				needed, needless, commits := 0, 0, 0
				for seed := range uint64(6 * *scale) {
					m := runSerialModel(t, seed, spans, threshold, 800)
					needed, needless, commits = needed+m.needed, needless+m.needless, commits+m.commits
				}
				t.Logf("%d commits, %d aborts were needed, %d were not", commits, needed, needless)
				if commits < 100 || needed < 20 {
					t.Fatalf("%d commits and %d needed aborts are too few to tell anything", commits, needed)
				}
			})
		}
	}
}
