package txn

import (
	"context"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
)

// maxDead is how many dead intervals a commit record carries; more are logged
// before it in groups, as rows of table zero: epoch = from, leave = to. Then the
// record carries deadSpilled instead, an interval that no epoch reaches.
const maxDead = 512

var deadSpilled = base.EpochRange{From: ^base.Epoch(0), To: ^base.Epoch(0)}

// DeadSpilled reports whether the dead intervals of c are in its groups.
func DeadSpilled(c *seriallog.Commit) bool {
	return len(c.Dead) == 1 && c.Dead[0] == deadSpilled
}

// DeadRows returns the dead intervals among the rows of a group.
func DeadRows(body []byte) ([]base.EpochRange, error) {
	var out []base.EpochRange
	for len(body) > 0 {
		row, n, err := seriallog.DecodeRow(body)
		if err != nil {
			return nil, err
		}
		if row.Table == 0 {
			out = append(out, base.EpochRange{From: row.Epoch, To: base.Epoch(row.Leave)})
		}
		body = body[n:]
	}
	return out, nil
}

// spillDead logs the dead intervals if they are too many for the commit record.
func (tx *Tx) spillDead() (bool, error) {
	dead := tx.out.Dead()
	if len(dead) <= maxDead {
		return false, nil
	}
	var body []byte
	flush := func() error {
		cost := len(body) + seriallog.RecordOverhead()
		if err := tx.m.Log.Reserve(context.Background(), cost); err != nil {
			return err
		}
		start, err := tx.m.Log.AppendGroupPinned(tx.out.ID, body)
		if err != nil {
			tx.m.Log.Unreserve(cost)
			return err
		}
		tx.track(start, tx.m.Log.SegmentOf(start))
		body = body[:0]
		return nil
	}
	limit := min(tx.m.Log.MaxBody(), maxRedo) - 64
	for _, d := range dead {
		body = seriallog.AppendRow(body, &seriallog.Row{Epoch: d.From, Leave: base.Leave(d.To)})
		if len(body) > limit {
			if err := flush(); err != nil {
				return false, err
			}
		}
	}
	if len(body) == 0 {
		return true, nil
	}
	return true, flush()
}
