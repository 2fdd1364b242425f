package engine

import (
	"fmt"
	"testing"
)

// Savepoints nested ten thousand deep (S6): a savepoint alone takes some bytes of the
// Go heap and no record memory (M5); each level can be rolled back to, more than once;
// a level that is gone says so; releasing one merges all that are inside it.
func TestNestedSavepoints(t *testing.T) {
	eachMove(t, func(s *story) {
		const deep, every = 10_000, 100 // a write each hundred levels
		s.seed("k", "0", "l", "0", "m", "0")
		tx := s.begin()
		put(s, tx, s.tb, "k", "1")
		heap, used := liveHeap(s), s.db.arena.Reserved()
		var sps []Savepoint
		for range deep {
			sps = append(sps, s.savepoint(tx))
		}
		s.move()
		if now := liveHeap(s); now > heap+2<<20 {
			s.Errorf("%d savepoints take %d KiB of heap", deep, (now-heap)>>10)
		}
		if now := s.db.arena.Reserved(); now > used+64<<10 {
			s.Errorf("%d savepoints take %d KiB of record memory", deep, (now-used)>>10)
		}
		s.rollbackTo(tx, sps[0])
		wantErr(s, "rollback to a level that is gone", tx.RollbackTo(sps[1]), ErrSavepointNotFound)
		sps = sps[:1]
		at := func(n int) { // what level n has, in whichever of the rows
			s.Helper()
			k := "1"
			if n > 0 {
				k = fmt.Sprint("level", n-n%every)
			}
			s.want(tx, "k", k, "l", fmt.Sprint(max(0, n-n%every)), "m", "0")
		}
		for n := 1; n <= deep; n++ {
			sps = append(sps, s.savepoint(tx))
			if n%every == 0 {
				put(s, tx, s.tb, "k", fmt.Sprint("level", n))
				put(s, tx, s.tb, "l", fmt.Sprint(n))
			}
			if n%(deep/7) == 0 {
				s.move()
			}
		}
		for _, n := range []int{9999, 9901, 9900, 9899, 5050, 5050} {
			s.rollbackTo(tx, sps[n+1])
			put(s, tx, s.tb, "m", "undone")
			del(s, tx, s.tb, "k")
			s.move()
			s.rollbackTo(tx, sps[n+1])
			at(n)
		}
		check(s, tx.Release(sps[1]))
		at(5050)
		s.move()
		put(s, tx, s.tb, "k", "after")
		put(s, tx, s.tb, "l", "after")
		s.want(tx, "k", "after", "l", "after", "m", "0")
		s.rollbackTo(tx, sps[0])
		s.want(tx, "k", "1", "l", "0", "m", "0")
		commit(s, tx)
		s.wantCommitted("k", "1", "l", "0", "m", "0")
	})
}
