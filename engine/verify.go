package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Verify checks every invariant that disk and memory can show, beside readers
// and writers, and returns all that it finds, joined: *CorruptionError with file
// and offset for damage, and what is violated otherwise. After a hundred findings
// it only counts, and says so. Nil means that nothing is wrong.
//
//   - FORMAT; every segment of the log up to what is synced (seriallog.Log.Check)
//   - the leaf map, every run file with every frame, the match between the two,
//     lost and left-over files (tablespace.Space.Check)
//   - what is in memory, leaf by leaf, and that it agrees with the map
//     (recordcache.Cache.Check); temp tables of live transactions
//   - indexes: that every entry has its row and every row its entries. What only
//     the function of an index knows is checked if it has been given (CreateIndex)
//   - the accounts of record memory, exactly, if no transaction is open and no
//     worker is at work
//
// It reads the whole store from disk, once or twice, with little memory of its
// own. No run file is unlinked and, while the log is read, no segment reused
// meanwhile. ctx ends it (ctx.Err(), joined with what was found until then), and
// so does Close (ErrClosed).
func (db *DB) Verify(ctx context.Context) error {
	ctx, leave, err := db.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var found base.Findings
	err = db.verify(ctx, found.Add)
	return errors.Join(ended(ctx, err), found.Err())
}

func (db *DB) verify(ctx context.Context, report func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.verifyFormat(report)
	if err := db.log.Check(ctx, report); err != nil {
		return err
	}
	err := db.space.Check(ctx, tablespace.CheckOptions{
		Report: report, Frames: true, Fate: db.fate, Dropped: dropped,
	})
	if err != nil {
		return err
	}
	if err := db.cache.Check(ctx, report); err != nil {
		return err
	}
	db.temps.Check(db.reg, report)
	if err := db.verifyIndexes(ctx, report); err != nil {
		return err
	}
	db.verifyAccounts(report)
	return nil
}

// verifyIndexes compares the indexes with their tables.
func (db *DB) verifyIndexes(ctx context.Context, report func(error)) error {
	for _, name := range db.Tables() {
		t, err := db.Table(name)
		if err != nil {
			continue // dropped meanwhile
		}
		for _, ix := range indexesOf(t) {
			if ix.Ready() == 0 {
				continue // is being built
			}
			if err := db.m.CheckIndex(ctx, ix, report); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyFormat checks that the file FORMAT says what Open wrote.
func (db *DB) verifyFormat(report func(error)) {
	path := db.o.FS.PathJoin(db.dir, formatName)
	f, found, err := readFormat(db.o.FS, db.dir, db.o.schema.version)
	switch {
	case err != nil:
		report(err)
	case !found:
		report(&CorruptionError{File: path, Why: "missing"})
	case f.incarnation != db.incarnation:
		report(&CorruptionError{File: path, Why: fmt.Sprintf("L7: incarnation %d, this is %d", f.incarnation, db.incarnation)})
	}
}

// fate tells the leaf map's check what became of a transaction.
func (db *DB) fate(id base.TxnID) (tablespace.Fate, base.CommitTS) {
	o := db.cache.Owner(id)
	if o == nil {
		return tablespace.FateUnknown, 0
	}
	switch st, ts := o.Status(); st {
	case versionchain.Committed:
		return tablespace.FateCommitted, ts
	case versionchain.Aborted:
		return tablespace.FateAborted, 0
	default:
		return tablespace.FateLive, 0
	}
}

// dropped reports whether the data of a table remains to be removed.
func dropped(id base.TableID, meta map[string][]byte) bool {
	_, ok := meta[dropName(id)]
	return ok
}

// verifyAccounts compares what is counted in record memory with what is there
// (M1). That is possible only if no transaction is open and no worker is at work:
// whoever makes a leaf present charges it before it can be found. Otherwise it is
// left for another time.
func (db *DB) verifyAccounts(report func(error)) {
	if !db.collect.mu.tryLock() { // before ckpt.mu, as in a pass
		return
	}
	defer db.collect.mu.unlock()
	if !db.ckpt.mu.tryLock() {
		return
	}
	defer db.ckpt.mu.unlock()
	db.scav.Quiet(func() {
		if err := db.account(); err != nil {
			report(err)
		}
	})
}

// account adds up record memory twice; if nothing has changed in between and
// nobody was there to change it, the sums must be those that were counted.
func (db *DB) account() error {
	type sums struct{ charged, blocks, must, mustBlocks int64 }
	var got [2]sums
	for i := range got {
		if db.m.Active() > 0 || db.m.Sweeping() > 0 {
			return nil
		}
		g := &got[i]
		g.charged, g.blocks = db.arena.Charged(), db.arena.Blocks()
		g.must, g.mustBlocks = db.cache.Sums()
	}
	g := &got[1]
	idle := db.m.Active() == 0 && db.m.Sweeping() == 0
	if !idle || got[0] != got[1] || g.charged == g.must && g.blocks == g.mustBlocks {
		return nil
	}
	return fmt.Errorf("saker: check M1: %d bytes are charged, of leaves and owners %d; %d bytes in blocks, of leaves %d",
		g.charged, g.must, g.blocks, g.mustBlocks)
}
