package txn

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/internal/seeded"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/versionchain"
)

// An index is built beside its writers, who keep it up from the moment on that the
// table names it:
//
//  1. wait for the transactions that had written the table by then: what they wrote
//     before, the builder must see. A statement of one that goes on from a version newer
//     than when it began looks again which indexes there are: that version's writer may
//     have put entries (statement, overtaken)
//  2. row by row, in batches: read as of a fresh snapshot B, put the entries that are
//     not there, commit
//
// The builder locks no row. Let it read row k at B, which has entry e, while W takes e
// away from k (or deletes k):
//
//   - W committed before B: the builder does not see e.
//   - W committed after B, before e is put: W has left a tombstone on e, newer than B,
//     though e was not there. ErrConflict. With a fresh snapshot the batch is right;
//     if the index is not unique, e is nobody else's, and passing over it is right.
//   - W is active and has left its tombstone: the builder would have to wait. It
//     commits what it has, so that nobody waits for it meanwhile, and so is in no
//     deadlock; then it waits, and does the batch again.
//   - W comes later: it waits for the batch at most, and erases e, whatever its
//     snapshot is: against entries it works on the newest version.
//
// And if W gives e to k, the builder finds it there, or finds the conflict.
//
// Two rows with one key of a unique index: whoever puts the second entry finds the
// first one, the builder as well as a writer. A batch that fails for one busy record
// is tried again with half the rows, down to a single one, so that it gets through.

const (
	// buildRows and buildBytes bound a batch: rows, and bytes of entries.
	buildRows  = 1024
	buildBytes = 256 << 10
	// buildPatience is how often the builder looks whether a transaction has ended
	// before it looks at its records again: that one may have rolled back to a
	// savepoint.
	buildPatience = 20
)

// builder is one build.
type builder struct {
	m    *Manager
	ix   *recordcache.Index
	u    *upkeep
	set  entrySet
	from []byte // the first key that is not done
	last []byte // of the batch
	most int    // rows of the next batch

	rows    int // of the batch
	entries []buildEntry
	buf     []byte // their keys
	// again: somebody was in the way, and the batch must be done again, when on, if
	// not nil, has ended.
	again bool
	on    *versionchain.Outcome
}

// buildEntry is an entry to be put: where in buf its key ends and the row's.
type buildEntry struct{ from, mid, to int }

// BuildIndex puts the entries of all rows into ix. REQUIRES: its table names ix, and
// keeps naming it. told, if not nil, is told how many rows and entries were done
// since the last time. ErrKeyExists if two rows have one key of a unique index;
// ErrKeyTooLarge, ErrIndexFunc. After an error the entries are of no use.
func (m *Manager) BuildIndex(ctx context.Context, ix *recordcache.Index, told func(rows, entries int)) error {
	for _, o := range m.writersOf(ix.Table()) {
		if seeded.On(seeded.HastyBuilder) {
			break
		}
		if err := m.awaitEnd(ctx, o, 0); err != nil {
			return err
		}
	}
	b := &builder{m: m, ix: ix, u: newUpkeep(), most: buildRows}
	for {
		if err := b.batch(ctx); err != nil {
			return err
		}
		switch {
		case b.again:
			b.most = max(1, b.rows/2)
			if b.on != nil {
				if err := m.awaitEnd(ctx, b.on, buildPatience); err != nil {
					return err
				}
			}
		case b.rows == 0:
			return nil
		default:
			if told != nil {
				told(b.rows, len(b.entries))
			}
			b.from = append(append(b.from[:0], b.last...), 0)
			b.most = min(buildRows, 2*b.most)
		}
	}
}

// batch reads some rows and puts their entries, in one transaction.
func (b *builder) batch(ctx context.Context) error {
	b.rows, b.entries, b.buf, b.again, b.on = 0, b.entries[:0], b.buf[:0], false, nil
	tx, err := b.m.Begin(ctx, Options{NoSync: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := b.read(tx); err != nil || b.rows == 0 {
		return err
	}
	key := func(e buildEntry) []byte { return b.buf[e.from:e.mid] }
	slices.SortFunc(b.entries, func(x, y buildEntry) int { return bytes.Compare(key(x), key(y)) })
	for _, e := range b.entries {
		if err := b.put(tx, key(e), b.buf[e.mid:e.to]); err != nil {
			return err
		}
		if b.again {
			break // what was put is right, and must not be in anybody's way
		}
	}
	return tx.Commit()
}

// read collects the entries of the batch.
func (b *builder) read(tx *Tx) error {
	for row, err := range tx.Scan(b.ix.Table(), Range{From: b.from, Limit: b.most}) {
		if err != nil {
			return err
		}
		if err := b.u.collect(b.ix, &b.set, row.Key, row.Value); err != nil {
			return err
		}
		for i := range b.set.at {
			from := len(b.buf)
			b.buf = append(b.buf, b.set.get(i)...)
			mid := len(b.buf)
			if b.ix.Unique() {
				b.buf = append(b.buf, row.Key...)
			}
			b.entries = append(b.entries, buildEntry{from, mid, len(b.buf)})
		}
		b.rows++
		b.last = append(b.last[:0], row.Key...)
		if len(b.buf) > buildBytes {
			return nil
		}
	}
	return nil
}

// put puts one entry, unless it is there. If somebody is in the way, it sets again.
func (b *builder) put(tx *Tx, entry, pk []byte) error {
	on, err := tx.putEntry(b.ix, entry, pk)
	switch {
	case on != nil:
		b.again, b.on = true, on
		return nil
	case errors.Is(err, base.ErrConflict):
		b.again = b.ix.Unique() && !seeded.On(seeded.PassedOver)
		return nil
	}
	return err
}

// putEntry puts an entry without waiting for others; if it would have to, it returns
// for whom. It is content with an entry that is there, if it is of the same row.
func (tx *Tx) putEntry(ix *recordcache.Index, entry, pk []byte) (on *versionchain.Outcome, err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	t := ix.Entries()
	if err := tx.enterWrite(t); err != nil {
		return nil, err
	}
	tx.noWait = true
	err = tx.apply(t, recordcache.ModeInsert, entry, pk)
	switch {
	case tx.alive() != nil:
		return nil, err
	case errors.Is(err, recordcache.ErrWait):
		return tx.w.WaitOn, nil
	case !errors.Is(err, base.ErrKeyExists):
		return nil, err
	}
	has, found, err := t.Get(&tx.w.Reader, &tx.sc, nil, entry)
	if err == nil && found && !bytes.Equal(has, pk) {
		err = keyExists(ix, entry)
	}
	return nil, err
}

// writersOf returns the open transactions that have written t. Whoever has no id
// when it looks, or has not noted t, finds what t names by now.
func (m *Manager) writersOf(t *recordcache.Table) (outs []*versionchain.Outcome) {
	open := map[*state]uint64{}
	m.mu.Lock()
	for st := m.open; st != nil; st = st.next {
		if id := st.owner.Load(); id != 0 {
			open[st] = id
		}
	}
	m.mu.Unlock()
	for st, id := range open {
		st.trackMu.Lock()
		if st.owner.Load() == id && slices.Contains(st.tables, t) {
			outs = append(outs, st.out)
		}
		st.trackMu.Unlock()
	}
	return outs
}

// awaitEnd waits until o is decided, and published if it is committed. With patience
// above zero it looks no more often than that, a millisecond apart.
func (m *Manager) awaitEnd(ctx context.Context, o *versionchain.Outcome, patience int) error {
	for looks := 1; ; looks++ {
		if err := m.Failure(); err != nil {
			return err
		}
		if st, _ := o.Status(); st == versionchain.Committed || st == versionchain.Aborted {
			m.commit.published(&m.snaps.snapshots) // not before the clock includes it
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.closing:
			return base.ErrClosed
		case <-time.After(time.Millisecond): //nolint:forbidigo // nobody tells; in no hot path
		}
		if looks == patience {
			return nil
		}
	}
}
