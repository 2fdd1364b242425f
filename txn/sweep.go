package txn

import (
	"bytes"
	"context"
	"errors"
	"time"

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

// sweepLoop is the sweeper. What could not be swept because a read failed is swept
// again after a pause, which doubles as long as there is such; others go first.
func (m *Manager) sweepLoop() {
	defer m.sweepers.Done()
	var failed []*sweep
	var again <-chan time.Time
	pause := sweepPause
	do := func(s *sweep) {
		if m.sweepOne(s) {
			m.sweeping.Add(-1)
			return
		}
		if failed = append(failed, s); again == nil {
			again = time.After(pause) //nolint:forbidigo // nobody tells when the disk reads again
		}
	}
	for {
		select {
		case s, ok := <-m.sweeps:
			if !ok {
				for _, s := range failed {
					m.drop(s) // recovery does the rest
					m.sweeping.Add(-1)
				}
				return
			}
			do(s)
		case <-again:
			list := failed
			failed, again = nil, nil
			pause = min(2*pause, maxSweepPause)
			for _, s := range list {
				do(s)
			}
			if len(failed) == 0 {
				pause = sweepPause
			}
		}
	}
}

// How long the sweeper waits before it tries again what it could not read.
const (
	sweepPause    = 20 * time.Millisecond
	maxSweepPause = 2 * time.Second
)

// sweepOne cleans the leaves of resident garbage, takes the owner's frames out
// of the leaf map by the index of its runs, and unlinks the runs. It reports false if
// a read failed that may succeed another time: then the runs are there still.
func (m *Manager) sweepOne(s *sweep) (done bool) {
	ctx := context.Background()
	err := m.Cache.Settle(ctx, m.snaps.horizon())
	for _, seg := range s.segs {
		m.Log.Unpin(seg)
	}
	s.segs = nil
	if err != nil {
		return true // the owner stays known to be aborted
	}
	unread, damaged := m.sweepRuns(ctx, s)
	if unread && !m.stopping() && m.Failure() == nil {
		return false
	}
	m.drop(s)
	if !unread && !damaged && !m.stopping() {
		m.retire(s.out, false)
	}
	// Otherwise the map may still name the owner: it stays known to be aborted
	// until the store closes.
	return true
}

// sweepRuns sweeps the runs, and reports whether there was one that could not be read,
// and one that is damaged.
func (m *Manager) sweepRuns(ctx context.Context, s *sweep) (unread, damaged bool) {
	if s.temp == nil {
		return false, false
	}
	for _, rt := range s.temp.Tails() {
		err := m.sweepRun(ctx, rt.Run, rt.Tail)
		if _, bad := errors.AsType[*base.CorruptionError](err); bad {
			damaged = true
		} else if err != nil {
			unread = true
		}
	}
	return unread, damaged
}

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
