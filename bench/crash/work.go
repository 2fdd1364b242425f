package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

// The tables that all writers share, beside those that each has for itself.
const (
	tableHeads    = "heads"    // writer → the stamp of its newest commit
	tableAccounts = "accounts" // balances; their sum never changes
	tableGroups   = "groups"   // groupKeys rows each, which always agree
	tableLog      = "log"      // record numbers, handed out once
)

const (
	writers      = 4
	setupWriter  = 63
	accounts     = 48
	balanceStart = 1000
	groups       = 24
	groupKeys    = 6
	privateKeys  = 12000 // in a writer's table
	ownTables    = 3     // per writer, at most
)

func accountKey(i int) []byte       { return fmt.Appendf(nil, "a%03d", i) }
func groupKey(g, i int) []byte      { return fmt.Appendf(nil, "g%03d/%d", g, i) }
func headKey(writer int) []byte     { return fmt.Appendf(nil, "w%02d", writer) }
func ownTable(writer, n int) string { return fmt.Sprintf("w%d/%d", writer, n) }

// shared reports whether the rows of a table carry versions.
func shared(table string) bool { return table == tableAccounts || table == tableGroups }

// worker is the workload of one child: writers and a reader over one store.
type worker struct {
	o  *order
	db *engine.DB
	j  *journal

	mu     sync.Mutex
	tables map[string]*engine.Table // open handles; guarded by mu
}

// work runs the workload until the process is killed. It returns an error, in
// the journal too, when the store does what it must not.
func (o *order) work(db *engine.DB, stdout io.Writer) error {
	j, err := openJournal(o.Journal)
	if err != nil {
		return err
	}
	k := &worker{o: o, db: db, j: j, tables: map[string]*engine.Table{}}
	for _, name := range db.Tables() {
		if k.tables[name], err = db.Table(name); err != nil {
			return err
		}
	}
	if err := k.setup(); err != nil {
		k.fault(setupWriter, fmt.Errorf("setup: %w", err))
	}
	fmt.Fprintln(stdout, sayReady)
	for id := range writers {
		go func() {
			w := k.writer(id)
			for {
				if err := w.step(); err != nil {
					k.fault(id, err)
				}
			}
		}()
	}
	go k.watch()
	return nil
}

func (k *worker) writer(id int) *writer {
	return &writer{k: k, id: id, rng: rand.New(rand.NewPCG(k.o.Seed, uint64(id)))}
}

// fault ends the child with what is wrong in the journal.
func (k *worker) fault(writer int, err error) {
	_ = k.j.write(record{Kind: kindFault, Writer: writer, Text: err.Error()})
	os.Exit(command.ExitFailed)
}

func (k *worker) table(name string) *engine.Table {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tables[name]
}

func (k *worker) setTable(name string, t *engine.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t == nil {
		delete(k.tables, name)
		return
	}
	k.tables[name] = t
}

// setup makes the shared tables and their first rows, unless they are there.
func (k *worker) setup() error {
	w := k.writer(setupWriter)
	for _, name := range []string{tableHeads, tableAccounts, tableGroups, tableLog} {
		if k.table(name) == nil {
			if err := w.create(name); err != nil {
				return err
			}
		}
	}
	filled := false
	err := k.db.View(context.Background(), func(tx *engine.Tx) error {
		_, err := tx.Get(k.table(tableAccounts), accountKey(0))
		filled = err == nil
		if errors.Is(err, engine.ErrNotFound) {
			err = nil
		}
		return err
	})
	if filled || err != nil {
		return err
	}
	return w.commit(false, func(x *tx) error {
		for i := range accounts {
			if err := x.put(tableAccounts, oneKey(accountKey(i)), row{Version: 1, Amount: balanceStart, Size: 60}); err != nil {
				return err
			}
		}
		for g := range groups {
			for i := range groupKeys {
				if err := x.put(tableGroups, oneKey(groupKey(g, i)), row{Version: 1, Size: 80}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// seen are the figures that show what the workload set going.
type seen struct {
	Chilled, Thawed, Backlogged, Restored, Merges, Episodes uint64
	Checkpoints, LogBytes, Conflicts, Deadlocks             uint64
}

func (s *seen) add(o seen) {
	s.Chilled += o.Chilled
	s.Thawed += o.Thawed
	s.Backlogged += o.Backlogged
	s.Restored += o.Restored
	s.Merges += o.Merges
	s.Episodes += o.Episodes
	s.LogBytes += o.LogBytes
	s.Conflicts += o.Conflicts
	s.Deadlocks += o.Deadlocks
}

// watch reads while the writers write: what must agree agrees in every snapshot.
func (k *worker) watch() {
	next := time.Now()
	for {
		err := k.db.View(context.Background(), func(tx *engine.Tx) error {
			for range 2 { // the same snapshot gives the same answers
				if err := k.watchOnce(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			k.fault(writers, fmt.Errorf("watcher: %w", err))
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(20 * time.Millisecond)
		m := k.db.Metrics()
		s := &seen{
			Chilled: m.ChilledRecords, Thawed: m.ThawedRecords, Backlogged: m.BackloggedChains, Restored: m.RestoredChains,
			Merges: m.FrameMerges, Episodes: m.LowMemoryEpisodes, LogBytes: m.LogBytes,
			Conflicts: m.Conflicts, Deadlocks: m.Deadlocks,
		}
		_ = k.j.write(record{Kind: kindMetrics, Seen: s})
	}
}

func (k *worker) watchOnce(tx *engine.Tx) error {
	rows := map[string]map[string]row{}
	for _, name := range []string{tableAccounts, tableGroups} {
		rows[name] = map[string]row{}
		for r, err := range tx.Scan(k.table(name), engine.Range{}) {
			if err != nil {
				return err
			}
			got, ok, _ := parseValue(r.Key, r.Value, nil)
			if !ok {
				return fmt.Errorf("%s %q: bytes that nobody wrote: %v", name, r.Key, got)
			}
			rows[name][string(r.Key)] = got
		}
	}
	if bad := disagreements(rows); len(bad) > 0 {
		return fmt.Errorf("%d disagreements, the first: %s", len(bad), bad[0])
	}
	return nil
}

// disagreements are the faults that shared rows show among themselves.
func disagreements(tables map[string]map[string]row) (bad []string) {
	if t := tables[tableAccounts]; len(t) > 0 {
		sum := int64(0)
		for _, r := range t {
			sum += r.Amount
		}
		if sum != accounts*balanceStart || len(t) != accounts {
			bad = append(bad, fmt.Sprintf("%d accounts hold %d, not %d with %d", len(t), sum, accounts, accounts*balanceStart))
		}
	}
	t := tables[tableGroups]
	for g := 0; g < groups && len(t) > 0; g++ {
		first := t[string(groupKey(g, 0))]
		for i := 1; i < groupKeys; i++ {
			r := t[string(groupKey(g, i))]
			if r.Version != first.Version || r.Stamp.txn() != first.Stamp.txn() || r.Stamp>>18 != first.Stamp>>18 {
				bad = append(bad, fmt.Sprintf("group %d is torn: row 0 is %v, row %d is %v", g, first, i, r))
			}
		}
	}
	return bad
}
