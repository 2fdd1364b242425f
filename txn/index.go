package txn

import (
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/recordcache"
)

// A secondary index is a table of entries (base.AppendIndexKey), and who writes a
// row writes its entries in the same transaction:
//
//  1. the row is read, and both its values go through the index's function: what
//     only the old one has is erased, what only the new one has is put
//  2. a savepoint of the statement's own begins
//  3. entries of unique indexes are put as Insert does, then the row is written, then
//     the other entries
//  4. the savepoint is released or, if anything failed, rolled back to: the statement
//     takes effect as a whole or not at all, locks included (I2)
//
// Why the entries agree with the rows at every snapshot: a row and its entries have
// one timestamp, and an entry is changed only by who has the row's lock (I3), so that
// entries are written in the order in which the row is. The builder of an index
// (index_build.go) is the exception: it adds the entries of rows that it does not
// lock. It gives way to everybody: it works at the snapshot level, and everybody
// who takes an entry away leaves a tombstone, even if there was none to take (I4).
// Against entries the others do not work at the snapshot level, but on the newest
// version: the lock of the row has found all conflicts that there are, and an entry
// that the builder added after the snapshot is none. Keys of unique indexes are put
// at the snapshot level, since two rows may want the same.
//
// If the snapshot moves on within the statement, as at ReadCommitted, the row may have
// changed since it was read. Then the statement begins anew, with a lock of the row. So
// it does if the row is another's, whom it would wait for with keys of unique indexes
// in its hands: that one may want them for the very same row.
//
// With the savepoint released, what the statement wrote above own versions of the
// same stretch hides them, and the next write of the record drops them (S6): a
// million updates in one transaction take the memory of two.

// newest is a snapshot that sees everything published; of own versions it is below.
const newest = base.MaxTS - 1

// errMoved says that the row may have changed since the statement has read it, or is
// about to: the statement must lock it first.
var errMoved = errors.New("saker: the row is not as it was read")

// writeIndexed is write for a table with indexes, set, or with nil those that it has
// when the row is locked. REQUIRES: tx.mu is held, enterWrite has succeeded.
func (tx *Tx) writeIndexed(set []*recordcache.Index, t *recordcache.Table, m recordcache.Mode, key, value []byte) error {
	if tx.upkeep == nil {
		tx.upkeep = newUpkeep()
	}
	u := tx.upkeep
	u.busy = true
	err := errMoved
	if set != nil {
		err = tx.atomically(func() error { return tx.statement(u, set, t, m, key, value) })
	}
	if err == errMoved { //nolint:errorlint // nobody wraps it
		err = tx.atomically(func() error { return tx.statement(u, nil, t, m, key, value) })
	}
	if tx.alive() == nil { // else the state is not the transaction's any more
		u.forget()
	}
	return err
}

// atomically runs fn under a savepoint of its own, which it takes back if fn fails.
func (tx *Tx) atomically(fn func() error) error {
	writes := tx.writes
	mark, err := tx.push()
	if err != nil {
		return err
	}
	if tx.sp.Full() { // there would be no rollback
		tx.pop(mark.Start)
		return errEpochs
	}
	err = fn()
	if tx.alive() != nil {
		return err // ended meanwhile: everything was taken back
	}
	if err != nil && tx.writes != writes && !seeded.On(seeded.KeptStatement) {
		tx.undo(mark)
	}
	tx.pop(mark.Start)
	return err
}

// statement writes the row and its entries in the indexes of set. With nil the row is
// locked before it is read, and the indexes are those that it has then: whoever wrote
// the row before has kept up no others. Else errMoved asks for that.
func (tx *Tx) statement(u *upkeep, set []*recordcache.Index, t *recordcache.Table, m recordcache.Mode, key, value []byte) error {
	lock := set == nil
	if lock {
		if err := tx.apply(t, recordcache.ModeLock, key, nil); err != nil {
			return err
		}
		if p := t.Indexes.Load(); p != nil {
			set = *p
		}
	}
	at := tx.w.Snapshot
	old, found, err := t.Get(&tx.w.Reader, &tx.sc, u.old[:0], key)
	u.old = old
	if err != nil {
		return err
	}
	if tx.reads.on {
		tx.readKey(t, key) // which entries are new depends on it, and so does a refusal
	}
	gone := m == recordcache.ModeDelete
	refused := found && m == recordcache.ModeInsert || !found && (gone || m == recordcache.ModeUpdate)
	if err := u.plan(set, key, value, found, gone, tx.iso == ReadCommitted && len(tx.cursors) > 0); err != nil {
		return err
	}
	writes := tx.writes
	if !refused {
		err := tx.putUnique(u)
		if errors.Is(err, base.ErrKeyExists) && !lock && tx.w.Snapshot != at {
			return errMoved // perhaps it is this very row's by now
		}
		if err != nil {
			return err
		}
	}
	wait := lock || tx.writes == writes
	if err := tx.applyRow(t, m, key, value, wait); err != nil {
		return err
	}
	if !lock && tx.w.Snapshot != at {
		return errMoved
	}
	return tx.putOthers(u)
}

// overtaken reports whether a statement in mode m on a table that had no index when
// it began must begin anew, as the table has one now: it has a new snapshot, and the
// version of the row that it would work on may have entries.
func (tx *Tx) overtaken(t *recordcache.Table, m recordcache.Mode) bool {
	return tx.iso == ReadCommitted && m != recordcache.ModeLock && !tx.upkeep.underWay() && t.Indexes.Load() != nil
}

// applyRow is apply for the row; without wait it does not wait for another
// transaction: errMoved.
func (tx *Tx) applyRow(t *recordcache.Table, m recordcache.Mode, key, value []byte, wait bool) error {
	tx.noWait = !wait
	err := tx.apply(t, m, key, value)
	if tx.alive() != nil {
		return err
	}
	tx.noWait = false
	if errors.Is(err, recordcache.ErrWait) {
		return errMoved
	}
	return err
}

// putUnique puts the new entries of unique indexes.
func (tx *Tx) putUnique(u *upkeep) error {
	for i := range u.changes {
		c := &u.changes[i]
		if !c.ix.Unique() || len(c.now.at) == 0 {
			continue
		}
		ok, err := tx.enterIndex(c.ix)
		for j := 0; ok && err == nil && j < len(c.now.at); j++ {
			entry := c.now.get(j)
			m := recordcache.ModeInsert
			if seeded.On(seeded.SharedKey) {
				m = recordcache.ModePut
			}
			if err = tx.apply(c.ix.Entries(), m, entry, u.key); err != nil {
				err = tx.taken(c.ix, entry, err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putOthers erases the old entries and puts the new ones of indexes that are not
// unique.
func (tx *Tx) putOthers(u *upkeep) error {
	for i := range u.changes {
		c := &u.changes[i]
		if len(c.old.at) == 0 && (c.ix.Unique() || len(c.now.at) == 0) {
			continue
		}
		ok, err := tx.enterIndex(c.ix)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := tx.atNewest(func() error { return tx.replaceEntries(u, c) }); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) replaceEntries(u *upkeep, c *change) error {
	t := c.ix.Entries()
	for j := range c.old.at {
		if seeded.On(seeded.KeptEntry) {
			break
		}
		entry := c.old.get(j)
		if c.ix.Unique() && c.ix.Ready() == 0 {
			if other, err := tx.ofOther(u, t, entry); err != nil {
				return err
			} else if other {
				continue
			}
		}
		if err := tx.apply(t, recordcache.ModeErase, entry, nil); err != nil {
			return err
		}
	}
	if c.ix.Unique() {
		return nil
	}
	for j := range c.now.at {
		if err := tx.apply(t, recordcache.ModePut, c.now.get(j), nil); err != nil {
			return err
		}
	}
	return nil
}

// ofOther locks an entry of a unique index that is being built and reports whether
// it is another row's: then two rows have the key, and the builder may not have
// come to this one. Such an entry is put again as it is: so the builder finds that
// somebody was here (I4), and this transaction finds that the key is taken, though
// its snapshot may not have the other row. A lock alone would hide the entry from it.
func (tx *Tx) ofOther(u *upkeep, t *recordcache.Table, entry []byte) (bool, error) {
	if err := tx.apply(t, recordcache.ModeLock, entry, nil); err != nil {
		return false, err
	}
	pk, found, err := t.Get(&tx.w.Reader, &tx.sc, nil, entry)
	if err != nil || !found || string(pk) == string(u.key) {
		return false, err
	}
	return true, tx.apply(t, recordcache.ModePut, entry, pk)
}

// enterIndex is enterWrite for the entries of ix, in the middle of a statement: the
// snapshot stays where it is. ok is false if the index was dropped, durably: nobody
// reads it any more who sees this transaction's writes.
func (tx *Tx) enterIndex(ix *recordcache.Index) (ok bool, err error) {
	t := ix.Entries()
	if err = tx.knows(t, tx.w.Snapshot); err == nil {
		err = tx.mayWrite(t)
	}
	if errors.Is(err, base.ErrTableNotFound) && t.Dropped.Load() != 0 {
		return false, nil
	}
	return err == nil, err
}

// atNewest runs fn with a snapshot that sees everything committed.
func (tx *Tx) atNewest(fn func() error) error {
	tx.w.Snapshot = newest
	err := fn()
	if tx.alive() == nil {
		tx.w.Snapshot = tx.snap.ts
	}
	return err
}

// taken explains why an entry of a unique index could not be put. A conflict may be
// with the builder, which has added the entry of a row that this transaction sees:
// then the key exists.
func (tx *Tx) taken(ix *recordcache.Index, entry []byte, why error) error {
	if tx.alive() != nil {
		return why
	}
	switch {
	case errors.Is(why, base.ErrKeyExists):
		return keyExists(ix, entry)
	case errors.Is(why, base.ErrConflict):
		has, err := tx.holderSeen(ix, entry)
		if err != nil {
			return err
		}
		if has {
			return keyExists(ix, entry)
		}
	}
	return why
}

// holderSeen reports whether the row that has a unique entry by now had it at the
// snapshot, too.
func (tx *Tx) holderSeen(ix *recordcache.Index, entry []byte) (bool, error) {
	var pk []byte
	var found bool
	err := tx.atNewest(func() (err error) {
		pk, found, err = ix.Entries().Get(&tx.w.Reader, &tx.sc, nil, entry)
		return err
	})
	if err != nil || !found {
		return false, err
	}
	if tx.reads.on {
		tx.readKey(ix.Table(), pk)
	}
	row, found, err := ix.Table().Get(&tx.w.Reader, &tx.sc, nil, pk)
	if err != nil || !found {
		return false, err
	}
	return emits(ix, pk, row, entry)
}

// emits reports whether a row has the entry in ix. It keeps no other entry of the row.
func emits(ix *recordcache.Index, pk, row, entry []byte) (bool, error) {
	u, s := newUpkeep(), entrySet{only: entry}
	if err := u.collect(ix, &s, pk, row); err != nil {
		return false, err
	}
	return s.has(entry), nil
}

// keyExists is ErrKeyExists of a unique index; it is not base.ErrKeyExists itself,
// which to Append means that the record number is taken.
func keyExists(ix *recordcache.Index, entry []byte) error {
	key, _, _ := base.CutIndexKey(nil, entry)
	more := ""
	if len(key) > 32 {
		key, more = key[:32], "…"
	}
	return fmt.Errorf("saker: index %q: key %x%s: %w", ix.Name(), key, more, base.ErrKeyExists)
}
