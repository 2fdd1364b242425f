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
	frames []byte // encoded frames, back to back
	coded  []coded
	body   []byte // rows to chill

	in          []byte             // frames read to be merged
	rows, spare []versionchain.Row // slices of in

	owners []ownerRows
	thawed []thawedRow
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
	switch {
	case w.room.buf > 0:
		c.space.UnreserveBuffer(w.room.buf)
	case w.room.buf < 0:
		c.space.OverdrawBuffer(-w.room.buf) // a page of many owners and long fences
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
	return &worker{page: make([]byte, maxPage), frames: make([]byte, 0, maxPage+8<<10)}
}

func (c *Cache) getWorker() *worker {
	if w, ok := c.workers.Get().(*worker); ok {
		return w
	}
	return newWorker()
}

func (c *Cache) putWorker(w *worker) {
	w.reset()
	if cap(w.frames) > 8*maxPage {
		w.frames = make([]byte, 0, maxPage+8<<10)
	}
	if cap(w.body) > 8*maxPage {
		w.body = nil
	}
	if cap(w.in) > 16*maxPage {
		w.in, w.rows, w.spare = nil, nil, nil
	}
	w.sc.trim()
	c.workers.Put(w)
}

func (w *worker) reset() {
	w.forgetOwners()
	clear(w.thawed)
	w.thawed = w.thawed[:0]
	clear(w.coded)
	w.coded, w.frames, w.in = w.coded[:0], w.frames[:0], w.in[:0]
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

// coded is a frame that is encoded and has no place in a run yet.
type coded struct {
	f        frame // but for its address
	from, to int   // of its bytes in worker.frames
}

// encode makes a frame of rows of one owner, for the leaf range [low, high), and
// keeps it in w until it is placed. It is most of the work of sealing, and is done
// before the edit begins: there is one edit at a time in the whole store.
func (w *worker) encode(t *Table, out *versionchain.Outcome, rows []versionchain.Row, low, high []byte, image bool) error {
	m := versionchain.FrameMeta{Table: t.ID, Low: low, High: high, Image: image}
	if out != nil {
		m.Owner = out.ID
	}
	stones := uint32(0)
	for i := range rows {
		if rows[i].Kind != base.KindValue {
			stones++
		}
		m.Newest = max(m.Newest, rows[i].TS)
		m.Leave = max(m.Leave, rows[i].Leave)
	}
	from := len(w.frames)
	w.frames = versionchain.AppendFrame(w.frames, &m, rows)
	fr, err := versionchain.ParseFrame(w.frames[from:])
	if err != nil {
		return err
	}
	f := frame{out: out}
	f.FrameRef = tablespace.FrameRef{
		Owner:  m.Owner,
		Newest: m.Newest,
		Leave:  m.Leave,
		Rows:   uint32(len(rows)),
		Stones: stones,
		Image:  image,
		Large:  isLarge(rows),
		Filter: append([]byte(nil), fr.Filter()...),
	}
	f.First, f.Last = boundsOf(rows[0].Key, rows[len(rows)-1].Key, f.Large)
	w.coded = append(w.coded, coded{f: f, from: from, to: len(w.frames)})
	return nil
}

// place adds the i-th encoded frame to its owner's run and to the edit, and
// returns the list entry.
func (c *Cache) place(w *worker, e *tablespace.EditTx, t *Table, i int) (f frame, err error) {
	cd := &w.coded[i]
	f = cd.f
	var run *tablespace.Run
	if f.out != nil {
		run, err = c.backlog.Temp(f.out).Run()
	} else {
		run, err = c.backlog.Permanent()
	}
	if err != nil {
		return f, err
	}
	b := w.frames[cd.from:cd.to]
	f.Addr = e.AddFrame(run, b, t.ID, f.Owner)
	w.room.buf -= len(b)
	c.Stats.FramedRows.Add(uint64(f.Rows))
	e.Refs(run.ID(), 1)
	return f, nil
}

// placeAll places the encoded frames and appends their list entries to dst. It fails
// only if the store has: nothing of the edit is applied then, but lookups see what it
// puts. So it comes before anything is put.
func (c *Cache) placeAll(dst []frame, w *worker, e *tablespace.EditTx, t *Table) ([]frame, error) {
	for i := range w.coded {
		f, err := c.place(w, e, t, i)
		if err != nil {
			return dst, err
		}
		dst = append(dst, f)
	}
	return dst, nil
}

// isLarge reports whether the rows are one large value, alone.
func isLarge(rows []versionchain.Row) bool {
	return len(rows) == 1 && len(rows[0].Value) > base.LargeValueSize
}

// boundsOf returns copies of a frame's first and last key for its list entry, nil
// if they are too long for one.
func boundsOf(first, last []byte, large bool) (lo, hi []byte) {
	if !large && len(first)+len(last) > maxBounds {
		return nil, nil
	}
	b := append(append(make([]byte, 0, len(first)+len(last)), first...), last...)
	return b[:len(first):len(first)], b[len(first):]
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
