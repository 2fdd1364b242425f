package scavenger

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

// Config is what a Scavenger works on.
type Config struct {
	Arena   *arena.Arena
	Cache   *recordcache.Cache
	Horizon func() versionchain.Horizon
	// Failure returns the error that poisoned the store, or nil.
	Failure func() error
	// Holders says who holds record memory, for ErrRecordMemory. It may take long.
	Holders func() string
}

// Scavenger keeps record memory below its cap.
type Scavenger struct {
	Config
	high, low int64

	flag     atomic.Bool
	episodes atomic.Uint64
	moved    atomic.Uint64         // steps that freed memory
	still    atomic.Uint64         // rounds without patience that freed none
	unread   atomic.Pointer[error] // of a leaf that the last sweep passed over
	setFlag  atomic.Pointer[func(bool)]
	track    atomic.Pointer[func(base.TxnID, base.LSN, uint64)]
	stretch  atomic.Pointer[func(base.TxnID) []base.Epoch]
	unburden atomic.Pointer[func(bool) bool]

	// work is held shared by an episode or a merge, for Quiet; outermost.
	work sync.RWMutex

	mu      sync.Mutex // guards the fields below
	waiters []*waiter  // first come, first served (M7)
	merges  map[mergeKey]struct{}
	order   []mergeKey

	kick  chan struct{}
	merge chan struct{}
	// interrupted is closed when the store closes: nobody waits any more.
	interrupted chan struct{}
	stop        context.CancelFunc
	done        sync.WaitGroup
}

type waiter struct {
	need int
	ok   chan struct{}
}

type mergeKey struct {
	t   *recordcache.Table
	low string
}

// Thresholds of reserved bytes, in percent of the cap. The flag rises at
// highWater and falls at lowWater: hysteresis.
const (
	highWater = 90
	lowWater  = 76
	// maxMerges is how many merge requests are kept; more are asked for again.
	maxMerges = 4096
	// waitLimit is how long a transaction waits while nothing can be moved, and
	// stillRounds how many rounds must have shown that: a machine may be so slow
	// that one of them takes longer.
	waitLimit   = 10 * time.Second
	stillRounds = 3
)

// New returns a scavenger at rest; Start sets it going.
func New(c Config) *Scavenger {
	return &Scavenger{
		Config: c, high: c.Arena.Cap() / 100 * highWater, low: c.Arena.Cap() / 100 * lowWater,
		merges: make(map[mergeKey]struct{}), kick: make(chan struct{}, 1), merge: make(chan struct{}, 1),
		interrupted: make(chan struct{}),
	}
}

// Start begins the scavenger's goroutines. setFlag raises and lowers the flag of
// every active transaction, track notes log segments of what is chilled,
// stretches returns the live savepoints of a transaction, unburden takes what
// transactions keep in charged buffers, with true all of it, and reports
// whether there was any.
func (s *Scavenger) Start(setFlag func(bool), track func(base.TxnID, base.LSN, uint64),
	stretches func(base.TxnID) []base.Epoch, unburden func(all bool) bool,
) {
	s.unburden.Store(&unburden)
	s.setFlag.Store(&setFlag)
	s.track.Store(&track)
	s.stretch.Store(&stretches)
	s.Cache.OnStretches(stretches)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.done.Add(2)
	go s.run(ctx)
	go s.runMerges(ctx)
}

// Interrupt ends all waits, now and later, with ErrClosed. Call it once.
func (s *Scavenger) Interrupt() { close(s.interrupted) }

// Close ends the goroutines.
func (s *Scavenger) Close() {
	if s.stop != nil {
		s.stop()
	}
	s.done.Wait()
}

// LowMemory reports whether the flag is up.
func (s *Scavenger) LowMemory() bool { return s.flag.Load() }

// Episodes returns how often the flag has risen.
func (s *Scavenger) Episodes() uint64 { return s.episodes.Load() }

// RequestMerge asks for a merge of the leaf at low; it never blocks.
func (s *Scavenger) RequestMerge(t *recordcache.Table, low []byte) {
	k := mergeKey{t, string(low)}
	s.mu.Lock()
	if _, ok := s.merges[k]; !ok && len(s.order) < maxMerges {
		s.merges[k] = struct{}{}
		s.order = append(s.order, k)
	}
	s.mu.Unlock()
	poke(s.merge)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run waits for pressure and relieves it.
func (s *Scavenger) run(ctx context.Context) {
	defer s.done.Done()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	hand := s.newHand()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-tick.C:
		}
		if s.Arena.Reserved() > s.high || s.waiting() {
			s.work.RLock()
			s.episode(ctx, hand)
			s.work.RUnlock()
		}
		if s.Arena.Touched()+s.Arena.Charged() > s.Arena.Cap() {
			s.Arena.Trim() // charges have taken the place of blocks: give their pages back
		}
	}
}

// Quiet calls fn while the scavenger's goroutines are between two pieces of work,
// and keeps them there; it reports false, without calling, when they are not. fn
// must be short and need no record memory.
func (s *Scavenger) Quiet(fn func()) bool {
	if !s.work.TryLock() {
		return false
	}
	defer s.work.Unlock()
	fn()
	return true
}

// Waiters returns how many transactions wait for record memory.
func (s *Scavenger) Waiters() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiters)
}

func (s *Scavenger) waiting() bool { return s.Waiters() > 0 }

// first returns the waiter whose turn is next, nil when nobody waits.
func (s *Scavenger) first() *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiters) == 0 {
		return nil
	}
	return s.waiters[0]
}

// episode is one spell of low memory, step by step (§4): load-based scavenge;
// the flag; chill and backlog until reserved bytes pass the low-water mark.
func (s *Scavenger) episode(ctx context.Context, h *hand) {
	enough := s.scavenge(ctx, h)
	s.serve()
	if enough && !s.waiting() {
		return
	}
	s.raise()
	defer s.lower()
	idle := 0
	for s.Arena.Reserved() > s.low || s.waiting() {
		if ctx.Err() != nil || s.Failure() != nil {
			s.serve()
			return
		}
		first := s.first()
		moved, err := h.sweep(ctx, idle)
		if err != nil {
			return
		}
		if idle > 0 && (s.Arena.Reserved() > s.low || s.waiting()) {
			if (*s.unburden.Load())(idle > 1) {
				moved = true
				s.moved.Add(1)
			}
		}
		s.serve()
		if moved && (first == nil || first != s.first()) {
			idle = 0
			continue
		}
		// Nothing moved, or not what the first in line needs: less patience.
		if idle++; idle > 3 && !moved {
			s.still.Add(1)
			// Nothing moves: what is left is pinned or on its way. Let it go by.
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			if idle > 10 && !s.waiting() {
				return
			}
		}
	}
}

// scavenge prunes and retires; it reports whether that was enough. What is read
// all the time stays as long as garbage and slack can go instead.
func (s *Scavenger) scavenge(ctx context.Context, h *hand) bool {
	return s.tidy(ctx, h) || s.prune(ctx, h)
}

// tidy takes garbage and slack from warm leaves. It is content with half of the
// way to the low-water mark, and gives up where a sample shows that not even that
// can be had.
func (s *Scavenger) tidy(ctx context.Context, h *hand) bool {
	rq := recordcache.Request{Action: recordcache.Tidy, Horizon: s.Horizon()}
	enough := (s.high + s.low) / 2
	tried, gained, want := int64(0), int64(0), s.Arena.Reserved()-enough
	for n := int64(s.Cache.Leaves() + 1); tried < n; {
		batch := s.Cache.Tick(h.batch)
		if len(batch) == 0 {
			break
		}
		for _, l := range batch {
			tried++
			rep, err := s.Cache.Relieve(ctx, l, &rq)
			if err != nil {
				return false
			}
			gained += rep.Freed
		}
		s.serve() // somebody may have met fragments, far below the high-water mark
		if s.Arena.Reserved() <= enough && !s.waiting() {
			return true
		}
		if tried >= 256 && (gained < tried*256 || gained*n < want*tried) {
			return false
		}
	}
	return false
}

// prune prunes and retires cold leaves, and in the second half of its way others.
// It gives up early where a sample shows that there is little to gain.
func (s *Scavenger) prune(ctx context.Context, h *hand) bool {
	rq := recordcache.Request{Action: recordcache.Prune, Horizon: s.Horizon()}
	visited, gained := 0, int64(0)
	for n := s.Cache.Leaves() + 1; visited < n; {
		batch := s.Cache.Tick(h.batch)
		if len(batch) == 0 {
			break
		}
		for _, l := range batch {
			visited++
			cold, resident := l.Cold()
			if resident == 0 {
				if cold && h.crowded() {
					s.Cache.Collapse(l)
				}
				continue
			}
			if !cold && visited*2 < n {
				continue
			}
			rep, err := s.Cache.Relieve(ctx, l, &rq)
			if err != nil {
				return false
			}
			gained += rep.Freed
		}
		if s.Arena.Reserved() <= s.low {
			return true
		}
		if visited >= 256 && gained < int64(visited)*256 {
			return false
		}
	}
	return s.Arena.Reserved() <= s.low
}

func (s *Scavenger) raise() {
	s.flag.Store(true)
	s.episodes.Add(1)
	(*s.setFlag.Load())(true)
}

// lower takes the flag down. It is not conditional on anything: the one way out
// of an episode (hazard 7).
func (s *Scavenger) lower() {
	s.flag.Store(false)
	(*s.setFlag.Load())(false)
}

// serve lets waiters go on, in order, as long as what they need can be had in one
// piece: bytes alone are not enough where memory is in fragments.
func (s *Scavenger) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tried [][]byte
	for len(s.waiters) > 0 {
		w := s.waiters[0]
		if s.Failure() == nil {
			b := s.Arena.Alloc(min(w.need, recordcache.MaxBlock))
			if b == nil {
				break
			}
			if rest := int64(w.need - len(b)); rest > 0 && s.Arena.Reserved()+rest > s.Arena.Cap() {
				s.Arena.Free(b)
				break
			}
			tried = append(tried, b)
		}
		s.waiters = s.waiters[1:]
		close(w.ok)
	}
	for _, b := range tried {
		s.Arena.Free(b)
	}
}

// Wait waits until need bytes of record memory may be had, helping meanwhile.
// ErrRecordMemory, naming what holds memory, when nothing could be moved for
// waitLimit, or need is more than there is. REQUIRES: no lock is held.
func (s *Scavenger) Wait(ctx context.Context, need int) error {
	if most := s.Arena.Cap(); int64(need) > most {
		return fmt.Errorf("%w: %d bytes are needed in one step, %d can be had", base.ErrRecordMemory, need, most)
	}
	w := &waiter{need: max(1, need), ok: make(chan struct{})} // no block is of no bytes
	s.mu.Lock()
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	poke(s.kick)
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	moved, still := s.moved.Load(), s.still.Load()
	for {
		select {
		case <-w.ok:
			return s.Failure()
		case <-ctx.Done():
			s.forget(w)
			return ctx.Err()
		case <-s.interrupted:
			s.forget(w)
			return base.ErrClosed
		case <-limit.C:
			if now := s.moved.Load(); now != moved || s.still.Load()-still < stillRounds {
				moved, still = now, s.still.Load()
				limit.Reset(waitLimit)
				continue
			}
			s.forget(w)
			select {
			case <-w.ok:
				return nil
			default:
			}
			return s.nothing()
		}
	}
}

// nothing is what whoever has waited in vain is told.
func (s *Scavenger) nothing() error {
	err := fmt.Errorf("%w: %d of %d bytes reserved, %d of them charged; nothing can be moved: %s",
		base.ErrRecordMemory, s.Arena.Reserved(), s.Arena.Cap(), s.Arena.Charged(), s.Holders())
	if p := s.unread.Load(); p != nil && *p != nil {
		return fmt.Errorf("%w; what could not be read: %w", err, *p)
	}
	return err
}

func (s *Scavenger) forget(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.waiters {
		if x == w {
			s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
			return
		}
	}
}

// Help backlogs up to n cold leaves in the caller's own time, while the flag is
// up. A leaf that cannot be read is not the caller's business. REQUIRES: no lock is
// held.
func (s *Scavenger) Help(ctx context.Context, n int) error {
	rq := recordcache.Request{Action: recordcache.Backlog, Horizon: s.Horizon()}
	batch := make([]*recordcache.Leaf, 0, 1)
	for tries := 0; n > 0 && tries < 16 && s.flag.Load() && s.Arena.Reserved() > s.high; tries++ {
		for _, l := range s.Cache.Tick(batch) {
			if cold, resident := l.Cold(); !cold || resident == 0 {
				continue
			}
			if _, err := s.Cache.Relieve(ctx, l, &rq); err != nil {
				if err := s.over(ctx); err != nil {
					return err
				}
				continue
			}
			n--
		}
	}
	return nil
}

// runMerges does the merges that were asked for, one at a time.
func (s *Scavenger) runMerges(ctx context.Context) {
	defer s.done.Done()
	for {
		s.mu.Lock()
		var k mergeKey
		ok := len(s.order) > 0
		if ok {
			k = s.order[0]
			s.order = s.order[1:]
			delete(s.merges, k)
		}
		s.mu.Unlock()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-s.merge:
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		// A merge that fails leaves everything as it was.
		s.work.RLock()
		_ = s.Cache.Merge(ctx, k.t, []byte(k.low), *s.stretch.Load())
		s.work.RUnlock()
		runtime.Gosched()
	}
}
