package scavenger

import (
	"context"
	"runtime"

	"github.com/sakerdb/saker/recordcache"
)

// hand is the scavenger's place in the ring of leaves.
type hand struct {
	s     *Scavenger
	batch []*recordcache.Leaf

	// Of the leaves met since the last reckoning, those with resident bytes, and
	// those bytes; mean is what one had on average before.
	met, bytes, mean int
}

func (s *Scavenger) newHand() *hand {
	return &hand{s: s, batch: make([]*recordcache.Leaf, 0, 16)}
}

// sweep moves the hand once around at most, until reserved bytes pass the
// low-water mark, and reports whether anything was freed. At patience zero it takes
// cold leaves only, and of them those with at least the average of resident bytes:
// a frame, its place in a list and its share of a merge cost the same whatever is
// in it. Later everything is taken that can be: small transactions' rows are
// chilled where a frame is not worth it, and framed when even that was not enough.
// A leaf whose chilled rows cannot be read back is passed over.
func (h *hand) sweep(ctx context.Context, patience int) (moved bool, err error) {
	s := h.s
	rq := recordcache.Request{Action: recordcache.Backlog, Horizon: s.Horizon()}
	if patience > 1 {
		rq.Action, rq.Patient = recordcache.BacklogAll, true
	}
	if h.met > 0 {
		h.mean = h.bytes / h.met
	}
	h.met, h.bytes = 0, 0
	var unread error
	defer func() { s.unread.Store(&unread) }()
	for visited, n := 0, s.Cache.Leaves()+1; visited < n; {
		batch := s.Cache.Tick(h.batch)
		if len(batch) == 0 {
			return moved, nil
		}
		rq.Horizon = s.Horizon()
		for _, l := range batch {
			visited++
			freed, err := h.take(ctx, l, &rq, patience)
			if err != nil {
				if err := s.over(ctx); err != nil {
					return moved, err
				}
				unread = err // the others may be all that is needed
			}
			if freed {
				moved = true
				s.moved.Add(1)
			}
			if s.Arena.Reserved() <= s.low && !s.waiting() {
				return true, nil
			}
			if freed {
				runtime.Gosched() // whoever waited for this leaf goes first
			}
		}
		s.serve()
	}
	return moved, nil
}

// over returns why there is no going on after a leaf that failed, or nil.
func (s *Scavenger) over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Failure()
}

// take relieves one leaf.
func (h *hand) take(ctx context.Context, l *recordcache.Leaf, rq *recordcache.Request, patience int) (bool, error) {
	s := h.s
	cold, resident := l.Cold()
	if resident == 0 {
		return (patience > 0 || cold && h.crowded()) && s.Cache.Collapse(l), nil
	}
	h.met++
	h.bytes += resident
	if patience == 0 && (!cold || resident < h.mean) {
		return false, nil
	}
	rep, err := s.Cache.Relieve(ctx, l, rq)
	if err != nil {
		return false, err
	}
	freed := rep.Freed > 0
	if rep.Rows > 0 && s.Arena.Reserved() > s.high && h.crowded() {
		freed = s.Cache.Collapse(l) || freed // its list takes memory, too
	}
	if rep.Few > 0 && rq.Action == recordcache.Backlog {
		n, err := s.Cache.Chill(ctx, l, *s.track.Load())
		if err != nil {
			return freed, err
		}
		freed = freed || n > 0
	}
	return freed, nil
}

// crowded reports whether descriptors and lists take so much of record memory that
// leaves without rows should go, too. Below that they stay: what is written all
// over a table comes back to every leaf, and to bring one back costs a look-up in
// the leaf map.
func (h *hand) crowded() bool { return h.s.Arena.Charged() > h.s.Arena.Cap()/2 }
