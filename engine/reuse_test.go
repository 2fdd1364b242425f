package engine

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The state of an ended transaction serves later ones. A handle must not: a call
// on it after the end would act on a stranger's transaction, and its savepoints
// and cursors with it.
func TestEndedHandlesStayEnded(t *testing.T) {
	db, err := Open("db", &Options{FS: vfs.NewMem()})
	check(t, err)
	defer mustClose(t, db)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	type ended struct {
		tx *Tx
		sp Savepoint
		c  *Cursor
	}
	var old []ended
	for i := range 200 {
		tx := mustBegin(t, db, TxOptions{ReadOnly: i%3 == 0})
		for j := range old {
			o := &old[(i*7+j)%len(old)]
			if j == 10 {
				break
			}
			misuse(t, "after a later Begin", o.tx, tb, true, ErrTxDone)
			wantErr(t, "rollback to", o.tx.RollbackTo(o.sp), ErrTxDone)
			wantErr(t, "rollback to another's savepoint", tx.RollbackTo(o.sp), ErrSavepointNotFound)
			wantErr(t, "commit", o.tx.Commit(), ErrTxDone)
			wantErr(t, "rollback", o.tx.Rollback(), ErrTxDone)
			if o.c.Next() || o.c.First() {
				t.Fatal("a cursor of an ended transaction moves")
			}
			check(t, o.c.Close())
		}
		c := tx.Cursor(tb, Range{})
		c.First()
		sp, err := tx.Savepoint()
		check(t, err)
		if i%3 != 0 {
			put(t, tx, tb, fmt.Sprint(i), "v")
			gets(t, tx, tb, fmt.Sprint(i), "v")
		}
		if i%2 == 0 {
			commit(t, tx)
		} else {
			rollback(t, tx)
		}
		old = append(old, ended{tx, sp, c})
	}
}

// Nothing of a transaction comes along with its state: neither redo that it never
// logged, nor dead epochs, nor what it had locked. A crash shows what the log has.
func TestNothingIsInherited(t *testing.T) {
	fs := newCrashFS(t)
	db, err := Open("db", &Options{FS: fs})
	check(t, err)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	want := map[string]string{}
	for i := range 64 {
		tx := mustBegin(t, db, TxOptions{})
		put(t, tx, tb, fmt.Sprintf("gone%d", i), strings.Repeat("x", 1+i*30))
		rollback(t, tx)

		tx = mustBegin(t, db, TxOptions{})
		put(t, tx, tb, fmt.Sprintf("kept%d", i), "a")
		sp, err := tx.Savepoint()
		check(t, err)
		put(t, tx, tb, fmt.Sprintf("undone%d", i), "b")
		if i%2 == 0 {
			chillAll(t, db) // the log has it, and the savepoint leaves a dead interval
		}
		check(t, tx.RollbackTo(sp))
		commit(t, tx)
		want[fmt.Sprintf("kept%d", i)] = "a"

		tx = mustBegin(t, db, TxOptions{})
		for j := range 4 { // epochs 0 and above are alive in this one
			k := fmt.Sprintf("more%d.%d", i, j)
			put(t, tx, tb, k, "c")
			want[k] = "c"
			_, err := tx.Savepoint()
			check(t, err)
		}
		commit(t, tx)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustClose(t, db)
	db, err = Open("db", &Options{FS: crashed})
	check(t, err)
	defer mustClose(t, db)
	tb, err = db.Table("t")
	check(t, err)
	inView(t, db, func(tx *Tx) {
		rows := all(t, tx, tb)
		if len(rows) != len(want) {
			t.Errorf("%d rows, want %d: %v", len(rows), len(want), rows)
		}
		for k, v := range want {
			gets(t, tx, tb, k, v)
		}
	})
}

// The scavenger finds a transaction by its id and asks it for savepoints, or
// notes a log segment, when it may have ended and its state serve another one: a
// pin that goes to the wrong one would let the log segment of the right one go.
func TestChillMeetsReusedStates(t *testing.T) {
	db, err := Open("db", &Options{FS: vfs.NewMem(), NoSync: true})
	check(t, err)
	tb, err := db.CreateTable(ctx, "t")
	check(t, err)
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 300 {
				tx := mustBegin(t, db, TxOptions{})
				for j := range 3 {
					check(t, tx.Put(tb, []byte(fmt.Sprintf("%d.%d.%d", g, i%20, j)), value(i, 200)))
				}
				if i%4 == 0 {
					check(t, tx.Rollback())
				} else {
					check(t, tx.Commit())
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		chillAll(t, db)
		backlogAll(t, db)
	}
	waitSwept(t, db)
	check(t, db.Checkpoint(ctx))
	if st := db.log.Stats(); st.PinnedSegments != 0 {
		t.Errorf("%d log segments stay pinned", st.PinnedSegments)
	}
	mustClose(t, db)
}
