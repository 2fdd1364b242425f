package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/seriallog"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/txn"
	"github.com/sakerdb/saker/versionchain"
)

type txnEdit = *tablespace.EditTx

// recovery is the state of one replay. It knows by name only the transactions
// whose rows are not all in their commit record.
type recovery struct {
	db   *DB
	from base.LSN
	last base.CommitTS
	long map[base.TxnID]*longTxn
	segs map[uint64]struct{} // older segments with groups of committed transactions
	info RecoveryInfo
	w    recordcache.Writer

	pendingRuns []pendingRuns
	catalog     []func(txnEdit) // changes that the log has; edits when all of it is synced
	// pins are segments that replayed commits need until the first checkpoint.
	pins []uint64
	// spilled: some transaction logged its dead intervals as rows of groups.
	spilled bool

	at       RecoveryProgress // but for what info counts
	tellAt   int64            // of at.LogBytes: when to tell next
	surveyed int64            // bytes of log records that the survey has read
}

type longTxn struct {
	out *versionchain.Outcome
	ts  base.CommitTS
}

// recover brings the store to the state of the last commit record in the log:
//
//  1. the catalog and the outcomes that the leaf map knows
//  2. a pass over the log after the checkpoint position for commit records of
//     long transactions and changes of the catalog
//  3. frames that those commit records name and whose edits did not survive
//  4. a pass that applies rows, those of older segments first
//  5. only then files that nothing names are collected
//
// Nothing is written that a second recovery would not write again, so a crash
// at any point of it does no harm.
func (db *DB) recover() (base.CommitTS, base.LSN, error) {
	start := time.Now()
	r := &recovery{db: db, long: map[base.TxnID]*longTxn{}, segs: map[uint64]struct{}{}}
	loaded := db.space.Loaded()
	r.from, r.last = loaded.Checkpoint, loaded.CheckpointTS
	r.w.Reg = db.reg
	db.cache.SetCheckpoint(loaded.CheckpointTS)
	r.loadMap(loaded)
	db.snaps.Recovering(base.MaxTS - 1)
	r.phase(RecoverySurvey, 0)
	err := db.log.Replay(r.from, r.counted(r.survey))
	r.surveyed = r.at.LogBytes
	if err == nil {
		err = r.checkLog(loaded)
	}
	if err == nil {
		err = db.syncReplayed()
	}
	db.replayed.err = err
	close(db.replayed.done)
	if err != nil {
		return 0, 0, err
	}
	if err := r.checkRuns(loaded); err != nil {
		return 0, 0, err
	}
	if err := r.editCatalog(); err != nil {
		return 0, 0, err
	}
	if err := r.gatherDead(); err != nil {
		return 0, 0, err
	}
	if err := r.readdFrames(loaded.LastSeq); err != nil {
		return 0, 0, err
	}
	db.cache.Replaying(true)
	err = r.replay()
	db.cache.Replaying(false)
	if err != nil {
		return 0, 0, err
	}
	db.recoveredPins = r.pins
	if err := db.log.StartWriting(); err != nil {
		return 0, 0, err
	}
	if err := r.finish(loaded); err != nil {
		return 0, 0, err
	}
	r.info.Duration = time.Since(start)
	db.recovered(r.info)
	// Behind the last record there is nothing to replay. A position in the segment
	// that has just begun lets a checkpoint pass all segments before it (L5).
	return r.last, db.log.End(), nil
}

// checkLog makes sure that the log is not shorter than what the leaf map relies on,
// since no edit is applied before its commit record is on stable storage (L10): a
// lost file at the end of the log looks like a log that ends there.
func (r *recovery) checkLog(l *tablespace.Loaded) error {
	why := ""
	if l.LastSeq > 0 && len(r.db.log.Files()) == 0 {
		why = "no segment is there, but a leaf map is"
	}
	for i := range l.Outcomes {
		if o := &l.Outcomes[i]; o.TS > r.last {
			why = fmt.Sprintf("it ends at timestamp %d, but %v was committed at %d", r.last, o.Txn, o.TS)
		}
	}
	if why == "" {
		return nil
	}
	return &base.CorruptionError{File: logDir, Why: why}
}

// loadMap takes over what the leaf map knows.
func (r *recovery) loadMap(l *tablespace.Loaded) {
	db := r.db
	for _, o := range l.Outcomes {
		db.cache.AddOwner(versionchain.DecidedOutcome(o.Txn, o.TS, o.Dead), o.Runs)
	}
	for _, row := range l.Tables {
		t := db.addTable(row.ID, row.Name)
		if len(row.Meta) == 8 {
			t.NumberCeiling = binary.BigEndian.Uint64(row.Meta)
			t.Number = t.NumberCeiling
		}
	}
	if b := l.Meta[lastTable]; len(b) == 4 {
		db.nextTable = max(db.nextTable, base.TableID(binary.BigEndian.Uint32(b)))
	}
	for name := range l.Meta {
		if s, ok := strings.CutPrefix(name, "drop/"); ok {
			if id, err := strconv.ParseUint(s, 10, 32); err == nil {
				db.dropLater(base.TableID(id))
			}
		}
	}
}

func (db *DB) addTable(id base.TableID, name string) *Table {
	t := db.cache.AddTable(id, name)
	db.tables[name] = t
	db.nextTable = max(db.nextTable, id)
	return t
}

// dropLater removes the data of a table that was dropped before the crash.
func (db *DB) dropLater(id base.TableID) {
	t := db.cache.Table(id)
	if t == nil {
		t = db.cache.AddTable(id, "")
	}
	for name, x := range db.tables {
		if x == t {
			delete(db.tables, name)
		}
	}
	t.Dropped.Store(1)
	db.nextTable = max(db.nextTable, id)
	db.drops.add(t)
}

// survey is the first pass.
func (r *recovery) survey(rec seriallog.Record) error {
	switch rec.Type {
	case seriallog.TypeCommit:
		c := rec.Commit
		r.last = max(r.last, c.TS)
		r.info.Transactions++
		if c.FirstGroup == 0 && len(c.Runs) == 0 && len(c.Dead) == 0 {
			return nil
		}
		r.spilled = r.spilled || txn.DeadSpilled(c)
		o := versionchain.DecidedOutcome(c.Txn, c.TS, c.Dead)
		r.long[c.Txn] = &longTxn{out: o, ts: c.TS}
		for _, s := range c.Segments {
			r.segs[s] = struct{}{}
			if r.db.log.Pin(s) {
				r.pins = append(r.pins, s)
			}
		}
		if len(c.Runs) > 0 {
			stored := r.db.cache.KnowsOwner(c.Txn)
			r.db.cache.AddOwner(o, runsOf(c.Runs))
			r.pendingRuns = append(r.pendingRuns, pendingRuns{o: o, runs: c.Runs, stored: stored})
			r.at.RunsTotal += len(c.Runs)
		}
	case seriallog.TypeDDL:
		r.last = max(r.last, rec.DDL.TS)
		r.ddl(rec.DDL)
	default:
	}
	return nil
}

func runsOf(tails []seriallog.RunTail) []base.RunID {
	runs := make([]base.RunID, len(tails))
	for i := range tails {
		runs[i] = tails[i].Run
	}
	return runs
}

// checkRuns finds run files that are missing. Every file that could be needed is
// there, unless somebody removed it:
//
//   - what the map lists, by frames of no owner or of one that committed
//   - what a commit record names while the map has no outcome row of it: a run is
//     sealed, and may go, only behind the edit with that row (TempTable.Seal), which
//     recovery writes when all frames are listed again
//
// With the row, the map knows of everything that the run ever held; then a run
// that it does not list was replaced. The row is forgotten only when a durable
// checkpoint has passed the record.
func (r *recovery) checkRuns(l *tablespace.Loaded) error {
	space, cache := r.db.space, r.db.cache
	var found base.Findings
	note := func(id base.RunID) {
		if err := space.Missing(id); err != nil {
			found.Add(err)
		}
	}
	for i := range l.Runs {
		if run := &l.Runs[i]; run.Count > 0 && (run.Owner == 0 || cache.Committed(run.Owner)) {
			note(run.Run)
		}
	}
	for i := range r.pendingRuns {
		p := &r.pendingRuns[i]
		for _, rt := range p.runs {
			if !p.stored && rt.Tail > 0 {
				note(rt.Run)
			}
		}
	}
	return found.Err()
}

// gatherDead collects dead intervals that were too many for a commit record.
func (r *recovery) gatherDead() error {
	if !r.spilled {
		return nil
	}
	return r.groups(RecoveryIntervals, r.dead)
}

func (r *recovery) dead(rec seriallog.Record) error {
	lt := r.long[rec.Txn]
	if rec.Type != seriallog.TypeGroup || lt == nil {
		return nil
	}
	dead, err := txn.DeadRows(rec.Body)
	for _, d := range dead {
		lt.out.SetDead(lt.out.Dead().Add(d))
	}
	return err
}

func (r *recovery) edit(fn func(txnEdit)) error {
	if err := r.db.space.ReserveEdits(context.Background(), 1); err != nil {
		return err
	}
	e := r.db.space.BeginEdit()
	fn(e)
	e.End()
	return nil
}

// later notes a change of the catalog. While the log is read nothing may be edited:
// the queue has room for so many edits, and none is applied before the log that it
// relies on is read and synced.
func (r *recovery) later(fn func(txnEdit)) { r.catalog = append(r.catalog, fn) }

// editCatalog makes the edits noted, in the order of the log.
func (r *recovery) editCatalog() error {
	for _, fn := range r.catalog {
		if err := r.edit(func(e txnEdit) { fn(e); e.NeedSync() }); err != nil {
			return err
		}
	}
	r.catalog = nil
	return nil
}

func (r *recovery) ddl(d *seriallog.DDL) {
	db := r.db
	t := db.cache.Table(d.Table)
	switch d.Op {
	case seriallog.OpCreateTable:
		if t != nil {
			if t.Dropped.Load() == 0 {
				db.tables[t.Name] = t // a table of that name was dropped further up
			}
			return
		}
		db.addTable(d.Table, d.Name)
		r.later(func(e txnEdit) { putTable(e, d.Table, d.Name) })
	case seriallog.OpDropTable:
		if t != nil && t.Dropped.Load() != 0 {
			return
		}
		db.dropLater(d.Table)
		r.later(func(e txnEdit) {
			e.DeleteTable(d.Table)
			e.SetMeta(dropName(d.Table), []byte(d.Name))
		})
	case seriallog.OpCeiling:
		if t == nil || t.Dropped.Load() != 0 || d.Ceiling <= t.NumberCeiling {
			return
		}
		t.NumberCeiling, t.Number = d.Ceiling, d.Ceiling
		meta := binary.BigEndian.AppendUint64(nil, d.Ceiling)
		r.later(func(e txnEdit) { e.PutTable(t.ID, t.Name, meta) })
	default:
	}
}

// pendingRuns is what a commit record says about frames of its transaction.
type pendingRuns struct {
	o      *versionchain.Outcome
	runs   []seriallog.RunTail
	stored bool // the map has an outcome row of it
}

// readdFrames lists again the frames of committed transactions whose edits the
// map lost: edits survive as a prefix, so those after lastSeq (L11). Behind them
// goes the outcome row, see checkRuns.
func (r *recovery) readdFrames(lastSeq base.EditSeq) error {
	r.phase(RecoveryFrames, 0)
	for _, p := range r.pendingRuns {
		for _, rt := range p.runs {
			if err := r.readdRun(p.o, rt, lastSeq); err != nil {
				return err
			}
			r.at.Runs++
		}
		_, ts := p.o.Status()
		runs := runsOf(p.runs)
		err := r.edit(func(e txnEdit) {
			e.PutOutcome(p.o.ID, ts, p.o.Dead(), runs)
			e.NeedSync()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) readdRun(o *versionchain.Outcome, rt seriallog.RunTail, lastSeq base.EditSeq) error {
	db := r.db
	if !db.space.Acquire(rt.Run) {
		return nil // every frame of it was replaced, and that is durable
	}
	defer db.space.Release(rt.Run)
	var buf []byte
	return db.space.WalkIndex(rt.Run, rt.Tail, func(e tablespace.IndexEntry) (bool, error) {
		if e.Seq <= lastSeq {
			return false, nil
		}
		t := db.cache.Table(e.Table)
		if e.Owner != o.ID || t == nil || t.Dropped.Load() != 0 {
			return true, nil
		}
		b, err := db.space.ReadFrame(e.Addr, buf[:0])
		buf = b
		if err != nil {
			return false, err
		}
		fr, err := versionchain.ParseFrame(b)
		if err != nil {
			return false, err
		}
		err = r.patiently(func() error { return t.Readd(context.Background(), e.Addr, &fr, o) })
		r.listed()
		return true, err
	})
}

// patiently repeats fn while record memory is full.
func (r *recovery) patiently(fn func() error) error {
	for {
		err := fn()
		if !recordcache.IsNoMemory(err) {
			return err
		}
		if err := r.db.scav.Wait(context.Background(), max(16<<10, recordcache.NeedOf(err))); err != nil {
			return err
		}
	}
}

// replay is the second pass.
func (r *recovery) replay() error { return r.groups(RecoveryRows, r.apply) }

// groups replays the log after the checkpoint position, and before it the older
// segments that hold groups of transactions committed after it.
func (r *recovery) groups(p RecoveryPhase, fn func(seriallog.Record) error) error {
	segs := make([]uint64, 0, len(r.segs))
	for s := range r.segs {
		if s <= r.db.log.SegmentOf(r.from) {
			segs = append(segs, s)
		}
	}
	r.phase(p, r.surveyed+int64(len(segs))*r.db.log.SegmentSize())
	fn = r.counted(fn)
	if len(segs) > 0 && r.from > 0 {
		if err := r.db.log.ReplaySegments(segs, r.from, fn); err != nil {
			return err
		}
	}
	return r.db.log.Replay(r.from, fn)
}

func (r *recovery) apply(rec seriallog.Record) error {
	var lt *longTxn
	var ts base.CommitTS
	switch rec.Type {
	case seriallog.TypeGroup:
		if lt = r.long[rec.Txn]; lt == nil {
			return nil // never committed, or checkpointed
		}
		ts = lt.ts
	case seriallog.TypeCommit:
		if rec.Start < r.from {
			return nil // before the checkpoint position: not its business
		}
		ts = rec.Commit.TS
		lt = r.long[rec.Commit.Txn]
	default:
		return nil
	}
	for body := rec.Body; len(body) > 0; {
		row, n, err := seriallog.DecodeRow(body)
		if err != nil {
			return err
		}
		body = body[n:]
		if row.Table == 0 || (lt != nil && lt.out.DeadEpoch(row.Epoch)) {
			continue
		}
		t := r.db.cache.Table(row.Table)
		if t == nil || t.Dropped.Load() != 0 {
			continue
		}
		r.info.Rows++
		ord := base.Order{TS: ts, Epoch: row.Epoch, Leave: row.Leave}
		err = r.patiently(func() error { return t.Replay(&r.w, row.Key, row.Value, row.Kind, ord) })
		if err != nil {
			return err
		}
	}
	return nil
}

// finish collects what nothing names. Runs of owners without outcome go: their
// frames are known by their owner wherever the map still lists them.
func (r *recovery) finish(l *tablespace.Loaded) error {
	db := r.db
	if err := r.edit(func(e txnEdit) { e.EndRecovery() }); err != nil {
		return err
	}
	if l.LastSeq == 0 {
		// From now on the map on disk says that there was a log (checkLog).
		if _, err := db.space.Flush(); err != nil {
			return err
		}
	}
	for _, run := range l.Runs {
		if run.Owner != 0 && !db.cache.KnowsOwner(run.Owner) {
			if err := db.space.DropRun(run.Run); err != nil && !errors.Is(err, tablespace.ErrRunNotFound) {
				return err
			}
			r.info.FilesRemoved++
		}
	}
	n, err := db.space.CollectFiles(r.logged())
	r.info.FilesRemoved += n
	if err != nil {
		return err
	}
	return r.skip()
}

// skip leaves a gap between the last commit seen and the next one: timestamps of
// commits that a crash took back are not used again (L7). The committer hands out
// no more of them than that ahead of the log. The log says where the clock goes on;
// else what is lost before anything is synced would be lost from the same place
// the next time.
func (r *recovery) skip() error {
	db := r.db
	r.last += db.o.clockGap
	db.snaps.Recovering(r.last)
	if db.o.ReadOnly {
		return nil // hands out none
	}
	d := &seriallog.DDL{Op: seriallog.OpCeiling, TS: r.last} // of no table: its timestamp counts
	cost := seriallog.DDLCost(d)
	if err := db.log.Reserve(context.Background(), cost); err != nil {
		return err
	}
	end, err := db.log.AppendDDL(d)
	if err != nil {
		db.log.Unreserve(cost)
		return err
	}
	return db.log.Sync(end)
}

// logged returns whether a commit record behind the checkpoint names a run.
func (r *recovery) logged() func(base.RunID) bool {
	runs := map[base.RunID]struct{}{}
	for i := range r.pendingRuns {
		for _, rt := range r.pendingRuns[i].runs {
			runs[rt.Run] = struct{}{}
		}
	}
	return func(id base.RunID) bool { _, ok := runs[id]; return ok }
}
