package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// verdict counts what was not as the plan says.
type verdict struct {
	mismatches atomic.Int64

	mu    sync.Mutex // guards out and shown
	out   io.Writer
	shown int
}

// shownMax is how many mismatches are told one by one; the rest is counted.
const shownMax = 20

func (v *verdict) mismatch(format string, args ...any) {
	v.mismatches.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shown++; v.shown <= shownMax {
		fmt.Fprintf(v.out, "mismatch: "+format+"\n", args...)
	}
	if v.shown == shownMax {
		fmt.Fprintln(v.out, "mismatch: further ones are only counted")
	}
}

// everyone is the writer of a reader that sees the rows of all writers.
const everyone int64 = -1

// view is what a reader is entitled to see: the rows of one writer, or of all,
// after so many batches.
type view struct {
	writer int64
	done   []int64 // batches over, by writer
	count  int64   // rows that the view has
}

// final is the view of a snapshot behind all commits, or of one writer at its
// own end.
func (p *plan) final(writer int64) view {
	w := view{writer: writer, done: make([]int64, p.writers)}
	for i := range w.done {
		w.done[i] = p.batchesOf(int64(i))
	}
	if writer == everyone {
		w.count = p.countAll()
	} else {
		w.count = p.count(writer, w.done[writer])
	}
	return w
}

// nothing is the view of a snapshot that no commit has reached.
func (p *plan) nothing() view {
	return view{writer: everyone, done: make([]int64, p.writers)}
}

// version is the version of a row in the view, 0 for none.
func (w *view) version(p *plan, r int64) uint32 {
	owner, i := p.owner(r)
	if w.writer != everyone && w.writer != owner {
		return 0
	}
	return p.version(i, w.done[owner])
}

// reader checks what one goroutine reads.
type reader struct {
	p   *plan
	v   *verdict
	who string // for mismatches
	key []byte
	buf []byte

	seen, want []int64 // of window
}

func newReader(p *plan, v *verdict, who string) *reader {
	return &reader{p: p, v: v, who: who, key: make([]byte, 8)}
}

// checkRow reads one row by its key and checks that it has that version.
func (c *reader) checkRow(tx txn, r int64, version uint32) error {
	c.p.putKey(c.key, r)
	var err error
	c.buf, err = tx.get(c.buf[:0], tableRows, c.key)
	switch {
	case errors.Is(err, errNotFound):
		if version != 0 {
			c.v.mismatch("%s: get: row %d (key %x) is missing, want version %d", c.who, r, c.key, version)
		}
		return nil
	case err != nil:
		return fmt.Errorf("%s: get row %d (key %x): %w", c.who, r, c.key, err)
	case version == 0:
		c.v.mismatch("%s: get: row %d (key %x) exists%s, want none", c.who, r, c.key, c.describe(c.buf, r))
	case !c.p.checkValue(c.buf, r, version):
		c.v.mismatch("%s: get: row %d (key %x) has%s, want version %d", c.who, r, c.key, c.describe(c.buf, r), version)
	}
	return nil
}

// describe says which version of the row a value is, for a message.
func (c *reader) describe(value []byte, r int64) string {
	if version := c.p.identify(value, r); version != 0 {
		return fmt.Sprintf(" version %d", version)
	}
	return fmt.Sprintf(" %d bytes that are no version of it", len(value))
}

// scan is one SELECT being checked, row by row.
type scan struct {
	c       *reader
	view    view
	reverse bool
	limit   int64 // rows after which to stop

	ctx      context.Context
	progress func(rows int64)

	rows int64 // seen, good or bad
	good int64 // that the view has
	last uint64
}

// chunk is how many rows go by between looks at the context and the progress.
const chunk = 1024

// row checks the next row; false ends the scan. Only one that is in order
// counts as good, so none is counted twice.
func (s *scan) row(key, value []byte) bool {
	c := s.c
	s.rows++
	if len(key) != 8 {
		c.v.mismatch("%s: scan: key %x is no key of ours", c.who, key)
		return s.goOn()
	}
	k := binary.BigEndian.Uint64(key)
	if s.rows > 1 && (k == s.last || (k < s.last) != s.reverse) {
		c.v.mismatch("%s: scan: key %x follows %x", c.who, k, s.last)
		s.last = k
		return s.goOn()
	}
	s.last = k
	r, ok := c.p.rowAt(k)
	if !ok {
		c.v.mismatch("%s: scan: key %x is of no row", c.who, k)
		return s.goOn()
	}
	version := s.view.version(c.p, r)
	if version == 0 {
		c.v.mismatch("%s: scan: row %d (key %x) exists%s, want none", c.who, r, k, c.describe(value, r))
		return s.goOn()
	}
	s.good++
	if !c.p.checkValue(value, r, version) {
		c.v.mismatch("%s: scan: row %d (key %x) has%s, want version %d", c.who, r, k, c.describe(value, r), version)
	}
	return s.goOn()
}

func (s *scan) goOn() bool {
	if s.rows%chunk == 0 {
		if s.progress != nil {
			s.progress(chunk)
		}
		if s.ctx.Err() != nil {
			return false
		}
	}
	return s.rows < s.limit
}

// fullScan reads the whole table and checks content, order and completeness.
func (c *reader) fullScan(ctx context.Context, tx txn, w view, reverse bool, progress func(int64)) error {
	s := &scan{c: c, view: w, reverse: reverse, limit: rowsMax + 1, ctx: ctx, progress: progress}
	if err := tx.scan(tableRows, nil, nil, reverse, s.row); err != nil {
		return fmt.Errorf("%s: scan after %d rows: %w", c.who, s.rows, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if progress != nil {
		progress(s.rows % chunk)
	}
	if missing := w.count - s.good; missing != 0 {
		c.v.mismatch("%s: scan: %d rows of %d are missing", c.who, missing, w.count)
		c.v.mismatches.Add(max(0, missing-1)) // each of them is a mismatch
	}
	return nil
}

// windowRows is the length of the short scans beside a running insert.
const windowRows = 100

// window scans a short range that starts (or, in reverse, ends) at a row, and
// checks what the view has in it: content and order, and in key order, where the
// rows of a range are neighbours, exactly which.
func (c *reader) window(ctx context.Context, tx txn, w view, r int64, reverse bool) error {
	c.p.putKey(c.key, r)
	from, to := c.key, []byte(nil)
	if reverse {
		from, to = nil, c.key
	}
	s := &scan{c: c, view: w, reverse: reverse, limit: windowRows, ctx: ctx}
	c.seen = c.seen[:0]
	err := tx.scan(tableRows, from, to, reverse, func(key, value []byte) bool {
		more := s.row(key, value)
		row, _ := c.p.rowAt(s.last)
		c.seen = append(c.seen, row)
		return more
	})
	if err != nil {
		return fmt.Errorf("%s: short scan at row %d: %w", c.who, r, err)
	}
	if err := ctx.Err(); err != nil || c.p.random {
		return err
	}
	if want := c.expect(w, r, reverse); !slices.Equal(c.seen, want) {
		c.v.mismatch("%s: short scan at row %d: rows %d, want %d", c.who, r, c.seen, want)
	}
	return nil
}

// expect lists the rows that window must find, in key order.
func (c *reader) expect(w view, r int64, reverse bool) []int64 {
	lo, hi, step := r, int64(0), int64(1)
	for _, done := range w.done {
		hi = max(hi, min(done<<c.p.shift*c.p.writers, c.p.rows))
	}
	if reverse {
		lo, hi, step = r-1, -1, -1
	}
	c.want = c.want[:0]
	for next := lo; (next < hi) != reverse && next != hi && len(c.want) < windowRows; next += step {
		if w.version(c.p, next) != 0 {
			c.want = append(c.want, next)
		}
	}
	return c.want
}
