package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// writer inserts its share of the rows in one transaction.
type writer struct {
	p    *plan
	id   int64
	n    int64 // rows it has to insert
	tx   txn
	read *reader
	view view // what it sees of its own
	key  []byte
	val  []byte

	inserted atomic.Int64 // its rows below this one have been put; the watcher's choice
	progress func(rows int64)

	first, last stretch // tenths of the insert
}

// stretch is a part of the insert, for its rate.
type stretch struct {
	rows int64
	time time.Duration
}

func (s stretch) rate() float64 {
	if s.rows == 0 || s.time <= 0 {
		return 0
	}
	return float64(s.rows) / s.time.Seconds()
}

func newWriter(p *plan, v *verdict, id int64, progress func(int64)) *writer {
	return &writer{
		p: p, id: id, n: p.rowsOf(id),
		read:     newReader(p, v, fmt.Sprintf("writer %d", id)),
		view:     view{writer: id, done: make([]int64, p.writers)},
		key:      make([]byte, 8),
		val:      make([]byte, p.size),
		progress: progress,
	}
}

// insert runs all batches. The clock is read once per batch.
func (w *writer) insert(ctx context.Context) error {
	start := time.Now()
	var tail stretch // where the last tenth begins
	for b := range w.p.batchesOf(w.id) {
		if err := w.batch(ctx, b); err != nil {
			return fmt.Errorf("writer %d: batch %d: %w", w.id, b, err)
		}
		w.view.done[w.id] = b + 1
		if err := w.samples(ctx, b); err != nil {
			return err
		}
		now := stretch{min(w.n, (b+1)<<w.p.shift), time.Since(start)}
		if w.first.rows == 0 && now.rows >= w.n/10 {
			w.first = now
		}
		if tail.rows == 0 && now.rows >= w.n-w.n/10 {
			tail = now
		}
		if tail.rows > 0 {
			w.last = stretch{now.rows - tail.rows, now.time - tail.time}
		}
	}
	return nil
}

// batch inserts the rows of one batch, the last eighth of them below a
// savepoint, and then updates what the batch triggers.
func (w *writer) batch(ctx context.Context, b int64) error {
	lo := b << w.p.shift
	hi := min(w.n, lo+w.p.batch)
	if w.p.plain {
		return w.put(ctx, lo, hi, versionFirst, true)
	}
	mid := min(hi, lo+w.p.tail)
	if err := w.put(ctx, lo, mid, versionFirst, true); err != nil {
		return err
	}
	if err := w.underSavepoint(ctx, b, mid, hi); err != nil {
		return err
	}
	return w.updates(ctx, b, hi)
}

// underSavepoint inserts rows [mid, hi) below a savepoint, to the batch's fate.
func (w *writer) underSavepoint(ctx context.Context, b, mid, hi int64) error {
	sp, err := w.tx.savepoint()
	if err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	switch w.p.fateOf(b) {
	case fateKept:
		return w.put(ctx, mid, hi, versionFirst, true)
	case fateReleased:
		if err := w.put(ctx, mid, hi, versionFirst, true); err != nil {
			return err
		}
	case fateAbsent:
		if err := w.put(ctx, mid, hi, versionBogus, true); err != nil {
			return err
		}
		if err := w.rollbackTo(sp, mid, hi); err != nil {
			return err
		}
	case fateRewritten:
		if err := w.put(ctx, mid, hi, versionBogus, false); err != nil {
			return err
		}
		if err := w.rollbackTo(sp, mid, hi); err != nil {
			return err
		}
		if err := w.put(ctx, mid, hi, versionRewritten, true); err != nil {
			return err
		}
	case fateNested:
		if err := w.nested(ctx, sp, b, mid, hi); err != nil {
			return err
		}
	}
	if err := w.tx.release(sp); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// nested does half of its inserts and an update of old rows below a savepoint
// within the savepoint, and rolls back to the outer one: neither the inserts of
// the inner one nor its updates may return, and it must be gone itself.
func (w *writer) nested(ctx context.Context, outer mark, b, mid, hi int64) error {
	half := mid + (hi-mid)/2
	if err := w.put(ctx, mid, half, versionBogus, false); err != nil {
		return err
	}
	inner, err := w.tx.savepoint()
	if err != nil {
		return fmt.Errorf("inner savepoint: %w", err)
	}
	if err := w.put(ctx, half, hi, versionBogus, false); err != nil {
		return err
	}
	if err := w.updateFar(ctx, b, versionBogusFar); err != nil {
		return err
	}
	if err := w.rollbackTo(outer, mid, hi); err != nil {
		return err
	}
	if err := w.tx.rollbackTo(inner); !errors.Is(err, errSavepointNotFound) {
		w.read.v.mismatch("%s: rollback to a savepoint that is gone: %v, want ErrSavepointNotFound", w.read.who, err)
	}
	// What was updated below is as it was before: version as of batch b.
	far := (b / 2) << w.p.shift
	for k := range int64(4) {
		i := far + farOffset(b) + k*updateEvery
		if i < far+w.p.batch {
			if err := w.read.checkRow(w.tx, w.p.row(w.id, i), w.p.version(i, b)); err != nil {
				return err
			}
		}
	}
	return w.put(ctx, mid, hi, versionRewritten, true)
}

// rollbackTo rolls back to a savepoint and checks samples of [mid, hi), whose
// rows must be gone.
func (w *writer) rollbackTo(sp mark, mid, hi int64) error {
	if mid < hi {
		if err := w.read.checkRow(w.tx, w.p.row(w.id, mid), versionBogus); err != nil {
			return err
		}
	}
	if err := w.tx.rollbackTo(sp); err != nil {
		return fmt.Errorf("rollback to: %w", err)
	}
	for i := mid; i < hi; i += max(1, (hi-mid)/4) {
		if err := w.read.checkRow(w.tx, w.p.row(w.id, i), 0); err != nil {
			return err
		}
	}
	return nil
}

// insertEvery rows, one goes in by Insert, which reads before it writes.
const insertEvery = 1024

// put writes rows [lo, hi). Counted rows move the progress.
func (w *writer) put(ctx context.Context, lo, hi int64, version uint32, counted bool) error {
	for lo < hi {
		end := min(lo+chunk, hi)
		for i := lo; i < end; i++ {
			r := w.p.row(w.id, i)
			w.p.putKey(w.key, r)
			v := w.p.fillValue(w.val, r, version)
			var err error
			if i%insertEvery == insertEvery-1 {
				err = w.tx.insert(tableRows, w.key, v)
			} else {
				err = w.tx.put(tableRows, w.key, v)
			}
			if err != nil {
				return fmt.Errorf("put row %d (key %x): %w", r, w.key, err)
			}
		}
		if counted {
			w.inserted.Store(end)
			w.progress(end - lo)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		lo = end
	}
	return nil
}

// updates does the updates that the end of batch b triggers. No row has two.
func (w *writer) updates(ctx context.Context, b, hi int64) error {
	for i := b<<w.p.shift + nearOffset; i < hi; i += updateEvery {
		if err := w.update(i, w.p.version(i, b+1)); err != nil {
			return err
		}
	}
	return w.updateFar(ctx, b, 0)
}

// farOffset is the offset of the old rows that batch b updates.
func farOffset(b int64) int64 {
	if b%2 == 0 {
		return evenOffset
	}
	return oddOffset
}

// updateFar updates rows of batch b/2 to the given version, 0 being the next.
func (w *writer) updateFar(ctx context.Context, b int64, version uint32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lo := (b / 2) << w.p.shift
	hi := min(w.n, lo+w.p.batch)
	for i := lo + farOffset(b); i < hi; i += updateEvery {
		next := w.p.version(i, b+1)
		if next == 0 || (version != 0 && w.p.version(i, b) == 0) {
			continue // absent, or of this very batch and not inserted yet
		}
		if version != 0 {
			next = version
		}
		if err := w.update(i, next); err != nil {
			return err
		}
	}
	return nil
}

// update gives a row that exists another version, if the plan has one for it.
func (w *writer) update(i int64, version uint32) error {
	if version == 0 {
		return nil
	}
	r := w.p.row(w.id, i)
	w.p.putKey(w.key, r)
	v := w.p.fillValue(w.val, r, version)
	var err error
	if i&updateEvery == 0 {
		err = w.tx.update(tableRows, w.key, v)
	} else {
		err = w.tx.put(tableRows, w.key, v)
	}
	if err != nil {
		return fmt.Errorf("update row %d (key %x): %w", r, w.key, err)
	}
	return nil
}

// samplesPerBatch rows are read back by key after each batch, half of them from
// the newest batch. It is small enough for rates not to notice.
const samplesPerBatch = 16

// samples reads back some of the writer's own rows, old and new; checks that
// Insert refuses a row that exists and leaves it alone; scans a short range.
func (w *writer) samples(ctx context.Context, b int64) error {
	end := min(w.n, (b+1)<<w.p.shift)
	for k := range int64(samplesPerBatch) {
		i := w.pick(b, k, end)
		if k%2 == 1 {
			lo := b << w.p.shift
			i = lo + w.pick(b, k, end-lo)
		}
		r, version := w.p.row(w.id, i), w.p.version(i, b+1)
		if err := w.read.checkRow(w.tx, r, version); err != nil {
			return err
		}
		if k == 0 && version != 0 {
			if err := w.insertExisting(r, version); err != nil {
				return err
			}
		}
	}
	if b%4 == 3 {
		r := w.p.row(w.id, w.pick(b, samplesPerBatch, end))
		return w.read.window(ctx, w.tx, w.view, r, b%8 == 7)
	}
	return nil
}

// pick chooses one of n rows, the same one in each run.
func (w *writer) pick(b, k, n int64) int64 {
	return int64(mix(uint64(b)<<16^uint64(k)<<8^uint64(w.id)<<40^w.p.seed) % uint64(n))
}

func (w *writer) insertExisting(r int64, version uint32) error {
	w.p.putKey(w.key, r)
	err := w.tx.insert(tableRows, w.key, w.p.fillValue(w.val, r, versionBogus))
	if !errors.Is(err, errKeyExists) {
		w.read.v.mismatch("%s: insert of existing row %d: %v, want ErrKeyExists", w.read.who, r, err)
	}
	return w.read.checkRow(w.tx, r, version)
}
