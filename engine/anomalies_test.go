package engine

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
)

// The anomalies by name, as Adya's thesis and the Hermitage suite list them, and
// which level permits them. Prevented means that it never shows, permitted that it
// does show here: a level that became stronger or weaker than its row says fails
// the test. ARCHITECTURE.md tells why each row is true.
var anomalies = []struct {
	name string
	// permitted says for ReadCommitted, Snapshot, Serializable whether it may show.
	permitted [3]bool
	// play runs the interleaving and reports whether the anomaly showed.
	play func(a *stage) bool
}{
	{"G0, write cycle", never, playG0},
	{"G1a, aborted read", never, playG1a},
	{"G1b, intermediate read", never, playG1b},
	{"G1c, circular information flow", never, playG1c},
	{"OTV, observed transaction vanishes", never, playOTV},
	{"PMP, predicate-many-preceders", atReadCommitted, playPMP},
	{"PMP of a write", atReadCommitted, playPMPOfWrite},
	{"P4, lost update", atReadCommitted, playP4},
	{"P4 with locks", never, playP4Locked},
	{"G-single, read skew", atReadCommitted, playGSingle},
	{"G-single with locks", atReadCommitted, playGSingleLocked},
	{"G-single of predicates", atReadCommitted, playGSinglePredicate},
	{"G2-item, write skew", belowSerializable, playG2Item},
	{"G2-item of absent rows", belowSerializable, playG2Absent},
	{"G2-item with locks", never, playG2ItemLocked},
	{"G2, phantoms", belowSerializable, playG2},
	{"G2 of deletions", belowSerializable, playG2Deletions},
	{"G2, seen by a reader", belowSerializable, playG2Reader},
}

var (
	never             = [3]bool{}
	atReadCommitted   = [3]bool{true, false, false}
	belowSerializable = [3]bool{true, true, false}
)

// Every anomaly at every level, with versions that stay, and that are moved between
// any two statements in every way.
func TestAnomalies(t *testing.T) {
	for i, level := range []Isolation{ReadCommitted, Snapshot, Serializable} {
		t.Run(level.String(), func(t *testing.T) {
			eachMove(t, func(s *story) {
				for n := range anomalies {
					a := &stage{story: s, level: level, prefix: fmt.Sprintf("%02d.", n)}
					s.seed(a.prefix+"x", "10", a.prefix+"y", "20")
					showed := anomalies[n].play(a)
					a.finish()
					if want := anomalies[n].permitted[i]; showed != want {
						s.Errorf("%s: showed is %v, want %v", anomalies[n].name, showed, want)
					}
				}
			})
		})
	}
}

// stage is one interleaving at one level. Its keys have a prefix of their own.
type stage struct {
	*story
	level   Isolation
	prefix  string
	players []*player
}

// player is a transaction of a stage. A statement that must wait leaves it waiting,
// and is awaited before the player's next one; after ErrConflict the transaction is
// rolled back and does nothing more.
type player struct {
	*stage
	tx      *Tx
	pending chan error
	gone    bool // rolled back, or committed
	won     bool // committed
}

func (a *stage) begin() *player {
	a.Helper()
	p := &player{stage: a, tx: mustBegin(a, a.db, TxOptions{Isolation: a.level})}
	a.players = append(a.players, p)
	return p
}

// finish ends what the script left open.
func (a *stage) finish() {
	a.Helper()
	for _, p := range a.players {
		p.rollback()
	}
	waitSwept(a, a.db)
}

// do runs a statement until it ends or waits, and then moves what can be moved.
func (p *player) do(fn func() error) {
	p.Helper()
	p.settle()
	if p.gone {
		return
	}
	before := p.db.Metrics().Waits
	done := make(chan error, 1)
	go func() { done <- fn() }()
	p.pending = done
	eventually(p, "a statement ends or waits", func() bool {
		return len(done) == 1 || p.db.Metrics().Waits > before
	})
	if len(done) == 1 {
		p.settle()
	}
	p.move()
}

// settle awaits the statement at hand.
func (p *player) settle() {
	p.Helper()
	if p.pending == nil {
		return
	}
	err := <-p.pending
	p.pending = nil
	switch {
	case err == nil:
	case errors.Is(err, ErrConflict):
		p.gone = true
		if err := p.tx.Rollback(); err != nil && !errors.Is(err, ErrTxDone) {
			p.Fatalf("rollback: %v", err)
		}
	default:
		p.Fatalf("%v", err)
	}
}

func (p *player) rowKey(k string) []byte { return []byte(p.prefix + k) }

func (p *player) put(k string, v int) {
	p.Helper()
	p.do(func() error { return p.tx.Put(p.tb, p.rowKey(k), []byte(strconv.Itoa(v))) })
}

func (p *player) insert(k string, v int) {
	p.Helper()
	p.do(func() error { return p.tx.Insert(p.tb, p.rowKey(k), []byte(strconv.Itoa(v))) })
}

func (p *player) remove(k string) {
	p.Helper()
	p.do(func() error { return p.tx.Delete(p.tb, p.rowKey(k)) })
}

// read returns the value, 0 for an absent row or a transaction that is gone.
func (p *player) read(k string, get func(*Tx, *Table, []byte) ([]byte, error)) (v int) {
	p.Helper()
	p.do(func() error {
		b, err := get(p.tx, p.tb, p.rowKey(k))
		if err == nil {
			v, err = strconv.Atoi(string(b))
		}
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	})
	return v
}

func (p *player) get(k string) int { p.Helper(); return p.read(k, (*Tx).Get) }

func (p *player) lock(k string) int { p.Helper(); return p.read(k, (*Tx).GetForUpdate) }

// find returns how many rows of the stage have a value that n divides.
func (p *player) find(n int) (rows int) {
	p.Helper()
	p.do(func() error {
		for row, err := range p.tx.Scan(p.tb, Range{From: p.rowKey(""), To: p.rowKey("zz")}) {
			if err != nil {
				return err
			}
			v, err := strconv.Atoi(string(row.Value))
			if err != nil {
				return err
			}
			if v%n == 0 {
				rows++
			}
		}
		return nil
	})
	return rows
}

func (p *player) commit() bool {
	p.Helper()
	p.do(p.tx.Commit)
	p.won = !p.gone
	p.gone = true
	return p.won
}

func (p *player) rollback() {
	p.Helper()
	p.do(p.tx.Rollback)
	p.gone = true
}

// now returns what is committed.
func (a *stage) now(k string) int { a.Helper(); return a.begin().get(k) }

func playG0(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 11)
	t2.put("x", 12) // waits
	t1.put("y", 21)
	t1.commit()
	t2.put("y", 22)
	t2.commit()
	return a.now("x")+10 != a.now("y")
}

func playG1a(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 101)
	t1.insert("z", 101)
	before := t2.get("x") + t2.get("z") + t2.find(101)
	t1.rollback()
	after := t2.get("x") + t2.get("z") + t2.find(101)
	t2.commit()
	return before != 10 || after != 10
}

func playG1b(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 101)
	seen := t2.get("x") == 101 || t2.find(101) > 0
	t1.put("x", 11)
	t1.commit()
	seen = seen || t2.get("x") == 101 || t2.find(101) > 0
	t2.commit()
	return seen
}

func playG1c(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 11)
	t2.put("y", 22)
	seen := t1.get("y") == 22 || t2.get("x") == 11
	t1.commit()
	t2.commit()
	return seen
}

func playOTV(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 11)
	t1.put("y", 19)
	t2.put("x", 12) // waits
	t1.commit()
	t3 := a.begin()
	vanished := t3.get("x") == 12
	t2.put("y", 18)
	vanished = vanished || t3.get("y") != 19
	t2.commit()
	if t3.get("y") == 18 { // it has seen t2, which overwrote t1
		return vanished || t3.get("x") != 12
	}
	return vanished || t3.get("x") != 11
}

func playPMP(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	first := t1.find(30)
	t2.insert("z", 30)
	t2.commit()
	second := t1.find(30)
	t1.commit()
	return first != second
}

// One transaction adds 10 to all values, another one deletes the row that it found
// to be 20: when its wait is over, that is not the row's value any more.
func playPMPOfWrite(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.put("x", 20)
	t1.put("y", 30)
	if t2.get("y") != 20 {
		a.Fatal("a dirty read")
	}
	t2.remove("y") // waits
	t1.commit()
	t2.commit()
	return a.now("y") == 0
}

func playP4(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	sum1, sum2 := t1.get("x")+1, t2.get("x")+1
	t1.put("x", sum1)
	t2.put("x", sum2) // waits
	t1.commit()
	t2.commit()
	return t2.won && a.now("x") == 11
}

func playP4Locked(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	sum := t1.lock("x") + 1
	var seen int
	t2.do(func() error { // waits
		v, err := t2.tx.GetForUpdate(a.tb, t2.rowKey("x"))
		if err == nil {
			seen, err = strconv.Atoi(string(v))
		}
		return err
	})
	t1.put("x", sum)
	t1.commit()
	t2.settle()
	t2.put("x", seen+1)
	t2.commit()
	return t2.won && a.now("x") == 11
}

func playGSingle(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	x := t1.get("x")
	t2.put("x", 12)
	t2.put("y", 18)
	t2.commit()
	y := t1.get("y")
	t1.commit()
	return x == 10 && y == 18
}

func playGSingleLocked(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	x := t1.get("x")
	t2.put("x", 12)
	t2.put("y", 18)
	t2.commit()
	y := t1.lock("y")
	return t1.commit() && x == 10 && y == 18
}

func playGSinglePredicate(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	before := t1.find(5)
	t2.put("x", 12)
	t2.commit()
	after := t1.find(3)
	t1.commit()
	return before == 2 && after == 1
}

func playG2Item(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.get("x")
	t1.get("y")
	t2.get("x")
	t2.get("y")
	t1.put("x", 11)
	t2.put("y", 21)
	t1.commit()
	t2.commit()
	return t1.won && t2.won
}

func playG2Absent(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.get("u")
	t2.get("v")
	t1.insert("v", 1)
	t2.insert("u", 1)
	t1.commit()
	t2.commit()
	return t1.won && t2.won
}

func playG2ItemLocked(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	t1.lock("x")
	t1.lock("y")
	t2.lock("x") // waits
	t1.put("x", 11)
	t1.commit()
	if t2.settle(); t2.gone {
		return false
	}
	x := t2.get("x")
	t2.lock("y")
	t2.put("y", 21)
	return t2.commit() && x != 11
}

func playG2(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	n := t1.find(3) + t2.find(3)
	t1.insert("z1", 30)
	t2.insert("z2", 42)
	t1.commit()
	t2.commit()
	return n == 0 && t1.won && t2.won
}

// Of two that are on call one may leave.
func playG2Deletions(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	if t1.find(1) == 2 {
		t1.remove("x")
	}
	if t2.find(1) == 2 {
		t2.remove("y")
	}
	t1.commit()
	t2.commit()
	return a.begin().find(1) == 0
}

// Without its reader this is serial: t1, t2. With it t2 comes before the reader,
// the reader before t1, and t1 before t2.
func playG2Reader(a *stage) bool {
	t1, t2 := a.begin(), a.begin()
	n := t1.find(5)
	t2.put("y", 25)
	t2.commit()
	t3 := a.begin()
	seen := t3.get("x") == 10 && t3.get("y") == 25
	t3.commit()
	t1.put("x", n)
	t1.commit()
	return seen && t1.won
}
