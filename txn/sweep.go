package txn

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/sakerdb/saker/backlog"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// sweep is what a rolled back transaction left behind.
type sweep struct {
	out  *versionchain.Outcome
	temp *backlog.TempTable
	segs []uint64

	begun   bool
	runs    []unswept // left to sweep, once begun
	damaged bool      // one had a part that no retry reads
}

// unswept is a run of which the first frames of its index have been swept.
type unswept struct {
	seriallog.RunTail
	frames int
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

// sweepLoop is the sweeper. What could not be swept because a read failed is gone on
// with after a pause, which doubles as long as there is such, and is never shorter than
// what the last round took; others go first.
func (m *Manager) sweepLoop() {
	defer m.sweepers.Done()
	var failed []*sweep
	var again <-chan time.Time
	pause := sweepPause
	do := func(s *sweep) {
		if m.sweepOne(s) {
			m.sweeping.Add(-1)
		} else {
			failed = append(failed, s)
		}
	}
	for {
		if len(failed) == 0 {
			pause = sweepPause
		} else if again == nil {
			again = time.After(pause) //nolint:forbidigo // nobody tells when the disk reads again
		}
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
			list, start := failed, time.Now() //nolint:forbidigo // it rests as long as it worked
			failed, again = nil, nil
			for _, s := range list {
				do(s)
			}
			pause = max(min(2*pause, maxSweepPause), time.Since(start))
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
// a read failed that may succeed another time: then it is to be called again, and goes
// on where it was.
func (m *Manager) sweepOne(s *sweep) (done bool) {
	ctx := context.Background()
	var err error
	if !m.stopping() {
		err = m.Cache.Settle(ctx, m.snaps.horizon())
	}
	for _, seg := range s.segs {
		m.Log.Unpin(seg)
	}
	s.segs = nil
	if err != nil {
		return true // the owner stays known to be aborted
	}
	if !s.begun && s.temp != nil {
		for _, rt := range s.temp.Tails() {
			s.runs = append(s.runs, unswept{RunTail: rt})
		}
	}
	s.begun = true
	m.sweepRuns(ctx, s)
	if len(s.runs) > 0 && !m.stopping() && m.Failure() == nil {
		return false
	}
	m.drop(s)
	if len(s.runs) == 0 && !s.damaged && !m.stopping() {
		m.retire(s.out, false)
	}
	// Otherwise the map may still name the owner: it stays known to be aborted
	// until the store closes.
	return true
}

// sweepRuns sweeps what is left, and unlinks each run when that is done or it proves
// damaged. Runs that could not be read stay.
func (m *Manager) sweepRuns(ctx context.Context, s *sweep) {
	var left []unswept
	for i := range s.runs {
		if m.stopping() {
			left = append(left, s.runs[i:]...)
			break
		}
		r := &s.runs[i]
		err := m.sweepRun(ctx, r)
		_, bad := errors.AsType[*base.CorruptionError](err)
		if s.damaged = s.damaged || bad; err != nil && !bad {
			left = append(left, *r)
			continue
		}
		_ = m.Space.DropRun(r.Run)
	}
	s.runs = left
}

func (m *Manager) sweepRun(ctx context.Context, r *unswept) error {
	if !m.Space.Acquire(r.Run) {
		return nil
	}
	defer m.Space.Release(r.Run)
	var buf []byte
	at := 0
	return m.Space.WalkIndex(r.Run, r.Tail, func(e tablespace.IndexEntry) (bool, error) {
		if at++; at <= r.frames {
			return true, nil
		}
		b, err := m.sweepFrame(ctx, e, buf[:0])
		if buf = b; err != nil {
			return false, err
		}
		r.frames++
		return !m.stopping(), nil
	})
}

// sweepFrame takes what the entry's frame covers of the owner's out of the map, and
// returns the grown buf.
func (m *Manager) sweepFrame(ctx context.Context, e tablespace.IndexEntry, buf []byte) ([]byte, error) {
	t := m.Cache.Table(e.Table)
	if t == nil {
		return buf, nil
	}
	b, err := m.Space.ReadFrame(e.Addr, buf)
	if err != nil {
		return b, err
	}
	fr, err := versionchain.ParseFrame(b)
	if err != nil {
		return b, err
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
		return b, err
	}
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
