package tablespace

import (
	"context"

	"github.com/sakerdb/saker/internal/base"
)

// EditTx is one edit of the leaf map being built. Exactly one exists at a time,
// between BeginEdit and End; what happens in between must be short and must not
// wait for anything (M7).
type EditTx struct {
	s        *Space
	seq      base.EditSeq
	needSync bool
	mapped   bool // it changes what lookups see
	extra    int  // places that its entries take beyond the one reserved
}

// placeFrames is how many frames of an entry a place in the queue stands for: the
// entry is queued with all of them. Who puts a longer one takes more places, by
// force, since it holds locks; those who come after it wait.
const placeFrames = 8

type opKind uint8

const (
	opEntry       opKind = iota // put or delete pending
	opRef                       // delta list entries of run
	opAdd                       // a frame was added to run
	opSet                       // key = val
	opUnset                     // delete key
	opEndRecovery               // from here on the surviving prefix advances
)

// op is one step of an edit, in the queue.
type op struct {
	kind    opKind
	delta   int32
	run     *Run
	pending *pendingEntry
	key     []byte
	val     []byte
}

// queued is one edit in the queue.
type queued struct {
	seq      base.EditSeq
	ops      int // its ops end here
	places   int // in the queue
	needSync bool
}

// ReserveEdits waits for room for n edits in the queue. REQUIRES: no lock is
// held (M7).
func (s *Space) ReserveEdits(ctx context.Context, n int) error {
	if err := s.p.get(); err != nil {
		return err
	}
	return s.room.acquire(ctx, int64(n))
}

// UnreserveEdits gives back room that was reserved and not used.
func (s *Space) UnreserveEdits(n int) { s.room.release(int64(n)) }

// BeginEdit numbers a new edit and locks the queue until End. It uses up one
// place that was reserved with ReserveEdits.
func (s *Space) BeginEdit() *EditTx {
	s.q.mu.Lock()
	s.q.seq++
	s.q.tx = EditTx{s: s, seq: s.q.seq}
	return &s.q.tx
}

// Seq returns the number of the edit.
func (e *EditTx) Seq() base.EditSeq { return e.seq }

func (e *EditTx) push(o op) { e.s.q.ops = append(e.s.q.ops, o) }

// AddFrame copies a frame to the end of run r, for which buffer room was
// reserved, and returns where it is. The frame's checksum is filled in when it
// is written. It lists the frame in r's index, not in the map.
func (e *EditTx) AddFrame(r *Run, frame []byte, table base.TableID, owner base.TxnID) Addr {
	e.push(op{kind: opAdd, run: r})
	return r.add(frame, IndexEntry{Table: table, Owner: owner, Seq: e.seq})
}

// Put sets the entry at en.Low, and its Seq to that of the edit. The slices in
// en belong to the space from now on.
func (e *EditTx) Put(table base.TableID, en Entry) {
	en.Seq = e.seq
	en.held = nil
	e.extra += len(en.Frames) / placeFrames
	e.pend(&pendingEntry{table: table, low: en.Low, en: en})
}

// Delete removes the entry at low, whose slice belongs to the space from now on.
func (e *EditTx) Delete(table base.TableID, low []byte) {
	e.pend(&pendingEntry{table: table, low: low, deleted: true})
}

func (e *EditTx) pend(p *pendingEntry) {
	e.mapped = true
	e.s.q.tree.ReplaceOrInsert(p)
	e.push(op{kind: opEntry, pending: p})
}

// Refs says how many list entries the run gains or loses by the edit.
func (e *EditTx) Refs(run base.RunID, delta int) {
	r := e.s.known(run)
	if r == nil {
		r = e.s.adopt(run)
	}
	r.listed.Add(int64(delta))
	r.named.Store(true)
	e.push(op{kind: opRef, run: r, delta: int32(delta)})
}

// NeedSync says that the edit lists new committed frames: it is applied only
// when the runs added to in it are synced and SyncLog has returned. Without it
// an edit may survive a crash that its frames do not, which is harmless while
// their owner is undecided (L10).
func (e *EditTx) NeedSync() { e.needSync = true }

// PutOutcome stores the outcome of a transaction.
func (e *EditTx) PutOutcome(txn base.TxnID, ts base.CommitTS, dead []base.EpochRange, runs []base.RunID) {
	key := key8(keyOutcome, uint64(txn))
	e.push(op{kind: opSet, key: key, val: appendOutcome(nil, key, &Outcome{Txn: txn, TS: ts, Dead: dead, Runs: runs})})
}

// DeleteOutcome forgets the outcome of a transaction.
func (e *EditTx) DeleteOutcome(txn base.TxnID) {
	e.push(op{kind: opUnset, key: key8(keyOutcome, uint64(txn))})
}

// PutTable stores a table of the catalog; name and meta are copied.
func (e *EditTx) PutTable(id base.TableID, name string, meta []byte) {
	key := tableKey(id)
	e.push(op{kind: opSet, key: key, val: appendTable(nil, key, &TableRow{ID: id, Name: name, Meta: meta})})
}

// DeleteTable removes a table from the catalog, not its entries in the map.
func (e *EditTx) DeleteTable(id base.TableID) {
	e.push(op{kind: opUnset, key: tableKey(id)})
}

// SetCheckpoint stores the checkpoint position and the clock that it stands for.
func (e *EditTx) SetCheckpoint(pos base.LSN, ts base.CommitTS) {
	key := []byte{keyCheckpoint}
	e.push(op{kind: opSet, key: key, val: appendUints(nil, key, uint64(pos), uint64(ts))})
}

// SetMeta stores a named value; nil removes it.
func (e *EditTx) SetMeta(name string, val []byte) {
	key := append([]byte{keyMeta}, name...)
	if val == nil {
		e.push(op{kind: opUnset, key: key})
		return
	}
	e.push(op{kind: opSet, key: key, val: appendMeta(nil, key, val)})
}

// EndRecovery says that everything that recovery re-adds is in this edit or
// before it. Until then Loaded.LastSeq stays what the last life of the store
// left, so that a crash during recovery does not count re-added frames as
// survived. Every opening must do it once.
func (e *EditTx) EndRecovery() { e.push(op{kind: opEndRecovery}) }

// End puts the edit into the queue, as one atomic step for lookups and for the
// disk, and unlocks the queue.
func (e *EditTx) End() base.EditSeq {
	s, seq := e.s, e.seq
	if e.mapped && s.q.snap.Load() != nil {
		s.q.snap.Store(nil)
	}
	if s.o.ReadOnly || s.p.get() != nil {
		// Nothing is applied any more: what lookups see stays in the overlay.
		clear(s.q.ops)
		s.q.ops = s.q.ops[:0]
		s.q.mu.Unlock()
		s.room.release(1)
		return seq
	}
	s.room.force(int64(e.extra))
	s.q.edits = append(s.q.edits, queued{seq: seq, ops: len(s.q.ops), places: 1 + e.extra, needSync: e.needSync})
	wake := s.q.idle
	s.q.mu.Unlock()
	if wake {
		s.q.work.Signal()
	}
	return seq
}

// LastSeq returns the number of the last edit begun.
func (s *Space) LastSeq() base.EditSeq {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.q.seq
}
