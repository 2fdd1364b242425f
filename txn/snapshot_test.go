package txn

import (
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// The horizon is exactly the timestamps of open snapshots and the clock (S1).
func TestHorizon(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s snapshots
		var open []*snapshot
		clock := uint64(1)
		s.clock.Store(clock)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 3).Draw(t, "op"); {
			case op == 0:
				clock += uint64(rapid.IntRange(1, 3).Draw(t, "commits"))
				s.clock.Store(clock)
			case op == 1 && len(open) > 0:
				i := rapid.IntRange(0, len(open)-1).Draw(t, "close")
				s.close(open[i])
				open = slices.Delete(open, i, i+1)
			default:
				sn := s.open()
				if sn.ts != base.CommitTS(clock) {
					t.Fatalf("a snapshot at %d, the clock says %d", sn.ts, clock)
				}
				open = append(open, sn)
			}
			want := versionchain.Horizon{base.CommitTS(clock)}
			for _, sn := range open {
				want = append(want, sn.ts)
			}
			slices.Sort(want)
			if want = slices.Compact(want); !slices.Equal(s.horizon(), want) {
				t.Fatalf("horizon %v, want %v", s.horizon(), want)
			}
		}
		for _, sn := range open {
			s.close(sn)
		}
		if h := s.horizon(); len(h) != 1 || s.head != nil || s.tail != nil {
			t.Fatalf("horizon %v when all are closed", h)
		}
	})
}

// Whoever takes the horizon misses nobody: a snapshot at or above its clock, or
// one that is in it.
func TestHorizonMissesNobody(t *testing.T) {
	var s snapshots
	s.clock.Store(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sn := s.open()
				h := s.horizon()
				if !slices.Contains(h, sn.ts) {
					t.Errorf("an open snapshot at %d is not in %v", sn.ts, h)
				}
				s.close(sn)
			}
		})
	}
	for range 20000 {
		s.clock.Add(1)
	}
	close(stop)
	wg.Wait()
}
