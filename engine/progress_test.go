package engine

import (
	"testing"
	"time"
)

// A long recovery tells how far it has come, by work done and in order; a short one
// says nothing until it has ended.
func TestRecoveryTellsProgress(t *testing.T) {
	o := crashOptions(t)
	o.LogSegmentSize, o.LogLimit = 4<<20, 256<<20 // no checkpoint of its own
	o.MapMemTable = 16 << 20                      // no flush of its own
	o.SyncInterval = time.Hour
	db := mustOpen(t, o)
	tb, frames := mustTable(t, db, "t"), mustTable(t, db, "frames")
	large := mustBegin(t, db, TxOptions{NoSync: true})
	fillRows(t, large, frames, 0, progressFrames+100, 8300) // each row a frame
	commit(t, large)
	const txns, rows, size = 20, 250, 8000 // 40 MB
	for i := range txns {
		tx := mustBegin(t, db, TxOptions{NoSync: true})
		fillRows(t, tx, tb, i*rows, (i+1)*rows, size)
		commit(t, tx)
	}
	check(t, db.Sync())

	c := crashed(o, 0)
	var told []RecoveryProgress
	var info RecoveryInfo
	c.Events = &EventListener{
		Recovering: func(p RecoveryProgress) { told = append(told, p) },
		Recovered:  func(i RecoveryInfo) { info = i },
	}
	db2 := mustOpen(t, c)
	calls := map[RecoveryPhase]int{}
	var last RecoveryProgress
	for _, p := range told {
		t.Logf("%+v", p)
		calls[p.Phase]++
		switch {
		case p.Phase < last.Phase || p.Rows < last.Rows || p.Frames < last.Frames || p.Transactions < last.Transactions || p.Runs < last.Runs,
			p.Phase == last.Phase && p.Phase != RecoveryFrames && p.LogBytes < last.LogBytes+progressBytes:
			t.Errorf("%+v after %+v", p, last)
		case p.Phase == RecoveryRows && (p.LogTotal < txns*rows*size || p.LogBytes > p.LogTotal):
			t.Errorf("%d of %d bytes", p.LogBytes, p.LogTotal)
		case p.Phase > RecoverySurvey && (p.RunsTotal == 0 || p.Runs > p.RunsTotal):
			t.Errorf("%d of %d runs", p.Runs, p.RunsTotal)
		}
		last = p
	}
	if calls[RecoverySurvey] != 2 || calls[RecoveryIntervals] != 0 || calls[RecoveryFrames] != 1 || calls[RecoveryRows] != 2 {
		t.Errorf("told %v times", calls)
	}
	if last.Rows == 0 || last.Rows > info.Rows || last.Frames != info.Frames || last.Transactions != info.Transactions || last.Runs != last.RunsTotal {
		t.Errorf("at last %+v, in the end %+v", last, info)
	}
	inView(t, db2, func(tx *Tx) { wantRows(t, tx, mustTable(t, db2, "t"), 0, txns*rows, size) })

	told = nil
	mustClose(t, reopen(t, db2, c)) // nothing to do
	if len(told) > 0 {
		t.Errorf("a short recovery told %+v", told)
	}
	mustClose(t, db)
}
