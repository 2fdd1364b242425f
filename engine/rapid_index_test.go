package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"strings"

	"github.com/sakerdb/saker/recordcache"
)

// Indexes in the model. What an index shows is computed from the rows that a
// transaction sees, nothing else. For who is in whose way, and for what a
// serializable transaction has read, the model keeps the versions of entries beside
// those of rows, as an index promises: its entries are records like any other, of
// which a statement touches those that its row gets or loses.

type mindex struct {
	t        *mtable
	kind     *mkind
	h        []*Index // of each store
	entries  *mtable
	began    int // the clock when its building began
	made     int // the clock from which on it can be read, 0 while it is built
	dropped  int // clock of the drop, 0 while it lives
	detached bool
	build    *mbuild // nil if it is not being built
}

// mkind is a function of an index, which is named after it. It looks at the length
// and the first two bytes of the row's key only, so that keys that Append will give are
// predictable, and has no keys for an empty value.
type mkind struct {
	name   string
	unique bool
	keys   func(key string, val []byte) []string
}

// Index keys that are hard to tell from each other, and a long one, which fits
// beside a short row key only.
var mwords = []string{
	"", "\x00", "\x00\x01", "\x00\xff", "a", "a\x00", "a\x00\x01", "a\x01", "aa", "b", "\xff", "\xff\xff", "w", "x", "y",
	strings.Repeat("w", 4000),
}

var mkinds = []*mkind{
	{"key and word", true, func(key string, val []byte) []string {
		if h := valueHash(val); h%2 == 0 {
			return []string{fmt.Sprintf("%.2s%d", key, h>>1%3)}
		}
		return nil
	}},
	{"length", false, func(_ string, val []byte) []string { return []string{fmt.Sprintf("%06d", len(val))} }},
	{"one of 60", true, func(_ string, val []byte) (keys []string) {
		h := valueHash(val)
		for range max(0, int(h%8)-5) { // none, one or two
			h /= 8
			keys = append(keys, fmt.Sprintf("u%02d", h%60))
		}
		return keys
	}},
	{"words", false, func(key string, val []byte) (keys []string) {
		h := valueHash(val)
		if len(key) > 5000 && h%8 > 1 { // else it would hardly ever fit
			return nil
		}
		for range h % 4 { // one may be there twice
			h /= 4
			keys = append(keys, mwords[h%16])
		}
		return keys
	}},
}

func valueHash(val []byte) uint32 {
	h := fnv.New32a()
	_, _ = h.Write(val[:min(len(val), 20)])
	return h.Sum32() >> 3
}

// fn is the function as stores know it.
func (k *mkind) fn(row Row, emit func([]byte)) {
	if len(row.Value) == 0 {
		return
	}
	for _, ik := range k.keys(string(row.Key), row.Value) {
		emit([]byte(ik))
	}
}

// keysOf are the index keys of a row, each once, sorted; val nil is no row.
func (ix *mindex) keysOf(key string, val []byte) []string {
	if len(val) == 0 {
		return nil
	}
	keys := ix.kind.keys(key, val)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// place is where an index key begins in the order of entries.
func place(ik string) string { return strings.ReplaceAll(ik, "\x00", "\x00\xff") + "\x00\x01" }

// at is the record of an entry.
func (ix *mindex) at(ik, key string) mkey {
	if ix.kind.unique {
		key = ""
	}
	return mkey{ix.entries, place(ik) + key}
}

// diff are the index keys that a row gets and loses; nil is no row. One that is older
// than the index may have been too large for it.
func (ix *mindex) diff(key string, old, val []byte) (gets, loses []string) {
	had, has := ix.keysOf(key, old), ix.keysOf(key, val)
	if ix.tooLarge(key, old) {
		had = nil
	}
	without := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(k string) bool { return slices.Contains(b, k) })
	}
	return without(has, had), without(had, has)
}

// tooLarge reports whether an entry of the row is.
func (ix *mindex) tooLarge(key string, val []byte) bool {
	return slices.ContainsFunc(ix.keysOf(key, val), func(ik string) bool { return len(ix.at(ik, key).k) > MaxKeySize })
}

// mrow is one row of an index.
type mrow struct {
	at, ik, key string
	val         []byte
}

// indexed is what x sees of a range of an index, ascending.
func (x *mtx) indexed(ix *mindex, from, to []byte) (rows []mrow) {
	keys, vals := x.view(ix.t, nil, nil)
	for i, k := range keys {
		for _, ik := range ix.keysOf(k, vals[i]) {
			if ik >= string(from) && (to == nil || ik < string(to)) {
				rows = append(rows, mrow{ix.at(ik, k).k, ik, k, vals[i]})
			}
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].at < rows[j].at })
	return rows
}

// mayRead returns the errors that a read of ix as of snap may have; none: it reads. To
// a snapshot that is younger than the beginning of the building it may be ready or not.
func (x *mtx) mayRead(ix *mindex, snap int) (may []error) {
	if ix.dropped != 0 && (ix.dropped <= snap || x.wrote[ix.t]) {
		may = append(may, ErrIndexNotFound)
	}
	if ix.made == 0 || ix.made > snap {
		may = append(may, ErrIndexNotReady)
		if ix.made != 0 && ix.began <= snap && len(may) == 1 {
			may = append(may, nil)
		}
	}
	return may
}

// live are the indexes that a write of the table keeps up, by name.
func (t *mtable) live() (live []*mindex) {
	for _, ix := range t.indexes {
		if ix.dropped == 0 {
			live = append(live, ix)
		}
	}
	sort.Slice(live, func(i, j int) bool { return live[i].kind.name < live[j].kind.name })
	return live
}

func refused(mode recordcache.Mode, exists bool) bool {
	return exists && mode == recordcache.ModeInsert ||
		!exists && (mode == recordcache.ModeDelete || mode == recordcache.ModeUpdate)
}

// taken says what comes of putting the key of a unique index that the row does not
// have yet. The holder is the row that has had it at the latest commit. If the
// snapshot is too old to tell, the key exists if the transaction sees it in that row.
func (m *machine) taken(x *mtx, ix *mindex, ik string) (may []error, waits bool, holder string) {
	mk := ix.at(ik, "")
	vs := ix.entries.recs[mk.k]
	waits = m.other(x, mk)
	if waits {
		may = append(may, context.Canceled)
	}
	_, mine := x.own[mk]
	switch late := len(vs) > 0 && vs[len(vs)-1].ts > x.snap; {
	case late && !mine:
		pk, held := newest(vs, m.clock)
		if !held {
			return append(may, ErrConflict), waits, ""
		}
		seen, _ := x.get(ix.t, string(pk))
		if slices.Contains(ix.keysOf(string(pk), seen), ik) {
			return append(may, ErrKeyExists), waits, string(pk)
		}
		return append(may, ErrConflict), waits, string(pk)
	case waits:
		return may, waits, ""
	}
	if _, ok := x.get(ix.entries, mk.k); ok {
		may = append(may, ErrKeyExists)
	}
	return may, false, ""
}

// predictEntries adds to what predict said of the row what the indexes make of the
// statement.
func (m *machine) predictEntries(x *mtx, t *mtable, w *mwrite, may []error, waits bool) ([]error, bool) {
	var errs []error
	for _, ix := range t.live() {
		switch {
		case ix.detached:
			return []error{ErrIndexDetached, ErrKeyTooLarge}, false
		case ix.tooLarge(w.k, w.val):
			errs = []error{ErrKeyTooLarge}
		}
	}
	if errs != nil {
		return errs, false
	}
	if refused(w.mode, w.old != nil) {
		return may, waits
	}
	for _, ix := range t.live() {
		if !ix.kind.unique {
			continue // its entries are the row's own
		}
		gets, loses := ix.diff(w.k, w.old, w.val)
		for _, ik := range gets {
			e, wait, _ := m.taken(x, ix, ik)
			errs, waits = append(errs, e...), waits || wait
		}
		for _, ik := range loses { // while it is built, two rows may have it
			if m.other(x, ix.at(ik, "")) {
				errs, waits = append(errs, context.Canceled), true
			}
		}
	}
	if len(errs) == 0 {
		return may, waits
	}
	return append(errs, slices.DeleteFunc(slices.Clone(may), func(err error) bool { return err == nil })...), waits
}

// mwrite is a statement on a row, with the value before it; nil is no row.
type mwrite struct {
	mode recordcache.Mode
	k    string
	old  []byte
	val  []byte
}

// indexes notes what a statement that ended with err has read and done in the indexes
// of t.
func (m *machine) indexes(x *mtx, t *mtable, w *mwrite, err error) {
	if len(t.live()) == 0 || w.mode == recordcache.ModeLock {
		return
	}
	m.tally[fmt.Sprintf("write: %s", brief(err))]++
	for _, early := range []error{ErrReadOnly, ErrTableNotFound} {
		if errors.Is(err, early) {
			return
		}
	}
	x.readKey(t, w.k)
	if errors.Is(err, ErrIndexDetached) || errors.Is(err, ErrKeyTooLarge) || refused(w.mode, w.old != nil) {
		return
	}
	if err != nil { // it may have begun to write
		x.doubt = true
	}
	if m.readEntries(x, t, w) && err == nil {
		m.changeEntries(x, t, w)
	}
}

// brief names an error of a statement.
func brief(err error) string {
	for _, known := range []error{
		ErrKeyExists, ErrConflict, ErrNotFound, ErrKeyTooLarge, ErrIndexDetached, ErrIndexNotReady, ErrIndexNotFound,
		context.Canceled,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

// readEntries notes what the statement learned of keys of unique indexes; it may
// end there.
func (m *machine) readEntries(x *mtx, t *mtable, w *mwrite) bool {
	for _, ix := range t.live() {
		if !ix.kind.unique {
			continue
		}
		gets, _ := ix.diff(w.k, w.old, w.val)
		for _, ik := range gets {
			switch may, waits, holder := m.taken(x, ix, ik); {
			case holder != "":
				x.readKey(t, holder)
				return false
			case waits:
				return false
			default:
				if !slices.Contains(may, ErrConflict) {
					x.readKey(ix.entries, ix.at(ik, "").k)
				}
				if may != nil {
					return false
				}
			}
		}
	}
	return true
}

// changeEntries notes the entries that the statement touched.
func (m *machine) changeEntries(x *mtx, t *mtable, w *mwrite) {
	for _, ix := range t.live() {
		gets, loses := ix.diff(w.k, w.old, w.val)
		for _, ik := range loses {
			mk := ix.at(ik, w.k)
			if ix.kind.unique && ix.made == 0 {
				x.readKey(mk.t, mk.k)
				if pk, ok := m.ofOther(x, mk, w.k); ok {
					x.own[mk] = mown{written: true, val: pk} // it is put again as it is
					continue
				}
			}
			x.own[mk] = mown{written: true}
		}
		for _, ik := range gets {
			x.own[ix.at(ik, w.k)] = mown{written: true, val: []byte(w.k)}
		}
	}
}

// ofOther returns whose entry of a unique index that is built it is, and whether it is another row's:
// two rows may have the key until the builder, or who writes the second one, finds out.
func (m *machine) ofOther(x *mtx, mk mkey, k string) ([]byte, bool) {
	pk, ok := newest(mk.t.recs[mk.k], m.clock)
	if o, mine := x.own[mk]; mine && o.written {
		pk, ok = o.val, o.val != nil
	}
	return pk, ok && string(pk) != k
}
