package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/internal/crashdisk"
)

// fill applies blocks as the network brings them.
func fill(t *testing.T, r *Registry, slots int) {
	t.Helper()
	n := newNode(r, &config{seed: 7}, nil)
	from := int(stateOf(t, r).Slot)
	for slot := from + 1; slot <= from+slots; slot++ {
		advance(t, r, slot)
		b, peers, err := n.draw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			continue
		}
		if err := n.deliver(ctx, b, peers); err != nil {
			t.Fatal(err)
		}
	}
}

// The registry is ready at restart, as it was. It does not need its history, which
// the test takes away: nothing could be replayed.
func TestRestartNeedsNoHistory(t *testing.T) {
	fs := crashdisk.New(t, "db")
	r, o := open(t, fs)
	if !o.New {
		t.Fatal("not new")
	}
	fill(t, r, 60)
	mustCheck(t, r)
	st := stateOf(t, r)
	err := r.db.Update(ctx, func(tx *engine.Tx) error {
		for h := uint64(1); h < st.Height; h++ {
			if err := tx.Delete(r.tables[blockTable], key64(h)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := dump(t, r)
	mustClose(t, r)
	r, o = open(t, fs)
	if o.New || o.State != st || o.Records != 2 || o.Recovery.Transactions != 0 {
		t.Fatalf("opening: %+v, want state %+v", o, st)
	}
	if diff := cmp.Diff(before, dump(t, r)); diff != "" {
		t.Fatal(diff)
	}
	fill(t, r, 20)
	query(t, r, func(v *View) {
		if _, err := v.Check(); err != nil {
			t.Fatal(err)
		}
	})
	mustClose(t, r)
}

// A crash at any moment of any change leaves whole blocks: those acknowledged,
// and at most the one under way. The disk may have kept any part of what was not
// synced.
func TestCrashAnywhere(t *testing.T) {
	fs := crashdisk.New(t, "db")
	r, _ := open(t, fs)
	rng := rand.New(rand.NewPCG(5, 5))
	var crashed []*vfs.MemFS
	var acked []uint64
	var height uint64
	r.trace = func(at moment) {
		if at == blockBegun || rng.IntN(6) > 0 {
			return
		}
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: rng}
		crashed, acked = append(crashed, fs.CrashClone(cfg)), append(acked, height)
	}
	for slot := 1; slot <= 90; slot++ {
		advance(t, r, slot)
		if slot%5 == 0 {
			continue // missed
		}
		id := stateOf(t, r).Stakers
		apply(t, r, nextBlock(t, r,
			op{Kind: opTransfer, From: treasury, To: 7, Amount: 50},
			op{Kind: opRegister, From: id, To: id + 1, Amount: 250, Name: fmt.Sprintf("late-%d", id)}))
		height++
	}
	r.trace = nil
	crashed, acked = append(crashed, fs.CrashClone(vfs.CrashCloneCfg{})), append(acked, height)
	mustClose(t, r)
	if len(crashed) < 10 {
		t.Fatalf("%d crashes", len(crashed))
	}
	for i, fs := range crashed {
		r, o := open(t, fs)
		if o.State.Height < acked[i] || o.State.Height > acked[i]+1 || o.New {
			t.Fatalf("crash %d: height %d, acknowledged %d, new %v", i, o.State.Height, acked[i], o.New)
		}
		mustCheck(t, r)
		fill(t, r, 2) // and it goes on
		mustCheck(t, r)
		mustClose(t, r)
	}
}

// A crash while the registry is made leaves none, or a whole one: the disk is
// cloned before each sync, and each clone opens.
func TestCrashInCreation(t *testing.T) {
	fs := crashdisk.New(t, "db")
	var mu sync.Mutex // guards crashed and rng
	var crashed []*vfs.MemFS
	rng := rand.New(rand.NewPCG(6, 6))
	r, _ := open(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			mu.Lock()
			defer mu.Unlock()
			crashed = append(crashed, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
		}
		return nil
	})))
	mustClose(t, r)
	mu.Lock()
	defer mu.Unlock()
	if len(crashed) < 10 {
		t.Fatalf("%d crashes", len(crashed))
	}
	made := 0
	for i, fs := range crashed {
		r, o := open(t, fs)
		if o.State.Stakers != 3 || o.State.Height != 0 {
			t.Fatalf("crash %d: %+v", i, o.State)
		}
		if !o.New {
			made++
		}
		mustCheck(t, r)
		mustClose(t, r)
	}
	if made == 0 || made == len(crashed) {
		t.Fatalf("%d of %d crashes were after the registry was made", made, len(crashed))
	}
}

func TestOpenErrors(t *testing.T) {
	opts := options()
	opts.FS = crashdisk.New(t, "db")
	if _, _, err := openRegistry(ctx, "db", opts, genesis{}); !errors.Is(err, errGenesis) {
		t.Fatalf("no genesis: %v", err)
	}
	r, _ := open(t, opts.FS)
	if _, _, err := openRegistry(ctx, "db", opts, genesis{}); !errors.Is(err, engine.ErrLocked) {
		t.Fatalf("open twice: %v", err)
	}
	// Records that do not agree are told at once, not worked with.
	fill(t, r, 5)
	err := r.db.Update(ctx, func(tx *engine.Tx) error {
		return tx.Delete(r.tables[blockTable], key64(stateOf(t, r).Height))
	})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, r)
	if _, _, err := openRegistry(ctx, "db", opts, genesis{}); !errors.Is(err, errInconsistent) {
		t.Fatalf("newest block missing: %v", err)
	}
}

// Check must see each kind of disagreement that an incomplete change could leave.
func TestCheckSees(t *testing.T) {
	r := newRegistry(t)
	fill(t, r, 10)
	st := stateOf(t, r)
	for name, spoil := range map[string]func(c *change) error{
		"half a reward": func(c *change) error { return c.r.put(accountTable, key64(2001), key64(12345)) },
		"lost staker": func(c *change) error {
			c.st.Stakers++
			return c.put(stakerTable, key64(99), (&staker{Missed: 1}).encode())
		},
		"money from air":  func(c *change) error { return c.pay(7, 1) },
		"slot not missed": func(c *change) error { c.st.Slot += 2; return nil },
		"height alone":    func(c *change) error { c.st.Height++; return nil },
		"hash alone":      func(c *change) error { c.st.Hash[0]++; return nil },
		"supply alone":    func(c *change) error { c.st.Supply++; return nil },
	} {
		tx, err := r.db.Begin(ctx, engine.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := &change{r: txRecords{r, tx}, st: st}
		if err := errors.Join(spoil(c), c.end()); err != nil {
			t.Fatal(err)
		}
		v := &View{State: c.st, r: r, tx: tx, c: *c}
		if _, err := v.Check(); !errors.Is(err, errInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	mustCheck(t, r)
}
