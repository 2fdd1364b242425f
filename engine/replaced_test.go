package engine

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/tablespace"
)

// replacedStore is a store in which all passes of the collector are the test's, and
// whatever is dead is worth one.
func replacedStore(t *testing.T) (*DB, *Table) {
	t.Helper()
	db := mustOpen(t, memOptions())
	db.collect.close(db)
	db.collect.least = 1
	return db, mustTable(t, db, "t")
}

const replacedSize = 100_000

// suspectLeaf makes a leaf with a large value of k that seems to have been replaced: a
// frame with a newer row has an older version of k.
func suspectLeaf(t *testing.T, db *DB, tb *Table) {
	t.Helper()
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "old") })
	reader := mustBegin(t, db, TxOptions{ReadOnly: true})
	inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", string(value(1, replacedSize))) })
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "other", "newer")
		for i := range 50 { // so that the run is no victim for its header and index
			put(t, tx, tb, fmt.Sprintf("z%02d", i), string(value(i, 100)))
		}
	})
	evictAll(t, db)
	rollback(t, reader)
}

// A leaf was acquitted for as long as its entry in the leaf map stayed the same. But what
// replaces a value may be in the entry already, and wait for the commit of its owner, or
// for the end of a snapshot: neither changes the entry. The value was never looked at
// again.
func TestAcquittalIsOfWhatWasDecided(t *testing.T) {
	for _, what := range []string{"commit", "snapshot"} {
		t.Run(what, func(t *testing.T) {
			db, tb := replacedStore(t)
			suspectLeaf(t, db, tb)
			reader := mustBegin(t, db, TxOptions{ReadOnly: true})
			tx := mustBegin(t, db, TxOptions{})
			del(t, tx, tb, "k")
			if what == "snapshot" {
				commit(t, tx)
			}
			evictAll(t, db)
			check(t, db.Checkpoint(ctx))
			check(t, db.CollectSpace(ctx))
			gets(t, reader, tb, "k", string(value(1, replacedSize)))
			if what == "commit" {
				rollback(t, reader)
				check(t, db.CollectSpace(ctx))
				commit(t, tx)
			} else {
				rollback(t, reader)
			}
			check(t, db.CollectSpace(ctx))
			if n := db.space.RunBytes(); n > replacedSize {
				t.Errorf("%d bytes in runs, the large value is deleted", n)
			}
			inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", ""); gets(t, tx, tb, "other", "newer") })
			mustClose(t, db)
		})
	}
}

// Large values of a transaction that had rolled back to a savepoint were never found,
// nor those that one transaction replaced by small ones, or deleted, itself.
func TestReplacedLargeValues(t *testing.T) {
	for what, write := range map[string]func(t *testing.T, db *DB, tb *Table){
		"savepoint": func(t *testing.T, db *DB, tb *Table) {
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "k", string(value(1, replacedSize)))
				sp, err := tx.Savepoint()
				check(t, err)
				put(t, tx, tb, "k", string(value(2, replacedSize)))
				check(t, tx.RollbackTo(sp))
			})
			evictAll(t, db)
			inUpdate(t, db, func(tx *Tx) { put(t, tx, tb, "k", "small") })
		},
		"own": func(t *testing.T, db *DB, tb *Table) {
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "k", string(value(1, replacedSize)))
				put(t, tx, tb, "k", "small")
			})
		},
		"own before": func(t *testing.T, db *DB, tb *Table) {
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "k", "before")
				evictAll(t, db)
				put(t, tx, tb, "k", string(value(1, replacedSize)))
				evictAll(t, db)
				put(t, tx, tb, "k", "small")
				sp, err := tx.Savepoint()
				check(t, err)
				put(t, tx, tb, "k", "undone")
				evictAll(t, db)
				check(t, tx.RollbackTo(sp))
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			db, tb := replacedStore(t)
			inUpdate(t, db, func(tx *Tx) {
				put(t, tx, tb, "j", string(value(3, replacedSize/2)))
				put(t, tx, tb, "l", "small")
			})
			write(t, db, tb)
			evictAll(t, db)
			check(t, db.Checkpoint(ctx))
			check(t, db.CollectSpace(ctx))
			if n := db.space.RunBytes(); n > replacedSize {
				t.Errorf("%d bytes in runs, a value of %d bytes is left", n, replacedSize/2)
				describeMap(t, db, tb)
			}
			look := func() {
				inView(t, db, func(tx *Tx) {
					gets(t, tx, tb, "j", string(value(3, replacedSize/2)))
					gets(t, tx, tb, "k", "small")
					gets(t, tx, tb, "l", "small")
				})
			}
			look()
			checkStore(t, db)
			mustClose(t, db)
		})
	}
}

// A value that its own transaction wrote after a small one, or that stands because the
// small one was rolled back, hides it, and stays.
func TestLargeValueAfterOwnSmallOneStays(t *testing.T) {
	db, tb := replacedStore(t)
	large := string(value(1, replacedSize))
	inUpdate(t, db, func(tx *Tx) {
		put(t, tx, tb, "a", "small")
		put(t, tx, tb, "b", "b")
		evictAll(t, db)
		put(t, tx, tb, "a", large)
		put(t, tx, tb, "b", large)
		sp, err := tx.Savepoint()
		check(t, err)
		put(t, tx, tb, "b", "undone")
		evictAll(t, db)
		check(t, tx.RollbackTo(sp))
	})
	look := func() { inView(t, db, func(tx *Tx) { gets(t, tx, tb, "a", large); gets(t, tx, tb, "b", large) }) }
	for range 3 {
		evictAll(t, db)
		check(t, db.Checkpoint(ctx))
		check(t, db.CollectSpace(ctx))
		look()
	}
	mustClose(t, db)
}

// damageFrame changes a byte of the first small frame in the entry of a key, and returns what
// changes it back.
func damageFrame(t *testing.T, db *DB, tb *Table, key string) (mend func()) {
	t.Helper()
	en, found, _, _, err := db.space.Lookup(tb.ID, []byte(key))
	check(t, err)
	at := tablespace.Addr{}
	for i := range en.Frames {
		if !en.Frames[i].Large && at.Len == 0 {
			at = en.Frames[i].Addr
		}
	}
	if db.space.ReleaseEntry(&en); !found || at.Len == 0 {
		t.Fatal("no frame")
	}
	flip := func() {
		name := db.o.FS.PathJoin("db", spaceDir, "runs", fmt.Sprintf("%016x.run", uint64(at.Run)))
		f, err := db.o.FS.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
		check(t, err)
		b := []byte{0}
		pos := int64(at.Off) + int64(at.Len) - 1
		_, err = f.ReadAt(b, pos)
		check(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b, pos)
		check(t, err)
		check(t, f.Close())
	}
	flip()
	return flip
}

// fillGarbage writes the same rows so many times, in runs of their own.
func fillGarbage(t *testing.T, db *DB, tb *Table, times int) {
	t.Helper()
	for g := range times {
		inUpdate(t, db, func(tx *Tx) {
			for i := range 2000 {
				put(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i+g, 100)))
			}
		})
		evictAll(t, db)
		db.temps.Rollover()
	}
	check(t, db.Checkpoint(ctx))
}

// A frame that could not be read, and that might hold what replaces a large value,
// ended every survey: no space was collected any more, in any table.
func TestUnreadableFrameOfSuspect(t *testing.T) {
	db, tb := replacedStore(t)
	suspectLeaf(t, db, tb)
	db.temps.Rollover()
	fillGarbage(t, db, mustTable(t, db, "u"), 4)
	mend := damageFrame(t, db, tb, "k")
	before := db.space.RunBytes()
	check(t, db.CollectSpace(ctx))
	if n := db.space.RunBytes(); n > before*2/3 {
		t.Errorf("%d bytes in runs that were %d, most of it dead", n, before)
	}
	mend()
	check(t, db.CollectSpace(ctx))
	inView(t, db, func(tx *Tx) { gets(t, tx, tb, "k", string(value(1, replacedSize))) })
	mustClose(t, db)
}

// A leaf with a frame that cannot be read ended every pass that came to it, and each pass
// came to it: the space of others was not collected either, as long as it was there. When
// that was mended, nine such leaves in a row still did, as a bad run has them.
func TestUnreadableFrameOfVictim(t *testing.T) {
	for what, keys := range map[string]int{"one leaf": 1, "all leaves": 2000} {
		t.Run(what, func(t *testing.T) {
			db, tb := replacedStore(t)
			fillGarbage(t, db, tb, 2) // the cheaper victims
			fillGarbage(t, db, mustTable(t, db, "u"), 6)
			before := db.space.RunBytes()
			mend := damageFrames(t, db, tb, keys)
			if ce := (*CorruptionError)(nil); !errors.As(db.CollectSpace(ctx), &ce) {
				t.Error("nobody is told of the damage")
			}
			left := db.space.RunBytes()
			mend()
			check(t, db.CollectSpace(ctx))
			if n := db.space.RunBytes(); left > before*2/3 || n > before/2 {
				t.Errorf("%d bytes in runs that were %d, most of it dead and a quarter damaged; %d when that was mended", left, before, n)
			}
			inView(t, db, func(tx *Tx) {
				for i := range 2000 {
					gets(t, tx, tb, fmt.Sprintf("k%05d", i), string(value(i+1, 100)))
				}
			})
			mustClose(t, db)
		})
	}
}

// damageFrames is damageFrame for every leaf that has one of the first keys.
func damageFrames(t *testing.T, db *DB, tb *Table, keys int) (mend func()) {
	t.Helper()
	var mends []func()
	for at := []byte("k00000"); at != nil && string(at) < fmt.Sprintf("k%05d", keys); {
		en, found, _, _, err := db.space.Lookup(tb.ID, at)
		check(t, err)
		if !found {
			t.Fatal("no entry")
		}
		mends = append(mends, damageFrame(t, db, tb, string(at)))
		at = bytes.Clone(en.High)
		db.space.ReleaseEntry(&en)
	}
	if keys > 1 && len(mends) <= maxUnreadable {
		t.Fatal(len(mends), "leaves")
	}
	return func() {
		for _, mend := range mends {
			mend()
		}
	}
}

// Rows that a transaction had rolled back to a savepoint, when they had left memory
// already, counted as live once it was committed, for ever: nothing but a later write
// into their leaf took them away, and their space grew beyond any bound.
func TestSpaceOfRolledBackRows(t *testing.T) {
	for what, size := range map[string]int{"rows": 100, "large": 20_000} {
		t.Run(what, func(t *testing.T) {
			db, tb := replacedStore(t)
			const kept = 200
			for g := range 4 {
				inUpdate(t, db, func(tx *Tx) {
					for i := range kept {
						put(t, tx, tb, fmt.Sprintf("%d/kept/%03d", g, i), string(value(i, 100)))
					}
					sp, err := tx.Savepoint()
					check(t, err)
					for i := range 400_000 / size {
						put(t, tx, tb, fmt.Sprintf("%d/undone/%05d", g, i), string(value(i, size)))
					}
					backlogAll(t, db)
					check(t, tx.RollbackTo(sp))
				})
				evictAll(t, db)
			}
			check(t, db.Checkpoint(ctx))
			before := db.space.RunBytes()
			check(t, db.CollectSpace(ctx))
			if n := db.space.RunBytes(); n > 5*4*kept*100/2 {
				t.Errorf("%d bytes in runs that were %d, %d are live", n, before, 4*kept*100)
			}
			inView(t, db, func(tx *Tx) {
				if n := len(all(t, tx, tb)); n != 4*kept {
					t.Errorf("%d rows", n)
				}
			})
			mustClose(t, db)
		})
	}
}
