package recordcache

import (
	"context"

	"github.com/sakerdb/saker/internal/arena"
	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Sizes of leaves and frames, in bytes.
const (
	maxPage = arena.MaxBlock
	// targetFrame is what a leaf's frame aims at when a leaf is cut.
	targetFrame = 9 << 10
	// frameSlack bounds what frames add to the rows of one page: headers, fences
	// and filters of as many owners as a page can have.
	frameSlack = 96 << 10
	// minFrameRows is how many rows of one small transaction make a frame
	// worthwhile; fewer are chilled.
	minFrameRows = 8
	// maxBounds is how long the first and last key of a frame may be together to
	// be kept in its list entry.
	maxBounds = 1 << 10
	// maxList is how many frames a leaf may list before they are merged.
	maxList = 8
)

// worker is the memory of one backlogging, checkpointing or merging step. It is
// pooled, so that whoever frees memory needs none (M2).
type worker struct {
	page   []byte // a copy of a page under construction
	frame  []byte
	owners []ownerRows
	thawed []thawedRow
	added  []frame
	sc     Scratch
	room   room
}

// room is what is left of a reservation of buffer bytes and edits.
type room struct{ buf, edits int }

// reserve waits for buffer and queue room; unreserve gives back what is left of
// it. REQUIRES: no lock is held (M7).
func (c *Cache) reserve(ctx context.Context, w *worker, buf, edits int) error {
	if buf > 0 {
		if err := c.space.ReserveBuffer(ctx, buf); err != nil {
			return err
		}
	}
	if err := c.space.ReserveEdits(ctx, edits); err != nil {
		c.space.UnreserveBuffer(buf)
		return err
	}
	w.room = room{buf, edits}
	return nil
}

func (c *Cache) unreserve(w *worker) {
	if w.room.buf > 0 {
		c.space.UnreserveBuffer(w.room.buf)
	}
	if w.room.edits > 0 {
		c.space.UnreserveEdits(w.room.edits)
	}
	w.room = room{}
}

// end ends an edit and uses up its place.
func (w *worker) end(e *tablespace.EditTx) {
	e.End()
	w.room.edits--
}

// ownerRows collects what goes into the frames of one owner.
type ownerRows struct {
	out  *versionchain.Outcome // nil: committed rows
	rows []versionchain.Row
	n    int // rows counted in the first pass
	held bool
}

// thawedRow is the data of a chilled version, read before the leaf was locked.
type thawedRow struct {
	lsn   base.LSN
	len   int
	key   []byte
	value []byte
}

func newWorker() *worker {
	return &worker{page: make([]byte, maxPage), frame: make([]byte, 0, maxPage+8<<10)}
}

func (c *Cache) getWorker() *worker {
	if w, ok := c.workers.Get().(*worker); ok {
		return w
	}
	return newWorker()
}

func (c *Cache) putWorker(w *worker) {
	w.reset()
	if cap(w.frame) > 8*maxPage {
		w.frame = make([]byte, 0, maxPage)
	}
	w.sc.trim()
	c.workers.Put(w)
}

func (w *worker) reset() {
	w.forgetOwners()
	clear(w.thawed)
	w.thawed = w.thawed[:0]
	clear(w.added)
	w.added = w.added[:0]
}

// forgetOwners drops what was collected or counted.
func (w *worker) forgetOwners() {
	for i := range w.owners {
		clear(w.owners[i].rows)
		w.owners[i].rows = w.owners[i].rows[:0]
		w.owners[i].out, w.owners[i].n, w.owners[i].held = nil, 0, false
	}
	w.owners = w.owners[:0]
}

// of returns the collection for the owner.
func (w *worker) of(o *versionchain.Outcome) *ownerRows {
	for i := range w.owners {
		if w.owners[i].out == o {
			return &w.owners[i]
		}
	}
	if len(w.owners) < cap(w.owners) {
		w.owners = w.owners[:len(w.owners)+1]
	} else {
		w.owners = append(w.owners, ownerRows{})
	}
	or := &w.owners[len(w.owners)-1]
	or.out = o
	return or
}

// thawedValue returns the value that was read for a chilled version.
func (w *worker) thawedValue(lsn base.LSN) ([]byte, bool) {
	for i := range w.thawed {
		if w.thawed[i].lsn == lsn {
			return w.thawed[i].value, true
		}
	}
	return nil, false
}

// seal encodes rows of one owner as a frame of the leaf range [low, high) and
// adds it to the edit. It returns the list entry.
func (c *Cache) seal(w *worker, e *tablespace.EditTx, t *Table, or *ownerRows, rows []versionchain.Row, low, high []byte, image bool) (frame, error) {
	m := versionchain.FrameMeta{Table: t.ID, Low: low, High: high, Image: image}
	var run *tablespace.Run
	var err error
	if or.out != nil {
		m.Owner = or.out.ID
		run, err = c.backlog.Temp(or.out).Run()
	} else {
		run, err = c.backlog.Permanent()
	}
	if err != nil {
		return frame{}, err
	}
	for i := range rows {
		m.Newest = max(m.Newest, rows[i].TS)
		m.Leave = max(m.Leave, rows[i].Leave)
	}
	w.frame = versionchain.AppendFrame(w.frame[:0], &m, rows)
	fr, err := versionchain.ParseFrame(w.frame)
	if err != nil {
		return frame{}, err
	}
	f := frame{out: or.out}
	f.FrameRef = tablespace.FrameRef{
		Addr:   e.AddFrame(run, w.frame, t.ID, m.Owner),
		Owner:  m.Owner,
		Newest: m.Newest,
		Leave:  m.Leave,
		Rows:   uint32(len(rows)),
		Image:  image,
		Large:  isLarge(rows),
		Filter: append([]byte(nil), fr.Filter()...),
	}
	if first, last := rows[0].Key, rows[len(rows)-1].Key; f.Large || len(first)+len(last) <= maxBounds {
		b := append(append(make([]byte, 0, len(first)+len(last)), first...), last...)
		f.First, f.Last = b[:len(first):len(first)], b[len(first):]
	}
	w.room.buf -= len(w.frame)
	e.Refs(run.ID(), 1)
	return f, nil
}

// isLarge reports whether the rows are one large value, alone.
func isLarge(rows []versionchain.Row) bool {
	return len(rows) == 1 && len(rows[0].Value) > base.LargeValueSize
}

// hold keeps o active until unhold; false when it no longer is.
func (w *worker) hold(o *versionchain.Outcome) bool {
	or := w.of(o)
	if !or.held {
		or.held = o.Hold()
	}
	return or.held
}

func (w *worker) unhold() {
	for i := range w.owners {
		if w.owners[i].held {
			w.owners[i].out.Unhold()
			w.owners[i].held = false
		}
	}
}

// MaxBlock is the largest block of record memory that one allocation takes.
const MaxBlock = maxPage
