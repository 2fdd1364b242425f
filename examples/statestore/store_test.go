package main

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/engine"
	"github.com/sakerdb/saker/examples/internal/program"
	"github.com/sakerdb/saker/internal/crashdisk"
)

// A block whose states are far larger than record memory is one transaction all
// the same: they are chilled and backlogged, and memory keeps to its cap.
func TestBlockBeyondMemory(t *testing.T) {
	fs := crashdisk.New(t, "db")
	o := Options{Engine: engineOptions(defaultMiB << 20)} // as the program has it
	s, info := openWith(t, fs, o)
	if !info.New {
		t.Fatal("not new")
	}
	parent, _ := s.head()
	b := s.on(parent, 3000) // 12 MB in 2 MiB
	if res := s.mustImport(b); res.Stored != 3001 {
		t.Fatalf("%+v", res)
	}
	if n := s.mustCheck(); n.States != 3002 || n.Blocks != 2 {
		t.Fatalf("%+v", n)
	}
	m := s.Metrics()
	if m.ChilledRecords == 0 || m.BackloggedChains == 0 || m.LowMemoryEpisodes == 0 {
		t.Fatalf("memory was never short:\n%v", m)
	}
	before := s.dump()
	mustClose(t, s)
	s, info = openWith(t, fs, o)
	if info.Recovery.Transactions != 0 || info.Schema != schemaVersion {
		t.Fatalf("%+v", info)
	}
	s.sameAs(before, "restart")
	s.mustCheck()
	mustClose(t, s)
}

// A block that fails verification leaves nothing, whatever was stored for it, and
// behind valid blocks of its segment it takes none of them along.
func TestInvalidBlock(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	parent, _ := s.head()
	wrongRoot := s.on(parent, many)
	wrongRoot.StateRoot[5] ^= 1
	refused := s.on(parent, many, Transfer{From: 3, To: 4, Amount: 5})
	s.refuse(refused)
	overdraft := s.on(parent, many, Transfer{From: 0, To: 1, Amount: 1 << 60})
	backwards := &Block{Parent: ID{Slot: 7}, Slot: 7}
	orphan := &Block{Parent: ID{Slot: 7}, Slot: 8}
	before := s.dump()
	for name, c := range map[string]struct {
		b    *Block
		want error
	}{
		"state root": {wrongRoot, ErrInvalid}, "refused": {refused, ErrInvalid}, "overdraft": {overdraft, ErrInvalid},
		"backwards": {backwards, ErrInvalid}, "orphan": {orphan, ErrUnknownParent},
	} {
		if res, err := s.Import(ctx, c.b); !errors.Is(err, c.want) || res.Permanent != 0 || res.Stored != 0 {
			t.Errorf("%s: %+v %v", name, res, err)
		}
		s.sameAs(before, name)
	}
	// A segment: good, invalid and larger than memory, and one on top of that.
	good, st := produce(parent, s.stateOf(parent), 40)
	bad, badState := produce(good.ID(), st, 40+many)
	s.refuse(bad)
	top, _ := produce(bad.ID(), badState, 50+many)
	res, err := s.Import(ctx, good, bad, top)
	if !errors.Is(err, ErrInvalid) || res.Permanent != 1 || res.Stored != 41 || !strings.Contains(err.Error(), bad.ID().String()) {
		t.Fatalf("segment: %+v %v", res, err)
	}
	if m := s.Metrics(); m.BackloggedChains+m.SealedLeaves == 0 {
		t.Fatalf("nothing of the invalid block was on disk:\n%v", m)
	}
	other, _ := openStore(t, crashdisk.New(t, "db")) // that never saw an invalid block
	other.mustImport(good)
	want := other.dump()
	mustClose(t, other)
	s.sameAs(want, "segment")
	s.mustCheck()
	mustClose(t, s)
	s, _ = openStore(t, fs)
	s.sameAs(want, "restart")
	s.mustCheck()
	s.mustImport(bad, top) // it was only the test's verdict
	s.mustCheck()
	mustClose(t, s)
}

func (s *testStore) stateOf(id ID) (st State) {
	s.read(func(r *Reader) {
		var err error
		if st, err = r.State(id); err != nil {
			s.t.Fatal(err)
		}
	})
	return st
}

// A crash in the middle of a block, or when all is stored and verified, leaves
// nothing of it; its files are collected at start. After the commit all is there.
func TestCrashInBlock(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	parent, _ := s.head()
	first := s.on(parent, 20)
	s.mustImport(first)
	b := s.on(first.ID(), many)
	before := s.dump()
	stops := []*stop{
		s.stopWhen(func(e Event) bool { return e.Step == StepStored && e.State.Slot == 20+many/2 }),
		s.stopAt(StepVerifying, b), s.stopAt(StepFinishing, nil),
	}
	type crash struct {
		fs      *vfs.MemFS
		percent int
	}
	var crashes []crash
	done := s.start(b)
	for i, stop := range stops {
		<-stop.reached
		for _, percent := range []int{0, 50, 100} {
			rng := rand.New(rand.NewPCG(uint64(i), uint64(percent)))
			crashes = append(crashes, crash{fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), percent})
		}
		close(stop.goOn)
	}
	if d := <-done; d.err != nil {
		t.Fatal(d.err)
	}
	after := s.dump()
	committed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustClose(t, s)
	for i, c := range crashes {
		s, info := openStore(t, c.fs)
		if info.New || c.percent == 100 && info.Recovery.FilesRemoved == 0 {
			t.Fatalf("crash %d: %+v: no left-overs were collected", i, info)
		}
		s.sameAs(before, "crash")
		s.mustCheck()
		if m := s.Metrics(); m.TempTables != 0 || m.RunBytes > 1<<20 {
			t.Fatalf("crash %d: left-overs on disk:\n%v", i, m)
		}
		s.mustImport(b)
		s.sameAs(after, "import after the crash")
		mustClose(t, s)
	}
	s, _ = openStore(t, committed)
	s.sameAs(after, "crash after the commit")
	s.mustCheck()
	mustClose(t, s)
}

// Finalization deletes other forks and all states before the block, for good;
// readers of before go on reading.
func TestFinalize(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	a, b := s.fork(10)
	s.mustImport(a)
	s.mustImport(b)
	a2, b2, late := s.on(a.ID(), 10), s.on(b.ID(), 10), s.on(a.Parent, 500)
	for _, x := range []*Block{a2, b2, late} {
		s.mustImport(x)
	}
	a3 := s.on(a2.ID(), 10)
	s.mustImport(a3)
	before := s.dump()
	if _, err := s.Finalize(ctx, ID{Slot: 3}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a block that is not here: %v", err)
	}
	s.sameAs(before, "a block that is not here")
	s.read(func(old *Reader) {
		p, err := s.Finalize(ctx, a2.ID())
		if err != nil || p.Blocks != 3 || p.States < 500 {
			t.Fatalf("%+v %v", p, err)
		}
		s.sees(old, b2, true)
		s.sees(old, late, true)
		if _, err := old.Check(); err != nil {
			t.Fatal(err)
		}
	})
	if p, err := s.Finalize(ctx, a2.ID()); err != nil || p != (Pruned{}) {
		t.Fatalf("again: %+v %v", p, err)
	}
	for _, x := range []*Block{a, b} {
		want := ErrFinalized
		if x == b {
			want = ErrNotFound
		}
		if _, err := s.Finalize(ctx, x.ID()); !errors.Is(err, want) {
			t.Fatalf("back: %v, want %v", err, want)
		}
	}
	for range 2 {
		s.read(func(r *Reader) {
			s.sees(r, b, false)
			s.sees(r, late, false)
			if _, err := r.Block(a.ID()); err != nil {
				t.Fatalf("history of the final block: %v", err)
			}
			if _, err := r.State(a.ID()); !errors.Is(err, ErrNotFound) {
				t.Fatalf("state before the final block: %v", err)
			}
			s.sees(r, a3, true)
		})
		if n := s.mustCheck(); n != (Counts{Blocks: 4, States: 12}) { // a2, ten slots, a3
			t.Fatalf("%+v", n)
		}
		if _, err := s.Import(ctx, late); !errors.Is(err, ErrFinalized) {
			t.Fatalf("a block on final history: %v", err)
		}
		mustClose(t, s)
		s, _ = openStore(t, fs)
	}
	s.mustImport(s.on(a2.ID(), 20), s.on(a3.ID(), 20))
	s.mustCheck()
	mustClose(t, s)
}

// downgrade makes the store one that a program of an older schema wrote.
func downgrade(t *testing.T, fs vfs.FS, version uint64) {
	t.Helper()
	s, _ := openStore(t, fs)
	old, err := s.db.CreateTable(ctx, oldStatesTable)
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(ctx, func(tx *engine.Tx) error {
		for row, err := range tx.Scan(s.states, engine.Range{}) {
			if err != nil {
				return err
			}
			key := append(bytes.Clone(row.Key[8:]), row.Key[:8]...) // root, slot
			if err := tx.Put(old, key, row.Value); err != nil {
				return err
			}
		}
		return tx.Put(s.meta, schemaKey, num(version))
	})
	if err := errors.Join(err, s.db.DropTable(ctx, stateTable)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

// An old store is brought on step by step at open; it is larger than record memory,
// and each step is one transaction.
func TestMigration(t *testing.T) {
	for from := uint64(1); from < schemaVersion; from++ {
		fs := crashdisk.New(t, "db")
		s, _ := openStore(t, fs)
		parent, _ := s.head()
		s.mustImport(s.on(parent, many))
		before := s.dump()
		mustClose(t, s)
		downgrade(t, fs, from)
		s, info := openStore(t, fs)
		if info.Schema != from || info.New {
			t.Fatalf("%+v", info)
		}
		s.sameAs(before, "migrated")
		s.mustCheck()
		if diff := cmp.Diff([]string{blockTable, guardTable, metaTable, stateTable}, s.db.Tables()); diff != "" {
			t.Fatal(diff)
		}
		mustClose(t, s)
		s, info = openStore(t, fs)
		if info.Schema != schemaVersion {
			t.Fatalf("migrated twice: %+v", info)
		}
		s.sameAs(before, "opened again")
		mustClose(t, s)
	}
}

// crashesAt collects clones of the disk before syncs, some of them at random.
type crashesAt struct {
	fs    *vfs.MemFS
	every int
	mu    sync.Mutex // guards rng, n and list
	rng   *rand.Rand
	n     int
	list  []*vfs.MemFS
}

func (c *crashesAt) wrap() vfs.FS {
	return errorfs.Wrap(c.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			c.take()
		}
		return nil
	}))
}

func (c *crashesAt) take() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n++; c.n%c.every == 0 {
		c.list = append(c.list, c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (c.n / c.every % 3), RNG: c.rng}))
	}
}

// A crash anywhere in a migration leaves a store that the next Open brings on; a
// crash in that one too.
func TestMigrationCrash(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	parent, _ := s.head()
	s.mustImport(s.on(parent, 300))
	before := s.dump()
	mustClose(t, s)
	downgrade(t, fs, 1)
	c := &crashesAt{fs: fs, every: 2, rng: rand.New(rand.NewPCG(8, 8))}
	s, _ = openStore(t, c.wrap())
	s.sameAs(before, "no crash")
	mustClose(t, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	versions := map[uint64]int{}
	for _, fs := range c.list {
		again := &crashesAt{fs: fs, every: 11, rng: c.rng}
		s, info := openStore(t, again.wrap())
		versions[info.Schema]++
		s.sameAs(before, "crash")
		s.mustCheck()
		mustClose(t, s)
		again.mu.Lock()
		for _, fs := range again.list {
			s, _ := openStore(t, fs)
			s.sameAs(before, "crash after a crash")
			mustClose(t, s)
		}
		again.mu.Unlock()
	}
	if versions[1] == 0 || versions[2] == 0 || versions[3] == 0 || versions[0] != 0 {
		t.Fatalf("crashes left schemas %v", versions)
	}
}

// A store of a newer program is refused, and not touched.
func TestSchemaTooNew(t *testing.T) {
	fs := crashdisk.New(t, "db")
	s, _ := openStore(t, fs)
	raise := func(to uint64) error {
		return s.db.Update(ctx, func(tx *engine.Tx) error { return tx.Put(s.meta, schemaKey, num(to)) })
	}
	if err := raise(schemaVersion + 1); err != nil {
		t.Fatal(err)
	}
	before := s.dump()
	mustClose(t, s)
	o := Options{Engine: engineOptions(1 << 20)}
	o.Engine.FS = fs
	if _, _, err := Open(ctx, "db", o); !errors.Is(err, ErrSchemaTooNew) {
		t.Fatal(err)
	}
	db, err := engine.Open("db", &o.Engine)
	if err != nil {
		t.Fatal(err)
	}
	s = &testStore{t: t, Store: &Store{db: db}}
	for name, tb := range map[string]**engine.Table{metaTable: &s.meta, blockTable: &s.blocks, stateTable: &s.states} {
		if *tb, err = db.Table(name); err != nil {
			t.Fatal(err)
		}
	}
	s.sameAs(before, "refused")
	mustClose(t, s)
}

// A crash while a store is made leaves none, or a whole one.
func TestCrashInCreation(t *testing.T) {
	c := &crashesAt{fs: crashdisk.New(t, "db"), every: 1, rng: rand.New(rand.NewPCG(9, 9))}
	s, _ := openStore(t, c.wrap())
	want := s.dump()
	mustClose(t, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	made := 0
	for _, fs := range c.list {
		s, info := openStore(t, fs)
		if !info.New {
			made++
		}
		s.sameAs(want, "crash")
		s.mustCheck()
		mustClose(t, s)
	}
	if made == 0 || made == len(c.list) {
		t.Fatalf("%d of %d crashes were after the store was made", made, len(c.list))
	}
}

// Check must see what an incomplete block, a left-over or a lost state would be.
func TestCheckSees(t *testing.T) {
	s := newStore(t)
	a, b := s.fork(10)
	s.mustImport(a)
	states := intermediate(a)
	del := func(id ID) func(*engine.Tx) error {
		return func(tx *engine.Tx) error { return tx.Delete(s.states, id.key()) }
	}
	for name, spoil := range map[string]func(*engine.Tx) error{
		"first state lost":     del(states[0]),
		"middle state lost":    del(states[4]),
		"last state lost":      del(states[9]),
		"own state lost":       del(a.ID()),
		"block lost":           func(tx *engine.Tx) error { return tx.Delete(s.blocks, a.ID().key()) },
		"final block lost":     func(tx *engine.Tx) error { return tx.Delete(s.blocks, a.Parent.key()) },
		"block without states": func(tx *engine.Tx) error { return tx.Insert(s.blocks, b.ID().key(), b.encode()) },
		"left-over": func(tx *engine.Tx) error {
			st := s.stateOf(states[9])
			st.advance()
			return tx.Insert(s.states, st.ID().key(), st)
		},
		"state without block": func(tx *engine.Tx) error { return tx.Insert(s.states, b.ID().key(), s.stateOf(a.ID())) },
		"wrong content": func(tx *engine.Tx) error {
			st := s.stateOf(states[4])
			st.set(3, 0)
			return tx.Put(s.states, states[4].key(), st)
		},
	} {
		tx, err := s.db.Begin(ctx, engine.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(tx); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Reader{s: s.Store, tx: tx}).Check(); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	s.mustCheck()
}

func TestDecode(t *testing.T) {
	b := &Block{Parent: ID{Slot: 1, Root: root{2}}, Slot: 3, StateRoot: root{4}, Transfers: []Transfer{{5, 6, 7}, {8, 9, 10}}}
	enc := b.encode()
	got, err := decodeBlock(enc)
	if diff := cmp.Diff(b, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	for _, bad := range [][]byte{nil, enc[:len(enc)-1], enc[:len(enc)-24], append(bytes.Clone(enc), make([]byte, 24)...)} {
		if _, err := decodeBlock(bad); !errors.Is(err, errRecord) {
			t.Errorf("%d bytes decode: %v", len(bad), err)
		}
	}
	if _, err := decodeID(enc[:idSize-1]); !errors.Is(err, errRecord) {
		t.Error(err)
	}
}

// runProgram runs the program in another process and returns what it prints.
func runProgram(t *testing.T, args ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(exe, append([]string{"-statestore.program", "--"}, args...)...).CombinedOutput()
	return string(out), err
}

// The program is killed in the middle of a block: the next run finds what was
// committed, and nothing else.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-dir", dir, "-slots", "400", "-record-memory-mib", "1"}
	out, err := runProgram(t, append(args, "-die", "2")...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("not killed: %v\n%s", err, out)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("ended with %v:\n%s", exit, out)
	}
	if !strings.Contains(out, "killed with 201 temporary states stored") || strings.Count(out, "permanent") != 2 {
		t.Fatalf("before:\n%s", out)
	}
	out, err = runProgram(t, append(args, "-rounds", "0")...)
	// Genesis, two blocks, one state each and the 401 slots that they share.
	if err != nil || !strings.Contains(out, "checked: 3 blocks, 404 states") || !strings.Contains(out, "files of temporary states removed") ||
		strings.Contains(out, " 0 files") {
		t.Fatalf("after: %v\n%s", err, out)
	}
	out, err = runProgram(t, append(args, "-rounds", "4", "-fail", "2", "-finalize", "2")...)
	if err != nil || strings.Count(out, "invalid, nothing of it is left") != 2 || strings.Count(out, "is final") != 2 {
		t.Fatalf("on: %v\n%s", err, out)
	}
}

// The first signal ends the program in good order.
func TestInterrupt(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe, "-statestore.program", "--", "-dir", dir, "-rounds", "1000000", "-slots", "50")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines, last, sent := bufio.NewScanner(pipe), "", false
	for lines.Scan() {
		if !sent && strings.HasPrefix(lines.Text(), "round 2:") {
			sent = true // a second one would kill
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasPrefix(lines.Text(), "checked:") {
			last = lines.Text()
		}
	}
	if err := cmd.Wait(); err != nil || last == "" {
		t.Fatalf("exit after SIGINT: %v, %q: %s", err, last, &errs)
	}
	out, err := runProgram(t, "-dir", dir, "-rounds", "0")
	if err != nil || !strings.Contains(out, " 0 committed transactions redone, 0 files") {
		t.Fatalf("after an orderly end: %v\n%s", err, out)
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"-rounds", "-1"}, {"-slots", "0"}, {"-state-size", "47"}, {"-record-memory-mib", "0"}, {"-fail", "-1"}, {"-nonsense"}, {"argument"},
	} {
		var out, errs bytes.Buffer
		if code := run(ctx, args, &out, &errs); code != program.ExitUsage || errs.Len() == 0 {
			t.Errorf("%v: status %d, %q", args, code, &errs)
		}
	}
}
