package seriallog

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/internal/base"
)

var crashSeeds = flag.Int("crash-seeds", 40, "number of random crash histories")

// crashModel is what the log must hold, across crashes.
type crashModel struct {
	t    *testing.T
	rng  *rand.Rand
	fs   *vfs.MemFS
	log  *Log
	recs []modelRec // from the checkpoint on
	ckpt base.LSN
	txn  base.TxnID
	inc  uint32
	// pinned are segments with records that must stay readable although they
	// are below the checkpoint.
	pinned map[uint64][]modelRec
}

type modelRec struct {
	start, end base.LSN
	txn        base.TxnID
	body       string
}

// TestCrash runs random histories of appends, syncs, checkpoints, pins, clean
// reopens and crashes that keep 0, 50 or 100 % of what was not synced. Replay
// must yield a prefix of what was appended that includes everything synced.
func TestCrash(t *testing.T) {
	for seed := range *crashSeeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			m := &crashModel{
				t: t, rng: rand.New(rand.NewPCG(uint64(seed), 7)), fs: vfs.NewCrashableMem(),
				pinned: map[uint64][]modelRec{},
			}
			for range 15 {
				m.reopen()
				for range 20 + m.rng.IntN(150) {
					m.step()
				}
				switch m.rng.IntN(5) {
				case 0:
					closeLog(t, m.log)
					m.crash(0)
				case 1:
					m.crash(0)
				case 2:
					m.kill()
					m.crash(100)
				default:
					m.crash(50)
				}
			}
			m.reopen()
			closeLog(t, m.log)
		})
	}
}

// crash replaces the file system by what a crash leaves of it.
func (m *crashModel) crash(percent int) {
	// What was synced before the crash must survive; more may.
	synced := m.log.Synced()
	clone := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: m.rng})
	_ = m.log.Close()
	m.fs = clone
	l := m.open()
	got := replay(m.t, l, m.ckpt)
	for i, e := range got {
		if i >= len(m.recs) {
			m.t.Fatalf("%d %%: record at %d was never appended", percent, e.Start)
		}
		if want := m.recs[i]; want.start != e.Start || want.end != e.End || want.txn != e.Txn || want.body != e.body {
			m.t.Fatalf("%d %%: record %d is at [%d,%d) of %v, want [%d,%d) of %v", percent, i, e.Start, e.End, e.Txn, want.start, want.end, want.txn)
		}
	}
	if n := len(got); n < len(m.recs) && m.recs[n].end <= synced {
		m.t.Fatalf("%d %%: record at [%d,%d) is gone, %d was synced", percent, m.recs[n].start, m.recs[n].end, synced)
	}
	m.recs = m.recs[:len(got)]
	for seg, recs := range m.pinned {
		i := 0
		err := l.ReplaySegments([]uint64{seg}, m.ckpt, func(rec Record) error {
			if want := recs[i]; want.start != rec.Start || want.body != string(rec.Body) {
				m.t.Fatalf("segment %d: record %d is at %d, want %d", seg, i, rec.Start, want.start)
			}
			i++
			return nil
		})
		if err != nil || i != len(recs) {
			m.t.Fatalf("segment %d: %d records of %d: %v", seg, i, len(recs), err)
		}
	}
	closeLog(m.t, l)
	if m.rng.IntN(3) == 0 {
		// A crash in recovery: what it read must read the same again.
		l = m.open()
		replay(m.t, l, m.ckpt)
		if err := l.StartWriting(); err != nil {
			m.t.Fatal(err)
		}
		clone := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rng.IntN(101), RNG: m.rng})
		closeLog(m.t, l)
		m.fs = clone
	}
}

// kill ends the process and not the machine: what was written and not synced is
// replayed out of the system's cache, and must be durable once writing begins.
func (m *crashModel) kill() {
	synced := m.log.Synced()
	m.log.fail(errors.New("killed"))
	_ = m.log.Close()
	l := m.open()
	got := replay(m.t, l, m.ckpt)
	if n := len(got); n > len(m.recs) || n < len(m.recs) && m.recs[n].end <= synced {
		m.t.Fatalf("killed: %d records of %d, %d was synced", n, len(m.recs), synced)
	}
	m.recs = m.recs[:len(got)]
	if err := l.StartWriting(); err != nil {
		m.t.Fatal(err)
	}
	m.log = l
	m.crash(0)
	if len(m.recs) != len(got) {
		m.t.Fatalf("%d records were replayed and only %d survive a crash", len(got), len(m.recs))
	}
	m.reopen()
}

func (m *crashModel) open() *Log {
	m.inc++
	return openOnly(m.t, m.fs, m.inc)
}

// reopen opens the log for writing and compares it with the model.
func (m *crashModel) reopen() {
	m.log = m.open()
	if got := replay(m.t, m.log, m.ckpt); len(got) != len(m.recs) {
		m.t.Fatalf("%d records replayed, want %d", len(got), len(m.recs))
	}
	if err := m.log.StartWriting(); err != nil {
		m.t.Fatal(err)
	}
	for seg := range m.pinned {
		if !m.log.Pin(seg) {
			m.t.Fatalf("pinned segment %d is gone", seg)
		}
	}
	m.log.Checkpointed(m.ckpt)
}

func (m *crashModel) step() {
	switch n := m.rng.IntN(100); {
	case n < 80:
		size := m.rng.IntN(300)
		if m.rng.IntN(10) == 0 {
			size = m.rng.IntN(20 << 10)
		}
		m.txn++
		body := string(rows(int(m.txn), 1, size))
		start := addGroup(m.t, m.log, m.txn, []byte(body))
		m.recs = append(m.recs, modelRec{start - 16, start + base.LSN(len(body)), m.txn, body})
	case n < 92:
		mustSync(m.t, m.log, m.log.End())
	case n < 95:
		m.checkpoint()
	case n < 97:
		m.log.nudge()
	default:
		for seg := range m.pinned {
			m.log.Unpin(seg)
			delete(m.pinned, seg)
			break
		}
	}
}

// checkpoint moves the checkpoint position to the end of a synced record and
// now and then pins a segment below it.
func (m *crashModel) checkpoint() {
	synced := m.log.Synced()
	n := 0
	for n < len(m.recs) && m.recs[n].end <= synced {
		n++
	}
	if n == 0 {
		return
	}
	n = 1 + m.rng.IntN(n)
	done := m.recs[:n]
	m.recs = m.recs[n:]
	m.ckpt = done[n-1].end
	if seg := m.log.SegmentOf(done[0].start); len(m.pinned) < 3 && m.pinned[seg] == nil && seg < m.log.SegmentOf(m.ckpt) {
		var recs []modelRec
		_ = m.log.Pin(seg)
		// Records of the segment from before this checkpoint are not in the
		// model any more unless the segment begins with them.
		if first := done[0].start; m.log.offset(first) < 1<<10 && m.log.offset(first) >= 64 {
			for _, r := range done {
				if m.log.SegmentOf(r.start) == seg {
					recs = append(recs, r)
				}
			}
		}
		if recs != nil && m.log.offset(recs[0].start) == 64+24+0 {
			m.pinned[seg] = recs
		} else {
			m.log.Unpin(seg)
		}
	}
	m.log.Checkpointed(m.ckpt)
}

// A crash that keeps the first of a torn tail's blocks away and a later one
// there must not bring back the later one after the log went on.
func TestStaleTailStaysDead(t *testing.T) {
	fs := vfs.NewMem()
	l, _ := open(t, fs, 1)
	addGroup(t, l, 1, rows(1, 1, 10))
	mustSync(t, l, l.End())
	torn := l.End()
	for i := range 60 { // into the next segments
		addGroup(t, l, 2, rows(i, 1, 3<<10))
		l.mu.Lock()
		l.group.busy = true
		l.leadLocked(false)
		l.mu.Unlock()
	}
	size, seg := l.SegmentSize(), l.SegmentOf(torn)
	clone := cloneFS(t, fs)
	closeLog(t, l)
	damage(t, clone, seg, int64(uint64(torn)%uint64(size)), 8)
	for inc := uint32(2); inc < 5; inc++ {
		var got []entry
		l, got = open(t, clone, inc)
		if len(got) != int(inc)-1 {
			t.Fatalf("opening %d: %d records", inc, len(got))
		}
		if n := l.Stats().Segments; n != int(inc) {
			t.Errorf("opening %d: %d segments, stale ones are kept", inc, n)
		}
		addGroup(t, l, base.TxnID(inc), rows(1, 1, 10))
		closeLog(t, l)
	}
}

// The position at which writing begins serves as a checkpoint position before
// anything was synced.
func TestBeginningOfWritingIsDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var from base.LSN
	for inc := uint32(1); inc < 4; inc++ {
		l := openOnly(t, fs, inc)
		if got := replay(t, l, from); len(got) != 0 {
			t.Errorf("%d records", len(got))
		}
		if err := l.StartWriting(); err != nil {
			t.Fatal(err)
		}
		from = l.End()
		l.Checkpointed(from)
		addGroup(t, l, 1, rows(1, 1, 10))
		clone := fs.CrashClone(vfs.CrashCloneCfg{})
		closeLog(t, l)
		fs = clone
	}
}
