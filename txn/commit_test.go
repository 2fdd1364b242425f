package txn

import (
	"errors"
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// L7: no timestamp is handed out that is not within reach of a durable one, which
// a sync, or a publication behind one, moves on.
func TestTimestampsKeepUpWithTheLog(t *testing.T) {
	c := committer{ahead: 4}
	var snaps snapshots
	syncs := 0
	sync := func(base.LSN) error { syncs++; return nil }
	for i := range 20 {
		p := &pending{durable: false}
		end := base.LSN(100 * (i + 1))
		if err := c.enqueue(p, recorderFunc(func(base.CommitTS) (base.LSN, error) { return end, nil }), sync); err != nil {
			t.Fatal(err)
		}
		if c.last-c.safe > c.ahead {
			t.Fatalf("timestamp %d was handed out, %d is durable", c.last, c.safe)
		}
		synced := base.LSN(0)
		if i >= 8 {
			synced = end // whoever published it saw that somebody had synced
		}
		c.publishLocked(synced, &snaps)
	}
	if syncs != 2 {
		t.Errorf("%d syncs, want 2: of the fifth commit and of the ninth", syncs)
	}
	c.safe = 0
	broken := errors.New("broken")
	err := c.enqueue(&pending{}, recorderFunc(func(base.CommitTS) (base.LSN, error) { panic("appended") }),
		func(base.LSN) error { return broken })
	if !errors.Is(err, broken) || c.last != 20 {
		t.Errorf("a failed sync: %v, last %d", err, c.last)
	}
}

// A durable commit is published only when its record is synced; a NoSync commit
// behind it waits for it, one before it does not (L1, L2).
func TestPublishedInOrderAndSynced(t *testing.T) {
	c := committer{ahead: ClockGap}
	var snaps snapshots
	var outs []*versionchain.Outcome
	for i, durable := range []bool{false, true, false} {
		o := versionchain.NewOutcome(base.TxnID(i + 1))
		o.Prepare(false)
		p := &pending{out: o, durable: durable}
		end := base.LSN(100 * (i + 1))
		if err := c.enqueue(p, recorderFunc(func(base.CommitTS) (base.LSN, error) { return end, nil }), nil); err != nil {
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
