package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// story builds a journal and the dump that follows from it, to be damaged.
type story struct {
	h    history
	d    dump
	line int
	txns map[int]int
}

func newStory() *story {
	s := &story{txns: map[int]int{}, d: dump{tables: map[string]map[string]row{}}}
	for _, name := range []string{tableHeads, tableAccounts, tableGroups, tableLog} {
		s.call(setupWriter, kindCreate, name, true)
	}
	s.commit(setupWriter, false, true, accountEffects(s, 1, map[int]int64{})...)
	return s
}

// accountEffects gives accounts a version: those in moves, or all of them.
func accountEffects(s *story, version int, moves map[int]int64) (list []effect) {
	for i := range accounts {
		amount, moved := moves[i]
		if moved || len(moves) == 0 {
			r := row{Stamp: s.next(setupWriter), Version: version, Amount: balanceStart + amount, Size: 60}
			list = append(list, effect{Table: tableAccounts, Keys: oneKey(accountKey(i)), Row: r})
		}
	}
	return list
}

func (s *story) next(writer int) stamp { return stampOf(1, writer, s.txns[writer]+1, 1) }

func (s *story) begin(writer int, kind string) *op {
	s.line++
	s.txns[writer]++
	o := &op{record: record{Kind: kind, Writer: writer, Txn: s.txns[writer]}, intent: s.line}
	s.h.ops = append(s.h.ops, o)
	return o
}

func (s *story) ack(o *op) {
	s.line++
	o.ack, o.ackAt = s.line, time.Now().UnixMicro()
}

// call is a change of the catalog or a sync, acknowledged; the dump shows it.
func (s *story) call(writer int, kind, table string, done bool) *op {
	o := s.begin(writer, kind)
	o.Table = table
	s.ack(o)
	switch {
	case done && kind == kindCreate:
		s.d.tables[table] = map[string]row{}
	case done && kind == kindDrop:
		delete(s.d.tables, table)
	}
	return o
}

// commit is a commit with effects; done says whether the dump shows them.
func (s *story) commit(writer int, noSync, done bool, effects ...effect) *op {
	o := s.begin(writer, kindCommit)
	o.NoSync = noSync
	head := row{Stamp: stampOf(1, writer, o.Txn, 9), Size: rowHeader}
	o.Effects = append(effects, effect{Table: tableHeads, Keys: oneKey(headKey(writer)), Row: head})
	if done {
		s.show(o)
	}
	s.ack(o)
	return o
}

func (s *story) show(o *op) {
	for _, e := range o.Effects {
		for i := range e.Keys.len() {
			key := string(e.Keys.append(nil, i))
			if e.Delete {
				delete(s.d.tables[e.Table], key)
			} else {
				s.d.tables[e.Table][key] = e.Row
			}
		}
	}
}

// rows is an effect on n private rows.
func (s *story) rows(writer int, table string, n int) effect {
	k := keys{Prefix: []byte("k"), First: 0, Step: 1, Mod: privateKeys, Count: n}
	return effect{Table: table, Keys: k, Row: row{Stamp: s.next(writer), Size: 100}}
}

// group is an effect on all rows of a group.
func (s *story) group(writer, g, version int) (list []effect) {
	for i := range groupKeys {
		r := row{Stamp: s.next(writer), Version: version, Size: 50}
		list = append(list, effect{Table: tableGroups, Keys: oneKey(groupKey(g, i)), Row: r})
	}
	return list
}

// full is a story with everything in it, in which nothing is wrong.
func full() *story {
	s := newStory()
	var all []effect
	for g := range groups {
		all = append(all, s.group(setupWriter, g, 1)...)
	}
	s.commit(setupWriter, false, true, all...)
	s.call(1, kindCreate, "w1/0", true)
	s.commit(1, false, true, s.rows(1, "w1/0", 20))
	s.commit(1, false, true, accountEffects(s, 2, map[int]int64{3: 7, 5: -7})...)
	s.commit(2, true, true, s.group(2, 4, 2)...)
	s.call(2, kindSync, "", true)
	s.commit(2, false, true, s.group(2, 4, 3)...)
	s.commit(3, false, true, effect{Table: tableLog, Keys: oneKey([]byte{1}), Row: row{Stamp: s.next(3), Size: 40}})
	s.call(3, kindCreate, "w3/1", true)
	s.call(3, kindDrop, "w3/1", true)
	return s
}

func (s *story) judge() ([]string, tally) {
	return newOracle().judge(&s.h, &s.d, time.Now())
}

func TestOracleAcceptsWhatIsRight(t *testing.T) {
	for name, tell := range map[string]func(s *story){
		"as told": func(*story) {},
		"the last NoSync commits are lost": func(s *story) {
			s.commit(1, true, false, s.rows(1, "w1/0", 5))
			s.commit(1, true, false, s.rows(1, "w1/0", 3))
			s.commit(2, true, false)
		},
		"a commit cut short is there": func(s *story) { s.commit(1, false, true, s.rows(1, "w1/0", 5)).ack = 0 },
		"it is not":                   func(s *story) { s.commit(1, false, false, s.rows(1, "w1/0", 5)).ack = 0 },
		"a table cut short is there":  func(s *story) { s.call(1, kindCreate, "w1/1", true).ack = 0 },
		"that one is not":             func(s *story) { s.call(1, kindCreate, "w1/1", false).ack = 0 },
		"a drop cut short":            func(s *story) { s.call(1, kindDrop, "w1/0", true).ack = 0 },
		"a void commit":               func(s *story) { s.commit(1, false, false, s.rows(1, "w1/0", 5)).void = true },
		"lost beside a later one that was called before the answer": func(s *story) {
			a := s.commit(1, true, false, s.rows(1, "w1/0", 5))
			b := s.commit(2, true, true)
			a.ack, b.intent = b.intent, a.ack
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := full()
			tell(s)
			if faults, _ := s.judge(); len(faults) > 0 {
				t.Errorf("faults: %s", strings.Join(faults, "\n"))
			}
		})
	}
}

// Each damage is told, in the words that say what it is. A harness that cannot
// fail shows nothing.
func TestOracleCatchesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(s *story)
		want   string
	}{
		"lost row": {func(s *story) { delete(s.d.tables["w1/0"], "k000007") }, `w1/0 "k000007" is missing`},
		"old row": {func(s *story) {
			r := s.d.tables["w1/0"]["k000007"]
			r.Stamp -= 1 << 18
			s.d.tables["w1/0"]["k000007"] = r
		}, `w1/0 "k000007" is {`},
		"torn group": {func(s *story) {
			s.d.tables[tableGroups][string(groupKey(4, 2))] = row{Stamp: stampOf(1, 2, 1, 1), Version: 2, Size: 50}
		}, "group 4 is torn"},
		"torn transfer": {func(s *story) {
			s.d.tables[tableAccounts][string(accountKey(3))] = s.h.ops[4].Effects[3].Row
		}, "accounts hold"},
		"returned row": {func(s *story) {
			s.d.tables["w1/0"]["k000099"] = row{Stamp: stampOf(1, 1, 77, 3), Size: 100}
		}, `w1/0 "k000099" should not be there: {round 1, writer 1, txn 77`},
		"deleted row returned": {func(s *story) {
			r := s.d.tables["w1/0"]["k000005"]
			s.commit(1, false, true, effect{Table: "w1/0", Keys: oneKey([]byte("k000005")), Delete: true})
			s.d.tables["w1/0"]["k000005"] = r
		}, `w1/0 "k000005" should not be there`},
		"lost durable commit": {func(s *story) { s.commit(1, false, false, s.rows(1, "w1/0", 5)) }, "lost: commit of writer 1"},
		"half a commit":       {func(s *story) { s.commit(1, false, true, s.rows(1, "w1/0", 50)); delete(s.d.tables["w1/0"], "k000049") }, `"k000049" is missing`},
		"lost before a sync": {func(s *story) {
			s.commit(1, true, false, s.rows(1, "w1/0", 5))
			s.call(2, kindSync, "", true)
		}, "lost out of order: NoSync commit of writer 1"},
		"lost before a survivor": {func(s *story) {
			s.commit(1, true, false, s.rows(1, "w1/0", 5))
			s.commit(2, true, true)
		}, "though there is the NoSync commit of writer 2"},
		"lost too long ago": {func(s *story) {
			s.commit(1, true, false).ackAt -= (2 * lossWindow).Microseconds()
		}, "lost after"},
		"table lost":         {func(s *story) { delete(s.d.tables, "w1/0") }, "table w1/0 is missing"},
		"table returned":     {func(s *story) { s.d.tables["w3/1"] = map[string]row{} }, "table w3/1 is there"},
		"a base disappeared": {func(s *story) { s.commit(3, false, true, s.group(3, 4, 5)...) }, "made version 5 from one that is not there"},
		"lost update":        {func(s *story) { s.commit(3, false, true, s.group(3, 4, 3)...) }, "made version 3 from one that is not there"},
		"number given twice": {func(s *story) {
			s.commit(1, false, true, effect{Table: tableLog, Keys: oneKey([]byte{1}), Row: row{Stamp: s.next(1), Size: 40}})
		}, "record number 01 was handed out twice"},
		"head of nobody": {func(s *story) {
			s.d.tables[tableHeads][string(headKey(1))] = row{Stamp: stampOf(1, 1, 90, 9), Size: rowHeader}
		}, "the head of writer 1"},
		"void commit is there": {func(s *story) { s.commit(1, false, true, s.rows(1, "w1/0", 5)).void = true }, "the head of writer 1"},
		"fault of the child":   {func(s *story) { s.h.faults = []string{"writer 2: commit: no"} }, "writer 2: commit: no"},
		"fault of inspection":  {func(s *story) { s.d.faults = []string{"verify: no"} }, "verify: no"},
	} {
		t.Run(name, func(t *testing.T) {
			s := full()
			c.damage(s)
			faults, _ := s.judge()
			if all := strings.Join(faults, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("faults: %q, want one with %q", all, c.want)
			}
		})
	}
}

// What survived one kill is what must be there after the next one.
func TestOracleRemembers(t *testing.T) {
	s := full()
	o := newOracle()
	if faults, _ := o.judge(&s.h, &s.d, time.Now()); len(faults) > 0 {
		t.Fatal(faults)
	}
	if faults, rows := o.compare(&s.d); len(faults) > 0 || rows == 0 {
		t.Errorf("the same dump: %d rows, %v", rows, faults)
	}
	again := dump{tables: map[string]map[string]row{}}
	for name, rows := range s.d.tables {
		again.tables[name] = maps.Clone(rows)
	}
	delete(again.tables["w1/0"], "k000003")
	if faults, _ := o.judge(&history{}, &again, time.Now()); len(faults) != 1 {
		t.Errorf("a row lost later: %v", faults)
	}
}

func TestJournal(t *testing.T) {
	name := t.TempDir() + "/journal"
	j, err := openJournal(name)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{k: &worker{j: j}, id: 3}
	for _, err := range []error{
		w.intend(kindCreate, "w3/0"), w.answer(kindAck),
		j.write(record{Kind: kindCommit, Writer: 3, Txn: 9, NoSync: true, Effects: []effect{{Table: "t", Keys: keys{Prefix: []byte{0xff}, First: 2, Step: 3, Mod: 7, Count: 4}}}}),
		w.intend(kindSync, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.f.WriteString(`{"kind":"ack","w":3,`); err != nil { // torn
		t.Fatal(err)
	}
	if err := j.f.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := readJournalFile(name)
	if err != nil || len(h.ops) != 3 {
		t.Fatal(h, err)
	}
	if o := h.ops[0]; o.ack != 2 || o.Table != "w3/0" {
		t.Errorf("create: %v", o)
	}
	o := h.ops[1]
	if o.ack != 0 || !o.NoSync || fmt.Sprintf("%x", o.Effects[0].Keys.append(nil, 3)) != "ff303030303034" {
		t.Errorf("commit: %v %v", o, o.Effects)
	}
	if o := h.ops[2]; o.ack != 0 {
		t.Errorf("sync: %v", o)
	}
	if _, err := readJournal(strings.NewReader("{}\n")); err == nil {
		t.Error("a line without kind: no error")
	}
	if h, err := readJournalFile(name + "-none"); err != nil || len(h.ops) != 0 {
		t.Errorf("no journal: %v, %v", h, err)
	}
}

func TestValue(t *testing.T) {
	for _, r := range []row{{}, {Stamp: stampOf(5, 3, 100, 7), Version: 3, Amount: -5, Size: 20}, {Stamp: 1, Size: 333}} {
		v := r.appendValue(nil, []byte("key"))
		r.Size = max(r.Size, rowHeader)
		if got, ok, _ := parseValue([]byte("key"), v, nil); !ok || got != r {
			t.Errorf("%v: %v, %v", r, got, ok)
		}
		if _, ok, _ := parseValue([]byte("other"), v, nil); ok && r.Size > rowHeader {
			t.Errorf("%v passes under another key", r)
		}
		v[len(v)-1] ^= 1
		if got, ok, _ := parseValue([]byte("key"), v, nil); ok && got == r {
			t.Errorf("%v: a changed byte passes", r)
		}
	}
	if s := stampOf(5, 3, 100, 7); s.round() != 5 || s.writer() != 3 || s.txn() != 100 || s.String() != "round 5, writer 3, txn 100, step 7" {
		t.Errorf("stamp: %v", s)
	}
}

func TestConfig(t *testing.T) {
	var out strings.Builder
	c, err := parseConfig([]string{"-duration", "3s", "-record-memory", "2MiB", "-seed", "9"}, &out)
	if err != nil || c.rounds != 0 || c.duration != 3*time.Second || c.recordMemory != 2<<20 || c.seed != 9 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := parseConfig(nil, &out); err != nil || c.rounds != defaultRounds || c.seed == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = parseConfig([]string{"-rounds", "-1", "-duration", "-1s", "-record-memory", "1"}, &out)
	for _, option := range []string{"-rounds", "-duration", "-record-memory"} {
		if err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%v does not name %s", err, option)
		}
	}
}
