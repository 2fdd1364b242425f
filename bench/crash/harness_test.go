package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sakerdb/saker/bench/internal/command"
	"github.com/sakerdb/saker/engine"
)

// The test binary is its own child, as the command is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childArgument {
		os.Exit(child(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func testHarness(t *testing.T, rounds int) *harness {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &config{rounds: rounds, seed: 1, recordMemory: defaultRecordMemory}
	return newHarness(c, program, t.TempDir(), io.Discard)
}

func TestRounds(t *testing.T) {
	res := testHarness(t, 3).run(context.Background())
	var table strings.Builder
	res.writeTable(&table, "dir")
	if !res.ok() || res.rounds != 3 || res.kills != 3 || res.tally.rows == 0 {
		t.Error(table.String())
	}
}

// A store that is damaged between kill and inspection is found out, by its rows
// alone: the damage is done through the engine, and every checksum is right.
func TestDamagedStore(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(db *engine.DB) error
		want   string
	}{
		"lost row": {func(db *engine.DB) error {
			return inTable(db, tableAccounts, func(tx *engine.Tx, t *engine.Table) error { return tx.Delete(t, accountKey(7)) })
		}, `accounts "a007" is missing`},
		"torn group": {func(db *engine.DB) error {
			return inTable(db, tableGroups, func(tx *engine.Tx, t *engine.Table) error {
				r := row{Stamp: stampOf(1, setupWriter, 1, 1), Version: 9, Size: 80}
				return tx.Put(t, groupKey(3, 1), r.appendValue(nil, groupKey(3, 1)))
			})
		}, "group 3 is torn"},
		"returned row": {func(db *engine.DB) error {
			return inTable(db, tableAccounts, func(tx *engine.Tx, t *engine.Table) error {
				r := row{Stamp: stampOf(1, 2, 3, 4), Size: 80}
				return tx.Put(t, accountKey(99), r.appendValue(nil, accountKey(99)))
			})
		}, `accounts "a099" should not be there: {round 1, writer 2, txn 3, step 4`},
		"changed byte": {func(db *engine.DB) error {
			return inTable(db, tableAccounts, func(tx *engine.Tx, t *engine.Table) error {
				v, err := tx.Get(t, accountKey(1))
				if err != nil {
					return err
				}
				v[len(v)-1]++
				return tx.Put(t, accountKey(1), v)
			})
		}, "bytes that nobody wrote"},
		"returned table": {func(db *engine.DB) error {
			_, err := db.CreateTable(context.Background(), "w9/9")
			return err
		}, "table w9/9 is there"},
	} {
		t.Run(name, func(t *testing.T) {
			h := testHarness(t, 2)
			h.between = func(o order) {
				db, err := o.open()
				if err == nil {
					err = c.damage(db)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			res := h.run(context.Background())
			if all := strings.Join(res.faults, "\n"); res.err != nil || !strings.Contains(all, c.want) {
				t.Errorf("%v, %q, want %q", res.err, all, c.want)
			}
		})
	}
}

func inTable(db *engine.DB, name string, fn func(tx *engine.Tx, t *engine.Table) error) error {
	table, err := db.Table(name)
	if err != nil {
		return err
	}
	return db.Update(context.Background(), func(tx *engine.Tx) error { return fn(tx, table) })
}

// A child that ends by itself is a failure, with what it said.
func TestChildFailure(t *testing.T) {
	h := testHarness(t, 1)
	if err := os.WriteFile(h.store(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o := order{Dir: h.store(), Job: jobInspect, Options: storeOptions{RecordMemory: 1 << 20}}
	if _, err := h.inspect(o, true); err == nil || !strings.Contains(err.Error(), "open: saker") {
		t.Errorf("a store that is no directory: %v", err)
	}
	for _, arg := range []string{"{", `{"Job":"none","Dir":"` + t.TempDir() + `"}`} {
		var stderr strings.Builder
		if status := child(arg, strings.NewReader(""), io.Discard, &stderr); status == command.ExitOK || stderr.Len() == 0 {
			t.Errorf("%s: status %d, %q", arg, status, stderr.String())
		}
	}
}

func TestCommandLine(t *testing.T) {
	var out, errs strings.Builder
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/x", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-rounds -1", "-dir " + dir, "-rounds 1 more"} {
		if status := crash(strings.Fields(args), &out, &errs); status != command.ExitUsage {
			t.Errorf("%s: status %d", args, status)
		}
	}
	if status := crash([]string{"-h"}, &out, &errs); status != command.ExitOK {
		t.Errorf("-h: status %d", status)
	}
	r := result{seed: 5, round: 3, faults: make([]string, faultsShown+4), rounds: 3}
	out.Reset()
	r.writeTable(&out, "somewhere")
	for _, want := range []string{"somewhere", "4 more", "-seed 5 -rounds 3", fmt.Sprint(faultsShown + 4)} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q: %s", want, out.String())
		}
	}
}
