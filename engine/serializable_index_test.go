package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// Serializable transactions that read by index, as a model. Statements and answers
// are kept; who commits having written is executed again, alone, on what is committed
// by then: if an answer differs, it had to fail. Rows have a class, in an index, and a
// name, in a unique one.

// istmt is a statement and what it answered.
type istmt struct {
	op, key, val string // val of a scan is the class or name where it begins
	limit        int
	want         string
}

type indexReader struct {
	tx     *Tx
	ctx    *switchCtx
	stmts  []istmt
	own    map[string]string // "" is deleted
	sps    []indexSP
	before []map[string]string // own before each statement
}

type indexSP struct {
	sp  Savepoint
	own map[string]string
}

type indexReads struct {
	*testing.T
	rng              *rand.Rand
	db               *DB
	tb               *Table
	class, name      *Index
	state            map[string]string
	open             []*indexReader
	commits, refused int
	needless         int
}

// wordIndex is the function of an index over the n-th word of the value.
func wordIndex(n int) func(row Row, emit func([]byte)) {
	return func(row Row, emit func([]byte)) { emit(bytes.Fields(row.Value)[n]) }
}

// execIndexed executes a statement on what is committed and what the transaction did.
func execIndexed(s *istmt, state, own map[string]string) string {
	rows := maps.Clone(state)
	maps.Copy(rows, own)
	maps.DeleteFunc(rows, func(_, v string) bool { return v == "" })
	is, word := rows[s.key], func(v string, n int) string { return strings.Fields(v)[n] }
	taken := false
	for k, v := range rows {
		taken = taken || (s.val != "" && k != s.key && strings.Contains(s.val, " ") && word(v, 1) == word(s.val, 1))
	}
	switch s.op {
	case "get", "lock":
		return is
	case "class", "back", "name":
		n := 0
		if s.op == "name" {
			n = 1
		}
		var hits []string
		for k, v := range rows {
			if w := word(v, n); w >= s.val && w < s.key {
				hits = append(hits, w+" "+k+"="+v)
			}
		}
		slices.Sort(hits)
		if s.op == "back" {
			slices.Reverse(hits)
		}
		if s.limit > 0 {
			hits = hits[:min(s.limit, len(hits))]
		}
		return strings.Join(hits, ",")
	case "insert":
		if is != "" {
			return "exists"
		}
	case "update", "delete":
		if is == "" {
			return "absent"
		}
	}
	switch {
	case s.op == "delete":
		own[s.key] = ""
	case taken:
		return "exists"
	default:
		own[s.key] = s.val
	}
	return "ok"
}

func (m *indexReads) begin() {
	x := &indexReader{ctx: &switchCtx{Context: ctx}, own: map[string]string{}}
	var err error
	x.tx, err = m.db.Begin(x.ctx, TxOptions{Isolation: Serializable, NoSync: true})
	check(m, err)
	m.open = append(m.open, x)
}

func (m *indexReads) statement(x *indexReader) {
	s := istmt{key: fmt.Sprintf("k%02d", m.rng.IntN(20)), val: fmt.Sprintf("c%d n%02d", m.rng.IntN(5), m.rng.IntN(30))}
	s.op = []string{"get", "lock", "put", "put", "insert", "update", "delete", "class", "back", "name", "name"}[m.rng.IntN(11)]
	switch s.op {
	case "get":
		got, err := x.tx.Get(m.tb, []byte(s.key))
		if err != nil && !errors.Is(err, ErrNotFound) {
			m.Fatalf("get: %v", err)
		}
		s.want = string(got)
	case "class", "back", "name":
		s.val, s.limit = fmt.Sprintf("c%d", m.rng.IntN(5)), m.rng.IntN(4)
		s.key = s.val + "\xff"
		ix := m.class
		if s.op == "name" {
			from := m.rng.IntN(30)
			ix, s.val, s.key = m.name, fmt.Sprintf("n%02d", from), fmt.Sprintf("n%02d", from+1+m.rng.IntN(4))
		}
		var hits []string
		for row, err := range x.tx.ScanIndex(ix, Range{From: []byte(s.val), To: []byte(s.key), Reverse: s.op == "back", Limit: s.limit}) {
			check(m, err)
			hits = append(hits, fmt.Sprintf("%s %s=%s", row.IndexKey, row.Key, row.Value))
		}
		s.want = strings.Join(hits, ",")
	default:
		var ok bool
		if s.want, ok = impatient(m, x.ctx, x.tx, m.tb, s.op, []byte(s.key), []byte(s.val)); !ok {
			return
		}
	}
	x.before = append(x.before, maps.Clone(x.own))
	if s.want == "ok" {
		if x.own[s.key] = s.val; s.op == "delete" {
			x.own[s.key] = ""
		}
	}
	x.stmts = append(x.stmts, s)
}

func (m *indexReads) savepoint(x *indexReader) {
	if n := len(x.sps); n > 0 && m.rng.IntN(2) == 0 {
		i := m.rng.IntN(n)
		check(m, x.tx.RollbackTo(x.sps[i].sp))
		x.sps = x.sps[:i+1]
		x.own = maps.Clone(x.sps[i].own)
		return
	}
	sp, err := x.tx.Savepoint()
	check(m, err)
	x.sps = append(x.sps, indexSP{sp, maps.Clone(x.own)})
}

func (m *indexReads) commit(i int) {
	x := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	differs := ""
	for j := range x.stmts {
		s := &x.stmts[j]
		if got := execIndexed(s, m.state, maps.Clone(x.before[j])); got != s.want && differs == "" {
			differs = fmt.Sprintf("%+v: now %q", *s, got)
		}
	}
	err := x.tx.Commit()
	switch {
	case errors.Is(err, ErrConflict) && len(x.own) > 0:
		m.refused++
		if differs == "" {
			m.needless++
		}
		return
	case err != nil:
		m.Fatalf("commit: %v", err)
	case len(x.own) > 0 && differs != "":
		m.Fatalf("missed: %s", differs)
	}
	m.commits++
	maps.Copy(m.state, x.own)
	maps.DeleteFunc(m.state, func(_, v string) bool { return v == "" })
}

func TestSerializableIndexModel(t *testing.T) {
	for _, threshold := range []int64{0, 1} {
		for _, spans := range []int{0, 4} {
			t.Run(fmt.Sprintf("spans=%d, large=%v", spans, threshold == 1), func(t *testing.T) {
				commits, refused, needless := 0, 0, 0
				for seed := range uint64(3 * *scale) {
					m := runIndexReads(t, seed, spans, threshold, 600)
					commits, refused, needless = commits+m.commits, refused+m.refused, needless+m.needless
				}
				t.Logf("%d commits, %d refused, of them %d though every answer was the same", commits, refused, needless)
				if commits < 50 || refused-needless < 20 {
					t.Fatal("too few to tell anything")
				}
			})
		}
	}
}

func runIndexReads(t *testing.T, seed uint64, spans int, threshold int64, steps int) *indexReads {
	t.Helper()
	o := memOptions()
	o.ChillThreshold = threshold
	db := mustOpen(t, o)
	m := &indexReads{T: t, rng: rand.New(rand.NewPCG(seed, 9)), db: db, tb: mustTable(t, db, "t"), state: map[string]string{}}
	var err error
	m.class, err = db.CreateIndex(ctx, m.tb, "class", false, wordIndex(0))
	check(t, err)
	m.name, err = db.CreateIndex(ctx, m.tb, "name", true, wordIndex(1))
	check(t, err)
	db.m.ReadSpans = spans
	for range steps {
		switch n := m.rng.IntN(40); {
		case len(m.open) < 2 || (n < 3 && len(m.open) < 5):
			m.begin()
		case n < 29:
			m.statement(m.open[m.rng.IntN(len(m.open))])
		case n < 32:
			m.savepoint(m.open[m.rng.IntN(len(m.open))])
		case n < 38:
			m.commit(m.rng.IntN(len(m.open)))
		case n < 39:
			moves[m.rng.IntN(len(moves))].fn(m, m.db)
		default:
			mergeAt(m, m.db, m.class.Entries(), base.AppendIndexKey(nil, []byte("c2")))
			mergeAt(m, m.db, m.tb, []byte("k10"))
		}
	}
	for len(m.open) > 0 {
		m.commit(0)
	}
	inView(t, db, func(tx *Tx) {
		for key, val := range m.state {
			gets(t, tx, m.tb, key, val)
		}
		for _, ix := range []*Index{m.class, m.name} {
			n := 0
			for _, err := range tx.ScanIndex(ix, Range{}) {
				check(t, err)
				n++
			}
			if n != len(m.state) {
				t.Fatalf("%d entries of %d rows", n, len(m.state))
			}
		}
	})
	mustClose(t, db)
	return m
}
