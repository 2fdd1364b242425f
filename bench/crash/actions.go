package main

import (
	"fmt"

	"github.com/sakerdb/saker/engine"
)

// transfer moves money between two to four accounts. They are locked in random
// order, so that there are waits and deadlocks.
func (w *writer) transfer(x *tx) error {
	move := func() error {
		left := int64(0)
		ids := w.rng.Perm(accounts)[:2+w.rng.IntN(3)]
		for i, id := range ids {
			r, err := x.get(tableAccounts, accountKey(id))
			if err != nil {
				return err
			}
			amount := w.rng.Int64N(21) - 10
			if i == len(ids)-1 {
				amount = -left
			}
			left += amount
			r.Version, r.Amount = r.Version+1, r.Amount+amount
			if err := x.put(tableAccounts, oneKey(accountKey(id)), r); err != nil {
				return err
			}
		}
		return nil
	}
	return w.detours(x, move)
}

// regroup gives all rows of a group, which it finds agreeing, a new version.
func (w *writer) regroup(x *tx) error {
	g := w.rng.IntN(groups)
	return w.detours(x, func() error {
		version, size := 0, 20+w.rng.IntN(300)
		for i := range groupKeys {
			r, err := x.get(tableGroups, groupKey(g, i))
			if err != nil {
				return err
			}
			if version == 0 {
				version = r.Version
			}
			if r.Version != version {
				return fmt.Errorf("group %d is torn: row %d is %v, row 0 has version %d", g, i, r, version)
			}
			if err := x.put(tableGroups, oneKey(groupKey(g, i)), row{Version: version + 1, Size: size}); err != nil {
				return err
			}
		}
		return nil
	})
}

// detours does the work, maybe a first time below a savepoint that is rolled
// back, maybe nested, before it counts.
func (w *writer) detours(x *tx, work func() error) error {
	for range w.rng.IntN(3) {
		if err := w.below(x, work, w.rng.IntN(3)); err != nil {
			return err
		}
	}
	return work()
}

// below does the work under nested savepoints and rolls the outermost back, and
// the inner ones if it likes. What rolled back leaves no effect.
func (w *writer) below(x *tx, work func() error, depth int) error {
	sp, err := x.Savepoint()
	if err != nil {
		return err
	}
	mark := len(x.effects)
	for range 1 + w.rng.IntN(2) {
		if err := work(); err != nil {
			return err
		}
		if depth > 0 {
			if err := w.below(x, work, depth-1); err != nil {
				return err
			}
		}
		if err := x.RollbackTo(sp); err != nil {
			return err
		}
		x.effects = x.effects[:mark]
	}
	if w.rng.IntN(2) == 0 {
		return x.Release(sp)
	}
	return nil
}

// mixed puts and deletes single rows of a table of its own, between savepoints
// that are kept, released and rolled back.
func (w *writer) mixed(x *tx) error {
	table := w.table
	some := func() error { return w.some(x, table, 1+w.rng.IntN(12)) }
	if err := some(); err != nil {
		return err
	}
	type mark struct {
		sp      engine.Savepoint
		effects int
	}
	var marks []mark
	for range w.rng.IntN(8) {
		switch r := w.rng.IntN(4); {
		case r < 2 || len(marks) == 0:
			sp, err := x.Savepoint()
			if err != nil {
				return err
			}
			marks = append(marks, mark{sp, len(x.effects)})
		case r == 2:
			i := w.rng.IntN(len(marks))
			if err := x.Release(marks[i].sp); err != nil {
				return err
			}
			marks = marks[:i]
		default:
			i := w.rng.IntN(len(marks))
			if err := x.RollbackTo(marks[i].sp); err != nil {
				return err
			}
			x.effects, marks = x.effects[:marks[i].effects], marks[:i+1]
		}
		if err := some(); err != nil {
			return err
		}
	}
	return nil
}

// medium is a transaction that fills the log: below the chill threshold of most
// stores, in groups and a commit record.
func (w *writer) medium(x *tx) error {
	return w.some(x, w.table, 100+w.rng.IntN(300))
}

func (w *writer) some(x *tx, table string, n int) error {
	for range n {
		k := keys{Prefix: []byte("k"), First: w.rng.IntN(privateKeys), Step: 1, Mod: privateKeys, Count: 1}
		var err error
		if w.rng.IntN(4) == 0 {
			err = x.del(table, k.append(nil, 0))
		} else {
			err = x.put(table, k, row{Size: 20 + w.rng.IntN(400)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// number appends to the table of record numbers.
func (w *writer) number(x *tx) error {
	for range 1 + w.rng.IntN(10) {
		x.step++
		r := row{Stamp: stampOf(w.k.o.Round, w.id, x.n, x.step), Size: 40}
		// The key is not known before, so the value is bound to none.
		key, err := x.Append(w.k.table(tableLog), r.appendValue(nil, nil))
		if err != nil {
			return fmt.Errorf("append: %w", err)
		}
		x.effects = append(x.effects, effect{Table: tableLog, Keys: oneKey(key), Row: r})
	}
	return nil
}

// large writes values that are frames of their own.
func (w *writer) large(x *tx) error {
	table := w.table
	return w.detours(x, func() error {
		for range 1 + w.rng.IntN(3) {
			k := keys{Prefix: []byte("large"), First: w.rng.IntN(20), Step: 1, Mod: 20, Count: 1}
			if err := x.put(table, k, row{Size: 5000 + w.rng.IntN(40000)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// bulk writes more than record memory holds, in key order or not, some of it
// below savepoints that are rolled back. Now and then it waits to be killed.
func (w *writer) bulk(x *tx) error {
	table := w.table
	step := 1
	if w.rng.IntN(2) == 0 {
		step = 7919 // no divisor of privateKeys
	}
	first, size := w.rng.IntN(privateKeys), 60+w.rng.IntN(400)
	at, total := 0, 1000+w.rng.IntN(privateKeys-1000)
	chunk := func() error {
		k := keys{Prefix: []byte("k"), First: first + at*step, Step: step, Mod: privateKeys, Count: min(500, total-at)}
		return x.put(table, k, row{Size: size})
	}
	for at < total {
		if w.rng.IntN(6) == 0 {
			if err := w.below(x, chunk, w.rng.IntN(2)); err != nil {
				return err
			}
		}
		if err := chunk(); err != nil {
			return err
		}
		at += 500
	}
	if w.rng.IntN(16) == 0 {
		select {}
	}
	if w.rng.IntN(4) == 0 {
		return errRolledBack
	}
	return nil
}

// clear deletes many rows of a table that lie together.
func (w *writer) clear(x *tx) error {
	table := w.table
	from := fmt.Appendf(nil, "k%06d", w.rng.IntN(privateKeys))
	var found [][]byte
	for r, err := range x.Scan(w.k.table(table), engine.Range{From: from, Limit: 1 + w.rng.IntN(2000)}) {
		if err != nil {
			return err
		}
		found = append(found, append([]byte{}, r.Key...))
	}
	for _, key := range found {
		if err := x.del(table, key); err != nil {
			return err
		}
	}
	return nil
}
