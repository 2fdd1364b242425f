package txn

import (
	"bytes"
	"context"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// sweep is what a rolled back transaction left behind.
type sweep struct {
	out  *versionchain.Outcome
	temp *backlog.TempTable
	segs []uint64
}

// sweep hands the remains to the sweeper. Nothing waits for it: an aborted
// owner's versions and frames are invisible already.
func (m *Manager) sweep(s *sweep) {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	m.sweeping.Add(1)
	if closed {
		// Recovery drops what an owner without outcome left in runs.
		for _, seg := range s.segs {
			m.Log.Unpin(seg)
		}
		m.drop(s)
		m.sweeping.Add(-1)
		return
	}
	select {
	case m.sweeps <- s:
	default:
		go func() { // the queue is full: the sweeper is a rollback storm behind
			defer func() { _ = recover() }()
			m.sweeps <- s
		}()
	}
}

// Sweeping returns the number of rolled back transactions not yet swept.
func (m *Manager) Sweeping() int64 { return m.sweeping.Load() }

func (m *Manager) sweepLoop() {
	defer m.sweepers.Done()
	for s := range m.sweeps {
		m.sweepOne(s)
		m.sweeping.Add(-1)
	}
}

// sweepOne cleans the leaves of resident garbage, takes the owner's frames out
// of the leaf map by the index of its runs, and unlinks the runs.
func (m *Manager) sweepOne(s *sweep) {
	ctx := context.Background()
	defer func() {
		for _, seg := range s.segs {
			m.Log.Unpin(seg)
		}
	}()
	if err := m.Cache.Settle(ctx, m.snaps.horizon()); err != nil {
		return // the owner stays known to be aborted
	}
	swept := true
	if s.temp != nil {
		for _, rt := range s.temp.Tails() {
			err := m.sweepRun(ctx, rt.Run, rt.Tail)
			for try := 0; err != nil && try < sweepTries && m.pause(ctx, nil) == nil; try++ {
				err = m.sweepRun(ctx, rt.Run, rt.Tail) // a read that failed may succeed now
			}
			swept = swept && err == nil
		}
	}
	m.drop(s)
	if swept && !m.stopping() {
		m.retire(s.out, false)
	}
	// Otherwise the map may still name the owner: it stays known to be aborted
	// until the store closes.
}

// sweepTries is how often a sweep of a run that failed is repeated, a second apart.
const sweepTries = 3

func (m *Manager) sweepRun(ctx context.Context, run base.RunID, tail uint64) error {
	if !m.Space.Acquire(run) {
		return nil
	}
	defer m.Space.Release(run)
	var buf []byte
	return m.Space.WalkIndex(run, tail, func(e tablespace.IndexEntry) (bool, error) {
		t := m.Cache.Table(e.Table)
		if t == nil {
			return !m.stopping(), nil
		}
		b, err := m.Space.ReadFrame(e.Addr, buf[:0])
		buf = b
		if err != nil {
			return false, err
		}
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return false, err
		}
		meta := fr.Meta()
		low, high := bytes.Clone(meta.Low), bytes.Clone(meta.High)
		for {
			err := m.Cache.DropFrames(ctx, t, low, high)
			if recordcache.IsNoMemory(err) {
				err = m.Scav.Wait(ctx, 1024)
				if err == nil {
					continue
				}
			}
			return err == nil && !m.stopping(), err
		}
	})
}

func (m *Manager) stopping() bool {
	select {
	case <-m.closing:
		return true
	default:
		return false
	}
}

// drop unlinks the runs of an aborted owner: its list entries, if any remain,
// are known to be garbage by their owner.
func (m *Manager) drop(s *sweep) {
	if s.temp == nil {
		return
	}
	for _, id := range s.temp.Runs() {
		_ = m.Space.DropRun(id)
	}
	m.Backlog.Forget(s.out.ID)
}
