package txn

import (
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A durable commit is published only when its record is synced; a NoSync commit
// behind it waits for it, one before it does not (L1, L2).
func TestPublishedInOrderAndSynced(t *testing.T) {
	var c committer
	var snaps snapshots
	var outs []*versionchain.Outcome
	for i, durable := range []bool{false, true, false} {
		o := versionchain.NewOutcome(base.TxnID(i + 1))
		o.Prepare(false)
		p := &pending{out: o, durable: durable}
		end := base.LSN(100 * (i + 1))
		if err := c.enqueue(p, recorderFunc(func(base.CommitTS) (base.LSN, error) { return end, nil })); err != nil {
			t.Fatal(err)
		}
		outs = append(outs, o)
	}
	for _, step := range []struct {
		synced    base.LSN
		published int
	}{{0, 1}, {199, 1}, {200, 3}} {
		c.publishLocked(step.synced, &snaps)
		for i, o := range outs {
			want := versionchain.Committing
			if i < step.published {
				want = versionchain.Committed
			}
			if st, ts := o.Status(); st != want || ts != base.CommitTS(i+1) {
				t.Errorf("synced to %d: commit %d is %v at %d", step.synced, i+1, st, ts)
			}
		}
		pos, clock := c.published(&snaps)
		if clock != base.CommitTS(step.published) || pos != base.LSN(100*step.published) {
			t.Errorf("synced to %d: the clock is %d at %d", step.synced, clock, pos)
		}
	}
}
