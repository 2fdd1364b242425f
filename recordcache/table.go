package recordcache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/google/btree"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// dirItem is one present leaf in the directory. low is the leaf's low fence when
// the item was made; a leaf that was sealed since has moved right, and keys
// between the two belong to a gap. head spares most comparisons the pointer.
type dirItem struct {
	head uint64
	low  string
	leaf *Leaf
}

// itemAt returns an item that borrows low: fences never change, and a search
// does not outlive its key.
func itemAt(low []byte, l *Leaf) dirItem {
	return dirItem{head: dirHead(low), low: unsafe.String(unsafe.SliceData(low), len(low)), leaf: l}
}

func dirHead(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func dirLess(a, b dirItem) bool {
	if a.head != b.head {
		return a.head < b.head
	}
	return a.low < b.low
}

type directory = btree.BTreeG[dirItem]

// Table is one table's part of the record cache: the directory of its present
// leaves. What no present leaf covers is a gap, and the leaf map answers for it.
type Table struct {
	ID    base.TableID
	Name  string
	cache *Cache

	dir     atomic.Pointer[directory] // a clone of tree, never changed; nil: of none since it changed
	version atomic.Uint64             // of tree; rises with each change, after dir has gone

	mu       sync.Mutex // guards tree, searches, claim and gone, and with a leaf's lock its fences
	tree     *directory
	searches int // of tree since it changed
	index    indexState
	// claim, if not nil, is a gap whose entry is being made shorter: no leaf of it
	// becomes present. short is the epoch of an entry that could not be shortened
	// below the bound.
	claim *claim
	short atomic.Uint64
	gone  bool // dropped: no leaf becomes present any more
	// moved counts leaves that went back to the leaf map, sealed counts entries
	// made in what was no entry before: an install that read the map before
	// such a change must read it again.
	moved, sealed atomic.Uint64

	// Number is the last record number handed out; NumberCeiling is logged.
	NumberMu      sync.Mutex
	Number        uint64
	NumberCeiling uint64
	NumberLoaded  bool

	// Dropped holds the timestamp from which on the table is gone, 0 while it
	// lives.
	Dropped atomic.Uint64
	// DropEnd is a log position behind the record of the drop.
	DropEnd base.LSN
	// Writers counts live transactions that wrote the table.
	Writers atomic.Int64

	// Indexes are the table's secondary indexes, nil for none. The slice is never
	// changed, only replaced.
	Indexes atomic.Pointer[[]*Index]
}

func newTable(c *Cache, id base.TableID, name string) *Table {
	t := &Table{ID: id, Name: name, cache: c}
	t.tree = btree.NewG(32, dirLess)
	return t
}

// Of reports whether the table is one of c's.
func (t *Table) Of(c *Cache) bool { return t.cache == c && c != nil }

// floor returns the present leaf with the greatest low fence ≤ key, or nil.
func floor(d *directory, key []byte) *Leaf {
	var l *Leaf
	d.DescendLessOrEqual(itemAt(key, nil), func(it dirItem) bool {
		l = it.leaf
		return false
	})
	return l
}

// above returns the first present leaf whose item lies strictly above key.
func above(d *directory, key []byte) *Leaf {
	var l *Leaf
	d.AscendGreaterOrEqual(itemAt(key, nil), func(it dirItem) bool {
		if it.low == string(key) {
			return true
		}
		l = it.leaf
		return false
	})
	return l
}

// below returns the last present leaf whose item lies strictly below key; nil
// key is the end of the table.
func below(d *directory, key []byte) *Leaf {
	var l *Leaf
	visit := func(it dirItem) bool {
		if key != nil && it.low == string(key) {
			return true
		}
		l = it.leaf
		return false
	}
	if key == nil {
		d.Descend(visit)
	} else {
		d.DescendLessOrEqual(itemAt(key, nil), visit)
	}
	return l
}

// changedLocked says that the tree has changed. REQUIRES: t.mu is held.
func (t *Table) changedLocked() {
	t.dir.Store(nil)
	t.version.Add(1)
	t.searches = 0
	t.index.leaves.Store(int64(t.tree.Len()))
	t.index.changes++
	t.index.agedLocked()
}

// cloneAfter is how many searches an unchanged tree serves under its lock before
// it is cloned for searches without one: a clone makes the next change copy a
// path of nodes.
const cloneAfter = 32

// directory returns the present leaves as of now, to be searched without a lock.
func (t *Table) directory() *directory {
	if d := t.dir.Load(); d != nil {
		return d
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cloneLocked()
}

func (t *Table) cloneLocked() *directory {
	d := t.dir.Load()
	if d == nil {
		d = t.tree.Clone()
		t.dir.Store(d)
	}
	return d
}

// search returns the present leaf with the greatest low fence ≤ key, nil if there
// is none, and the version of the directory that says so, or an older one.
func (t *Table) search(key []byte) (*Leaf, uint64) {
	v := t.version.Load() // before the directory: never newer than it
	if d := t.dir.Load(); d != nil {
		return floor(d, key), v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.searches++; t.searches >= cloneAfter {
		t.cloneLocked()
	}
	return floor(t.tree, key), t.version.Load()
}

// addLocked enters l into the directory and repairs the item of the leaf to its
// left if that leaf has moved right since: otherwise l would hide it.
// REQUIRES: t.mu is held.
func (t *Table) addLocked(l *Leaf) {
	var pred dirItem
	t.tree.DescendLessOrEqual(itemAt(l.low, nil), func(it dirItem) bool {
		pred = it
		return false
	})
	if pred.leaf != nil && bytes.Compare(pred.leaf.low, l.low) > 0 {
		t.tree.Delete(pred)
		t.tree.ReplaceOrInsert(itemAt(pred.leaf.low, pred.leaf))
	}
	t.tree.ReplaceOrInsert(itemAt(l.low, l))
	t.changedLocked()
}

// removeLocked takes l out of the directory. REQUIRES: t.mu is held.
func (t *Table) removeLocked(l *Leaf) {
	it, ok := t.tree.Get(itemAt(l.low, nil))
	if !ok || it.leaf != l {
		// The item carries an older fence of a leaf that moved right.
		ok = false
		t.tree.DescendLessOrEqual(itemAt(l.low, nil), func(x dirItem) bool {
			it, ok = x, x.leaf == l
			return false
		})
		if !ok {
			return
		}
	}
	t.tree.Delete(it)
	t.changedLocked()
}

// find returns a present leaf that covered key a moment ago, nil for a gap. The
// caller locks it and asks covers again.
func (t *Table) find(key []byte) *Leaf {
	for {
		l, version := t.search(key)
		if l == nil {
			return nil
		}
		l.mu.RLock()
		ok := l.covers(key)
		l.mu.RUnlock()
		if ok {
			return l
		}
		if t.version.Load() == version {
			return nil
		}
	}
}

// install makes the leaf that covers key present. REQUIRES: no lock is held.
// errNoMemory: its descriptor and list do not fit, or are too long for it.
func (t *Table) install(key []byte) error {
	_, err := t.bring(key, 0)
	return err
}

// installShort is install; a list that is too long is made shorter first.
// REQUIRES: nothing is reserved.
func (t *Table) installShort(key []byte) error {
	err := t.install(key)
	if errors.Is(err, errLongList) {
		return t.shorten(context.Background(), key)
	}
	return err
}

// bring makes the leaf that covers key present. With need it gets a page that has
// need bytes free, and is returned locked: whoever writes takes all that this
// takes of record memory in one step, or nothing, and nobody takes it away again
// before the write. nil: somebody was faster or the map has changed, search again.
// errNoMemory, errLongList. REQUIRES: no lock is held.
func (t *Table) bring(key []byte, need int) (*Leaf, error) {
	c := t.cache
	moved, sealed := t.moved.Load(), t.sealed.Load()
	x, err := c.lookup(func() (tablespaceEntry, bool, []byte, []byte, error) { return c.space.Lookup(t.ID, key) })
	if err != nil {
		return nil, err
	}
	defer c.space.ReleaseEntry(&x.en)
	l, found := &Leaf{table: t}, x.found
	if found {
		l.setFences(x.en.Low, x.en.High)
		l.mapped = true
		if l.list = x.list; l.list == nil {
			l.list = newList(x.en.Seq, nil)
		}
		l.sole, l.partial = l.list.sole, true
		if listCost(l.list.frames) > c.maxListCost() && !t.asShortAsCanBe(x.en.Seq) {
			return nil, errLongList
		}
	} else {
		l.low, l.high = x.low, x.high
	}
	if err := l.take(c, need); err != nil {
		return nil, err
	}
	crowded := l.list != nil && l.list.overlapping() > maxList
	if need > 0 {
		l.mu.Lock()
	}
	ok, err := t.link(l, key, found, moved, sealed)
	if !ok {
		if b := l.page.Block(); b != nil {
			c.arena.Free(b)
		}
		c.arena.Uncharge(l.charged)
		return nil, err
	}
	if crowded && c.mergeReq != nil {
		c.mergeReq(t, bytes.Clone(key))
	}
	if need == 0 {
		l = nil
	}
	return l, nil
}

// take charges what a new leaf costs and gives it a page with need bytes free,
// both or neither.
func (l *Leaf) take(c *Cache, need int) error {
	cost := l.cost()
	if need == 0 {
		if !c.arena.Charge(cost) {
			return &needError{cost}
		}
		l.charged = cost
		return nil
	}
	want := need
	b := c.arena.AllocCharge(min(maxPage, want+growth(want)), cost)
	if b == nil {
		b = c.arena.AllocCharge(want, cost)
	}
	if b == nil {
		return &needError{cost + int64(want)}
	}
	l.charged = cost
	l.page = versionchain.MakePage(b)
	return nil
}

// link enters a leaf read from the map into the directory, unless what was read
// may be stale.
func (t *Table) link(l *Leaf, key []byte, entry bool, moved, sealed uint64) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return false, base.ErrTableNotFound
	}
	if t.claimed(key) {
		return false, errLongList // shorten waits for the claim to be lifted
	}
	if t.moved.Load() != moved || (!entry && t.sealed.Load() != sealed) {
		return false, nil
	}
	if entry && t.overlapsLocked(l) {
		return false, nil // a leaf made from the same entry has moved right, or been split
	}
	if p := floor(t.tree, key); p != nil {
		if bytes.Compare(key, p.low) >= 0 {
			if p.high == nil || bytes.Compare(key, p.high) < 0 {
				return false, nil // present by now
			}
			if !entry && bytes.Compare(p.high, l.low) > 0 {
				l.low = p.high
			}
		} else if !entry && (l.high == nil || bytes.Compare(p.low, l.high) < 0) {
			l.high = p.low // p has moved right: the gap ends at its fence
		}
		if !entry && bytes.Compare(p.low, key) > 0 {
			// The leaf before p bounds the gap from the left.
			if q := t.beforeLocked(p); q != nil && q.high != nil && bytes.Compare(q.high, l.low) > 0 {
				l.low = q.high
			}
		}
	}
	if n := above(t.tree, key); n != nil && !entry {
		if l.high == nil || bytes.Compare(n.low, l.high) < 0 {
			l.high = n.low
		}
	}
	l.setFences(l.low, l.high)
	// The neighbours' fences may be longer than those of the entry, or shorter: keys
	// of 8 KiB cost, and what was charged for one that is not the leaf's stayed charged.
	if !l.settleCharge(t.cache) {
		return false, &needError{l.cost() - l.charged}
	}
	// In the ring before anybody can find it: a commit that walks the ring must
	// not miss a leaf that its transaction has written.
	t.cache.ring.add(l)
	t.addLocked(l)
	return true, nil
}

// overlapsLocked reports whether a present leaf has keys of l's range. If so, the
// entry that l was read from is not in the map any more, or does not end there: a
// leaf was made present from it, lost its frames, and sealed what it was filled
// with into entries of their own. As long as that leaf, or a part of it, is present,
// it is found here; when it collapses, moved tells. REQUIRES: t.mu is held.
func (t *Table) overlapsLocked(l *Leaf) bool {
	found := false
	look := func(it dirItem) bool {
		p := it.leaf
		found = (l.high == nil || bytes.Compare(p.low, l.high) < 0) && (p.high == nil || bytes.Compare(p.high, l.low) > 0)
		return !found && (l.high == nil || it.low < string(l.high))
	}
	if p := floor(t.tree, l.low); p != nil {
		look(dirItem{leaf: p})
	}
	if !found {
		t.tree.AscendGreaterOrEqual(itemAt(l.low, nil), look)
	}
	return found
}

// beforeLocked returns the leaf whose item precedes that of l.
func (t *Table) beforeLocked(l *Leaf) *Leaf {
	var out *Leaf
	seen := false
	t.tree.DescendLessOrEqual(itemAt(l.low, nil), func(it dirItem) bool {
		if it.leaf == l {
			seen = true
			return true
		}
		if !seen {
			return true
		}
		out = it.leaf
		return false
	})
	return out
}

// looked is the answer of the leaf map: an entry and its list, nil when nothing of
// it is visible to anybody, or a hole.
type looked struct {
	en        tablespaceEntry // its runs are held until ReleaseEntry
	found     bool
	low, high []byte // of the entry, or the hole around the key
	list      *frameList
}

// lookup asks the leaf map and finds the owners of what it lists. Between the two
// a rolled back owner may be swept and forgotten: then its frames have left the
// entry, and asking again shows it. An owner that stays unknown is corruption.
func (c *Cache) lookup(ask func() (en tablespaceEntry, found bool, holeLow, holeHigh []byte, err error)) (x looked, err error) {
	for seq := base.EditSeq(0); ; seq = x.en.Seq {
		if x.en, x.found, x.low, x.high, err = ask(); err != nil || !x.found {
			return x, err
		}
		if c.AfterLookup != nil {
			c.AfterLookup()
		}
		x.low, x.high = x.en.Low, x.en.High
		if x.list, err = c.listOf(&x.en); err == nil {
			return x, nil
		}
		c.space.ReleaseEntry(&x.en)
		if x.en.Seq == seq {
			return x, err
		}
	}
}

// listOf makes a leaf's list of a map entry; nil when it lists nothing. Frames of
// owners that never committed are left out: of an earlier incarnation without
// outcome, or aborted (L7).
func (c *Cache) listOf(en *tablespaceEntry) (*frameList, error) {
	var frames []frame
	var gone []base.RunID
	for i := range en.Frames {
		f := frame{FrameRef: en.Frames[i]}
		if f.Owner != 0 {
			o := c.owner(f.Owner)
			if o == nil && f.Owner.Incarnation() >= c.incarnation {
				return nil, unknownOwner(f.Owner)
			}
			if o == nil || o.Aborted() {
				gone = append(gone, f.Run)
				continue
			}
			f.out = o
		}
		frames = append(frames, f)
	}
	if len(frames)+len(gone) == 0 {
		return nil, nil
	}
	l := newList(en.Seq, frames)
	l.gone = gone
	return l, nil
}
