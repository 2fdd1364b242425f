package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// oracle knows what a store must hold: what the last inspection found right, and
// with a journal, what may have come since.
type oracle struct {
	tables map[string]map[string]row
}

func newOracle() *oracle { return &oracle{tables: map[string]map[string]row{}} }

// tally is what the journals told, and what became of it.
type tally struct {
	acked, durable int // commits acknowledged; of them, durable ones
	pending        int // intents without an answer
	alivePending   int // of them, those that survived
	lost           int // NoSync commits acknowledged and lost
	lostAge        time.Duration
	ddl, syncs     int
	rows           int // compared
}

func (t *tally) add(o tally) {
	t.acked += o.acked
	t.durable += o.durable
	t.pending += o.pending
	t.alivePending += o.alivePending
	t.lost += o.lost
	t.lostAge = max(t.lostAge, o.lostAge)
	t.ddl += o.ddl
	t.syncs += o.syncs
	t.rows += o.rows
}

// lossWindow is how long after its acknowledgement a NoSync commit may still be
// lost to a kill. The store promises less; a starved process must not fail.
const lossWindow = 5 * time.Second

// judge compares a dump with the journal of the work before it, and makes the
// oracle know the outcome. It returns everything that is wrong:
//
//  1. which commits survived: for each writer those up to its head
//  2. what had to survive did: durable commits, and whatever came before a
//     survivor or a sync that returned
//  3. rows that writers share: each version made from a version that survived
//  4. the rows of the survivors are there, and no other
func (o *oracle) judge(h *history, d *dump, killed time.Time) (faults []string, t tally) {
	faults = append(faults, h.faults...)
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	o.survivors(h, d, bad)
	durability(h, killed, bad, &t)
	o.apply(h, bad)
	found, rows := o.compare(d)
	t.rows = rows
	return append(faults, found...), t
}

// survivors finds out which operations happened. The oracle's own tables follow
// those of the catalog.
func (o *oracle) survivors(h *history, d *dump, bad func(string, ...any)) {
	heads := map[int]int{} // writer → txn of its newest commit that survived
	for key, r := range d.tables[tableHeads] {
		if old, ok := o.tables[tableHeads][key]; ok && old.Stamp == r.Stamp {
			continue
		}
		w := r.Stamp.writer()
		i := slices.IndexFunc(h.ops, func(p *op) bool {
			return p.Kind == kindCommit && p.Writer == w && p.Txn == r.Stamp.txn() && !p.void
		})
		if i < 0 || !headOf(h.ops[i], r) {
			bad("the head of writer %d is %v, which no commit wrote that may have survived", w, r)
			continue
		}
		heads[w] = r.Stamp.txn()
	}
	for _, p := range h.ops {
		switch p.Kind {
		case kindCommit:
			p.alive = !p.void && p.Txn <= heads[p.Writer]
		case kindCreate, kindDrop:
			_, there := d.tables[p.Table]
			p.alive = p.ack > 0 || there == (p.Kind == kindCreate)
		default:
			p.alive = p.ack > 0
		}
	}
}

// headOf reports whether r is the head that the commit left.
func headOf(p *op, r row) bool {
	n := len(p.Effects)
	return n > 0 && p.Effects[n-1].Table == tableHeads && p.Effects[n-1].Row == r
}

// durability checks that only the newest NoSync commits are lost.
func durability(h *history, killed time.Time, bad func(string, ...any), t *tally) {
	// Whatever was acknowledged before this line must have survived.
	var last *op
	for _, p := range h.ops {
		if p.alive && (last == nil || p.intent > last.intent) {
			last = p
		}
	}
	for _, p := range h.ops {
		switch {
		case p.void:
			continue
		case p.ack == 0:
			t.pending++
			if p.alive {
				t.alivePending++
			}
			continue
		case p.Kind == kindSync:
			t.syncs++
			continue
		case p.Kind != kindCommit:
			t.ddl++
			continue
		}
		t.acked++
		if !p.NoSync {
			t.durable++
		}
		if p.alive {
			continue
		}
		t.lost++
		age := killed.Sub(time.UnixMicro(p.ackAt))
		switch {
		case !p.NoSync:
			bad("lost: %v", p)
		case last != nil && p.ack < last.intent:
			bad("lost out of order: %v, though there is the %v", p, last)
		case age > lossWindow:
			bad("lost after %v: %v", age, p)
		default:
			t.lostAge = max(t.lostAge, age)
		}
	}
}

// apply makes the oracle's rows those after the survivors. Private rows and
// tables follow the order of their writer's intents, shared rows their versions.
func (o *oracle) apply(h *history, bad func(string, ...any)) {
	type change struct {
		table, key string
		r          row
		p          *op
	}
	var changes []change
	var key []byte
	for _, p := range h.ops {
		switch {
		case !p.alive:
			continue
		case p.Kind == kindCreate:
			o.tables[p.Table] = map[string]row{}
			continue
		case p.Kind == kindDrop:
			delete(o.tables, p.Table)
			continue
		}
		for _, e := range p.Effects {
			t := o.tables[e.Table]
			for i := range e.Keys.len() {
				key = e.Keys.append(key[:0], i)
				switch {
				case t == nil:
					bad("harness: %v wrote table %s, which is not there", p, e.Table)
				case shared(e.Table):
					changes = append(changes, change{e.Table, string(key), e.Row, p})
				case e.Delete:
					delete(t, string(key))
				default:
					if old, ok := t[string(key)]; ok && e.Table == tableLog {
						bad("record number %x was handed out twice: to %v and to %v", key, old, e.Row)
					}
					t[string(key)] = e.Row
				}
			}
		}
	}
	// A transaction may write a shared row once: its versions are dense.
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.r.Version, b.r.Version) })
	for _, c := range changes {
		t := o.tables[c.table]
		if old := t[c.key]; c.r.Version != old.Version+1 {
			bad("%s %q: %v made version %d from one that is not there: the newest is %v", c.table, c.key, c.p, c.r.Version, old)
		}
		t[c.key] = c.r
	}
}

// compare returns what differs between the oracle and a dump.
func (o *oracle) compare(d *dump) (faults []string, rows int) {
	faults = append(faults, d.faults...)
	for _, name := range sortedKeys(o.tables) {
		got, ok := d.tables[name]
		if !ok {
			faults = append(faults, fmt.Sprintf("table %s is missing, with %d rows", name, len(o.tables[name])))
			continue
		}
		rows += len(got)
		faults = append(faults, differences(name, o.tables[name], got)...)
	}
	for _, name := range sortedKeys(d.tables) {
		if _, ok := o.tables[name]; !ok {
			faults = append(faults, fmt.Sprintf("table %s is there with %d rows: it was dropped, or never created", name, len(d.tables[name])))
		}
	}
	return append(faults, disagreements(d.tables)...), rows
}

func differences(table string, want, got map[string]row) (faults []string) {
	for _, k := range sortedKeys(want) {
		g, ok := got[k]
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("%s %q is missing: %v", table, k, want[k]))
		case g != want[k]:
			faults = append(faults, fmt.Sprintf("%s %q is %v, not %v", table, k, g, want[k]))
		}
	}
	for _, k := range sortedKeys(got) {
		if _, ok := want[k]; !ok {
			faults = append(faults, fmt.Sprintf("%s %q should not be there: %v", table, k, got[k]))
		}
	}
	return faults
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
