package recordcache

import (
	"context"
	"maps"
	"sync"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Rows that a transaction rolled back to a savepoint stay in the frames that it had
// sealed by then, until their leaf is rewritten. The leaf map does not tell them from
// others: a survey reads some frames of each run whose owner has dead intervals, once
// as long as the store is open, and takes the run for what they are.

// sample is some frames of one run, evenly spread over those that a survey met.
type sample struct {
	owner       *versionchain.Outcome
	every, seen int
	at          []tablespace.Addr
}

const (
	maxSample      = 64      // frames
	maxSampleBytes = 4 << 20 // and the bytes of them after which it is enough
)

func (s *sample) add(a tablespace.Addr) {
	if s.seen%s.every == 0 && len(s.at) == maxSample {
		for i := range maxSample / 2 {
			s.at[i] = s.at[2*i]
		}
		s.at = s.at[:maxSample/2]
		s.every *= 2
	}
	if s.seen%s.every == 0 {
		s.at = append(s.at, a)
	}
	s.seen++
}

// undoneShares says which share of the bytes of a run was rolled back. It has an entry
// for each run that was sampled and is there: some bytes for megabytes on disk.
type undoneShares struct {
	mu sync.Mutex
	of map[base.RunID]float64
}

func (u *undoneShares) get(run base.RunID) (share float64, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	share, known = u.of[run]
	return share, known
}

func (u *undoneShares) set(run base.RunID, share float64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.of == nil {
		u.of = map[base.RunID]float64{}
	}
	u.of[run] = share
}

// prune forgets the runs that are gone.
func (u *undoneShares) prune(space *tablespace.Space) {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.DeleteFunc(u.of, func(id base.RunID, _ float64) bool { return space.Find(id) == nil })
}

// sample notes a frame, committed at ts, that may hold rows which were rolled back. Of
// an owner who was committed while the survey was under way it has not met all.
func (c *Cache) sample(f *tablespace.FrameRef, ts base.CommitTS, s *Survey) {
	if f.Owner == 0 || ts > s.Horizon[len(s.Horizon)-1] {
		return
	}
	o := c.owner(f.Owner)
	if o == nil || len(o.Dead()) == 0 {
		return
	}
	x := s.samples[f.Run]
	if x == nil {
		if _, known := c.undone.get(f.Run); known {
			return
		}
		if s.samples == nil {
			s.samples = map[base.RunID]*sample{}
		}
		x = &sample{owner: o, every: 1}
		s.samples[f.Run] = x
	}
	x.add(f.Addr)
}

// Weigh takes what was rolled back off the live bytes of a survey that is complete. It
// reads frames of runs that it has not met before; of what cannot be read the next
// survey is told. REQUIRES: no lock is held.
func (c *Cache) Weigh(ctx context.Context, s *Survey) {
	w := c.getWorker()
	defer c.putWorker(w)
	c.undone.prune(c.space)
	for run, x := range s.samples {
		if ctx.Err() != nil {
			break
		}
		if share, ok := c.undoneShare(run, x, &w.sc); ok {
			c.undone.set(run, share)
		}
	}
	s.samples = nil
	for run, r := range s.Runs {
		if share, _ := c.undone.get(run); share > 0 {
			gone := int64(float64(r.Live) * share)
			r.Live -= gone
			s.Live -= gone
			s.Runs[run] = r
		}
	}
}

// undoneShare reads the frames of a sample.
func (c *Cache) undoneShare(run base.RunID, x *sample, sc *Scratch) (share float64, ok bool) {
	if !c.space.Acquire(run) {
		return 0, false
	}
	defer c.space.Release(run)
	defer sc.trim()
	dead, all := 0, 0
	for _, a := range x.at {
		if all > maxSampleBytes {
			break
		}
		b, err := c.space.ReadFrame(a, sc.frame[:0])
		if sc.frame = b; err != nil {
			return 0, false
		}
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return 0, false
		}
		for i := range fr.Len() {
			fr.Row(i, &sc.row)
			n := len(sc.row.Key) + len(sc.row.Value)
			all += n
			if x.owner.DeadEpoch(sc.row.Epoch) {
				dead += n
			}
		}
	}
	return float64(dead) / float64(max(all, 1)), true
}
