package history

import (
	"cmp"
	"slices"
)

// element names an element for all keys.
type element struct {
	key   int
	value int32
}

// write is who appended an element.
type write struct {
	txn    int32
	undone bool // rolled back to a savepoint
	final  bool // the transaction's last one of the key
	read   bool // by anybody
}

// object is what is known of one key.
type object struct {
	key     int
	longest []int32 // the longest list that others than its writers read
	bad     int     // index of its first element that never happened, or -1
	unread  []int32 // transactions that appended what nobody read
	order   []int32 // transaction of each element of longest; -1: none that counts
}

// view is one read, as the number of elements that others appended before.
type view struct {
	txn, obj, pos int32
	missed        bool // by a scan that found no row
}

// base is a version that a transaction read and then appended to.
type base struct{ obj, pos, txn int32 }

type checker struct {
	h      *History
	res    *Result
	writes map[element]*write
	index  map[int]int32 // key to objs
	objs   []object      // ascending
	views  []view
	bases  []base
	graph  graph
}

// happened reports whether the transaction's appends count.
func (c *checker) happened(w *write) bool {
	s := c.h.Txns[w.txn].Status
	return !w.undone && (s == Committed || (s == Unknown && w.read))
}

// reads reports whether the transaction's reads take part in the graph.
func (c *checker) reads(t *Txn) bool {
	return t.Status == Committed || (t.Status == Aborted && c.h.Snapshots)
}

// collectWrites finds who appended what, and all keys.
func (c *checker) collectWrites() {
	c.writes = make(map[element]*write)
	keys := make(map[int]struct{})
	for ti := range c.h.Txns {
		t := &c.h.Txns[ti]
		var own ownAppends
		for oi := range t.Ops {
			op := &t.Ops[oi]
			switch op.Kind {
			case Append:
				keys[op.Key] = struct{}{}
				e := element{op.Key, op.Value}
				if w := c.writes[e]; w != nil {
					c.res.add(Duplicate, []int{c.h.Txns[w.txn].ID, t.ID}, "%d was appended to key %d twice", op.Value, op.Key)
					continue
				}
				c.writes[e] = &write{txn: int32(ti)}
				own.add(oi, e)
			case Read:
				keys[op.Key] = struct{}{}
			case Scan:
				for i := range op.Rows {
					keys[op.Rows[i].Key] = struct{}{}
				}
			case Undo:
				for _, e := range own.undo(op.To) {
					c.writes[e].undone = true
				}
			case Mark:
			}
		}
		for _, a := range own.list {
			if own.last(a.key) == a.value {
				c.writes[a.element].final = true
			}
		}
	}
	c.index = make(map[int]int32, len(keys))
	for k := range keys {
		c.objs = append(c.objs, object{key: k, bad: -1})
	}
	slices.SortFunc(c.objs, func(a, b object) int { return cmp.Compare(a.key, b.key) })
	for i := range c.objs {
		c.index[c.objs[i].key] = int32(i)
	}
}

// ownAppends is what a transaction has appended so far, and not rolled back.
type ownAppends struct{ list []ownAppend }

type ownAppend struct {
	op int // index
	element
}

func (o *ownAppends) add(op int, e element) { o.list = append(o.list, ownAppend{op, e}) }

// undo takes back what was appended after the operation at index op.
func (o *ownAppends) undo(op int) (gone []element) {
	for n := len(o.list); n > 0 && o.list[n-1].op > op; n = len(o.list) {
		gone = append(gone, o.list[n-1].element)
		o.list = o.list[:n-1]
	}
	return gone
}

// of appends the elements of key to dst, in their order.
func (o *ownAppends) of(dst []int32, key int) []int32 {
	for i := range o.list {
		if o.list[i].key == key {
			dst = append(dst, o.list[i].value)
		}
	}
	return dst
}

// last returns the newest element of key.
func (o *ownAppends) last(key int) int32 {
	for _, a := range slices.Backward(o.list) {
		if a.key == key {
			return a.value
		}
	}
	return 0
}

// reader follows one transaction through its operations.
type reader struct {
	*checker
	ti      int32
	t       *Txn
	own     ownAppends
	scratch []int32
	seen    map[int32]int32 // object to the position last read
	fixed   map[int32]int32 // the position below own appends: nobody else can append
}

// readAll judges every read and takes down what it saw.
func (c *checker) readAll() {
	for ti := range c.h.Txns {
		r := &reader{checker: c, ti: int32(ti), t: &c.h.Txns[ti], seen: map[int32]int32{}, fixed: map[int32]int32{}}
		for oi := range r.t.Ops {
			op := &r.t.Ops[oi]
			switch op.Kind {
			case Append:
				r.append(oi, op)
			case Read:
				r.read(op.Key, op.List, false)
			case Scan:
				r.scan(op)
			case Undo:
				for _, e := range r.own.undo(op.To) {
					delete(r.fixed, c.index[e.key])
				}
			case Mark:
			}
		}
	}
}

func (r *reader) append(oi int, op *Op) {
	e := element{op.Key, op.Value}
	if r.writes[e].txn != r.ti {
		return // a duplicate
	}
	obj := r.index[op.Key]
	if r.scratch = r.own.of(r.scratch[:0], op.Key); len(r.scratch) == 0 {
		if pos, ok := r.seen[obj]; ok && r.t.Status == Committed && !r.writes[e].undone {
			r.bases = append(r.bases, base{obj, pos, r.ti})
		}
	}
	r.own.add(oi, e)
}

func (r *reader) scan(op *Op) {
	i, _ := slices.BinarySearchFunc(r.objs, op.From, func(o object, key int) int { return cmp.Compare(o.key, key) })
	rows := op.Rows
	for ; i < len(r.objs) && r.objs[i].key < op.To; i++ {
		key := r.objs[i].key
		if len(rows) > 0 && rows[0].Key == key {
			r.read(key, rows[0].List, false)
			rows = rows[1:]
			continue
		}
		r.read(key, nil, true)
	}
	if len(rows) > 0 {
		r.res.add(Garbage, []int{r.t.ID}, "T%d: a scan of [%d, %d) found key %d", r.t.ID, op.From, op.To, rows[0].Key)
	}
}

// read takes down one read and checks what needs no graph.
func (r *reader) read(key int, list []int32, missed bool) {
	obj := r.index[key]
	own := r.own.of(r.scratch[:0], key)
	r.scratch = own
	n := len(list) - len(own)
	if n < 0 || !slices.Equal(list[n:], own) {
		r.res.add(Internal, []int{r.t.ID}, "T%d read %v of key %d, and had itself appended %v", r.t.ID, list, key, own)
		return
	}
	list = list[:n]
	if len(own) > 0 {
		if pos, ok := r.fixed[obj]; ok && int(pos) != n {
			r.res.add(Internal, []int{r.t.ID}, "T%d saw %d and then %d elements of key %d below its own", r.t.ID, pos, n, key)
		}
		r.fixed[obj] = int32(n)
	}
	if !r.compare(obj, list) {
		return
	}
	o := &r.objs[obj]
	if o.bad >= 0 && n > o.bad {
		w := r.writes[element{key, list[o.bad]}]
		r.res.add(G1a, []int{r.t.ID, r.h.Txns[w.txn].ID}, "T%d read %d of key %d, which T%d rolled back", r.t.ID, list[o.bad], key, r.h.Txns[w.txn].ID)
	}
	if n > 0 {
		w := r.writes[element{key, list[n-1]}]
		if w.txn == r.ti && !w.undone {
			r.res.add(Internal, []int{r.t.ID}, "T%d read %v of key %d before it appended that", r.t.ID, list, key)
			return
		}
		if !w.final && !w.undone {
			r.res.add(G1b, []int{r.t.ID, r.h.Txns[w.txn].ID}, "T%d read %d of key %d, and T%d appended more", r.t.ID, list[n-1], key, r.h.Txns[w.txn].ID)
		}
	}
	r.seen[obj] = int32(n)
	if r.reads(r.t) {
		r.views = append(r.views, view{txn: r.ti, obj: obj, pos: int32(n), missed: missed})
	}
}

// compare checks that the list read agrees with the longest one known, which it
// may replace. It reports whether it does.
func (r *reader) compare(obj int32, list []int32) bool {
	o := &r.objs[obj]
	n := min(len(list), len(o.longest))
	if !slices.Equal(list[:n], o.longest[:n]) {
		r.res.add(Incompatible, []int{r.t.ID}, "T%d read %v of key %d, others %v", r.t.ID, list, o.key, o.longest)
		return false
	}
	for i := n; i < len(list); i++ {
		w := r.writes[element{o.key, list[i]}]
		switch {
		case w == nil:
			r.res.add(Garbage, []int{r.t.ID}, "T%d read %d of key %d, which nobody appended", r.t.ID, list[i], o.key)
			return false
		case slices.Contains(list[:i], list[i]):
			r.res.add(Duplicate, []int{r.t.ID}, "T%d read %v of key %d", r.t.ID, list, o.key)
			return false
		}
		w.read = true
		if s := r.h.Txns[w.txn].Status; o.bad < 0 && (w.undone || s == Aborted) {
			o.bad = i
		}
		o.longest = list[:i+1]
	}
	return true
}

// orderVersions completes the order of versions: what was read, and behind it
// whatever was committed and not read.
func (c *checker) orderVersions() {
	for i := range c.objs {
		o := &c.objs[i]
		for _, v := range o.longest {
			w := c.writes[element{o.key, v}]
			if c.happened(w) {
				o.order = append(o.order, w.txn)
			} else {
				o.order = append(o.order, -1)
			}
		}
	}
	for e, w := range c.writes {
		o := &c.objs[c.index[e.key]]
		if !w.read && c.happened(w) && !slices.Contains(o.unread, w.txn) {
			if n := len(o.order); n == 0 || o.order[n-1] != w.txn {
				o.unread = append(o.unread, w.txn)
			}
		}
	}
	for i := range c.objs {
		slices.Sort(c.objs[i].unread) // the map has no order, reports shall have one
	}
}

// lostUpdates finds appends to one version by several transactions, and appends
// that a later reader should have seen.
func (c *checker) lostUpdates() {
	slices.SortFunc(c.bases, func(a, b base) int {
		return cmp.Or(cmp.Compare(a.obj, b.obj), cmp.Compare(a.pos, b.pos), cmp.Compare(a.txn, b.txn))
	})
	for i := 1; i < len(c.bases); i++ {
		a, b := c.bases[i-1], c.bases[i]
		if a.obj == b.obj && a.pos == b.pos && a.txn != b.txn {
			x, y := c.h.Txns[a.txn].ID, c.h.Txns[b.txn].ID
			c.res.add(LostUpdate, []int{x, y}, "T%d and T%d appended to the same %d elements of key %d", x, y, a.pos, c.objs[a.obj].key)
		}
	}
	for i := range c.views {
		v := &c.views[i]
		t, o := &c.h.Txns[v.txn], &c.objs[v.obj]
		if int(v.pos) != len(o.order) || t.Begin == 0 {
			continue
		}
		for k, w := range o.unread {
			if u := &c.h.Txns[w]; u.End != 0 && u.End < t.Begin {
				c.res.add(LostUpdate, []int{u.ID, t.ID}, "T%d appended to key %d, T%d began later, nobody ever saw it", u.ID, o.key, t.ID)
				o.unread = slices.Delete(o.unread, k, k+1)
				break
			}
		}
	}
}
