package recordcache

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/tablespace"
	"github.com/sakerdb/saker/versionchain"
)

// Survey is what a walk over the leaf map learns about the space that frames
// take. Live bytes are an estimate: without reading a frame nobody knows which of
// its rows newer frames of the leaf supersede. It errs on the low side, which
// costs a rewrite of the leaf at most, after which it is exact.
type Survey struct {
	Runs   map[base.RunID]RunSurvey
	Live   int64 // bytes of all decided frames that would stay
	Rows   int64 // in decided frames
	Leaves int64
	// Held are tombstones that a checkpoint would make droppable.
	Held int64
	// Stale are, of the last step, the spans of leaves that list frames of owners
	// whom a crash took: the sweeper knows nothing of these.
	Stale []Span
	// Suspects are, of the last step, leaves for DropReplaced; Dropped counts what it
	// has dropped.
	Suspects []Suspect
	Dropped  int
	samples  map[base.RunID]*sample // for Weigh

	// Horizon and Checkpoint say which tombstones may go.
	Horizon    versionchain.Horizon
	Checkpoint base.CommitTS
}

// RunSurvey is what a survey learned about one run, in bytes.
type RunSurvey struct {
	Live int64 // of its frames
	Cost int64 // to be rewritten before it goes
}

// surveyStep is how many map entries one step of a walk looks at.
const surveyStep = 256

// SurveyStep adds up to surveyStep leaves of the table, from key at on. The
// spans of leaves that list a frame of a run in victims are appended to picked. next is
// where to go on, nil at the end. Dropped tables are passed over. REQUIRES: no
// lock is held.
func (c *Cache) SurveyStep(t *Table, at []byte, s *Survey, victims map[base.RunID]bool, picked []Span) (next []byte, _ []Span, err error) {
	s.Stale, s.Suspects = s.Stale[:0], s.Suspects[:0]
	if t.Dropped.Load() != 0 {
		return nil, picked, nil
	}
	w := c.space.NewWalk(t.ID)
	defer w.Close()
	for range surveyStep {
		en, found, _, high, err := w.Lookup(at)
		if err != nil {
			return nil, picked, err
		}
		if found {
			high = bytes.Clone(en.High)
			if c.surveyLeaf(&en, s, victims) {
				picked = append(picked, Span{bytes.Clone(en.Low), high})
			}
			if victims == nil {
				if f, ok := c.suspect(t, &en, s.Horizon); ok {
					s.Suspects = append(s.Suspects, Suspect{bytes.Clone(en.Low), f})
				}
			}
			if c.listsLost(&en) {
				s.Stale = append(s.Stale, Span{bytes.Clone(en.Low), high})
			}
			c.space.ReleaseEntry(&en)
		}
		if high == nil {
			return nil, picked, nil
		}
		at = bytes.Clone(high)
	}
	return at, picked, nil
}

// listsLost reports whether the entry lists a frame of an owner of an earlier
// incarnation that never committed (L7).
func (c *Cache) listsLost(en *tablespace.Entry) bool {
	for i := range en.Frames {
		if o := en.Frames[i].Owner; o != 0 && o.Incarnation() < c.incarnation && c.owner(o) == nil {
			return true
		}
	}
	return false
}

// settled returns the newest timestamp of a frame whose owner is committed, or
// that has none.
func (c *Cache) settled(f *tablespace.FrameRef) (base.CommitTS, bool) {
	if f.Owner == 0 {
		return f.Newest, true
	}
	o := c.owner(f.Owner)
	if o == nil {
		return 0, false
	}
	st, ts := o.Status()
	return ts, st == versionchain.Committed
}

// surveyLeaf adds one leaf. It reports whether a victim is listed.
func (c *Cache) surveyLeaf(en *tablespace.Entry, s *Survey, victims map[base.RunID]bool) (picked bool) {
	s.Leaves++
	var rows, stones, droppable, most, size, baseSize int64
	large := map[string]bool{}
	ours := make([]bool, len(en.Frames))
	for i := range en.Frames {
		f := &en.Frames[i]
		ts, ok := c.settled(f)
		if !ok {
			continue // its owner's
		}
		ours[i] = true
		picked = picked || victims[f.Run]
		if victims == nil {
			c.sample(f, ts, s)
		}
		if f.Large {
			if f.First != nil && large[string(f.First)] {
				ours[i] = false // another value of the record is counted
			}
			large[string(f.First)] = true
			continue
		}
		rows += int64(f.Rows)
		stones += int64(f.Stones)
		size += int64(f.Len)
		switch {
		case f.Stones == 0 || ts > s.Horizon.Oldest():
		case ts > s.Checkpoint:
			s.Held += int64(f.Stones)
		default:
			droppable += int64(f.Stones)
		}
	}
	bases := basesOf(len(en.Frames), func(i int) (*tablespace.FrameRef, bool) { return &en.Frames[i], ours[i] })
	for i := range en.Frames {
		if bases[i] {
			most += int64(en.Frames[i].Rows - en.Frames[i].Stones)
			baseSize += int64(en.Frames[i].Len)
		}
	}
	s.Rows += rows + int64(len(large))
	// Every row that is not in a base is taken for an update of one in it, and
	// every tombstone for the end of one.
	live := max(0, most-stones) + stones - droppable
	for i := range en.Frames {
		f := &en.Frames[i]
		if !ours[i] {
			continue
		}
		n, cost := int64(f.Len), int64(f.Len)
		if !f.Large && rows > 0 {
			n = n * live / rows
			if cost = size; !bases[i] && !worthAll(size, baseSize) {
				cost -= baseSize
			}
		}
		if !inside(f, en.Low, en.High) {
			n /= 2 // shared by the halves of a split
		}
		r := s.Runs[f.Run]
		r.Live += n
		r.Cost += cost
		s.Runs[f.Run] = r
		s.Live += n
	}
	return picked
}

// worthAll reports whether the later changes of a leaf are so many that its bases
// are rewritten with them, even though only they have to go.
func worthAll(size, bases int64) bool { return (size-bases)*3 > bases }

// basesOf marks the frames of a leaf that hold most of it and do not overlap: the
// others are taken for later changes of their rows. Frames for which the second
// result of at is false, and large values, are left out.
func basesOf(n int, at func(int) (*tablespace.FrameRef, bool)) []bool {
	is := make([]bool, n)
	order := make([]int, 0, n)
	for i := range n {
		if f, ok := at(i); ok && !f.Large {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, _ := at(a)
		y, _ := at(b)
		return cmp.Compare(y.Len, x.Len)
	})
	var taken []*tablespace.FrameRef
	for _, i := range order {
		f, _ := at(i)
		free := len(taken) < maxBases
		for _, b := range taken {
			free = free && disjoint(f, b)
		}
		if free {
			taken = append(taken, f)
			is[i] = true
		}
	}
	return is
}

// maxBases bounds the work for a leaf with a long list.
const maxBases = 64

func disjoint(a, b *tablespace.FrameRef) bool {
	if a.First == nil || b.First == nil {
		return false
	}
	return bytes.Compare(a.Last, b.First) < 0 || bytes.Compare(b.Last, a.First) < 0
}
