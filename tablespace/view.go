package tablespace

import (
	"encoding/binary"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sakerdb/saker/internal/base"
)

// view is one moment of the map: an iterator over Pebble and the overlay over
// it. It is true as long as no entry has left the overlay since the iterator
// was made (queue.pops), for then everything later is in the overlay.
type view struct {
	limit, end []byte // of a bounded ceiling, and its key in Pebble

	s    *Space
	it   *pebble.Iterator
	pops uint64
	tree *pendingTree
	key  []byte // scratch
	// high is the upper fence of the entry that the iterator is on, if the last
	// lookup left it there; low its lower one.
	high, low []byte
	on        bool
}

// refresh makes v the present moment.
func (v *view) refresh() error {
	for {
		pops := v.s.q.pops.Load()
		if v.it == nil || v.pops != pops {
			if err := v.reopen(); err != nil {
				return err
			}
			v.pops = pops
		}
		// After the iterator: an edit that is in Pebble and has not left the
		// overlay may be in both, never in neither.
		v.tree = v.s.q.overlay()
		if v.s.q.pops.Load() == pops {
			return nil
		}
	}
}

func (v *view) reopen() error {
	v.close()
	it, err := v.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyEntry}, UpperBound: []byte{keyEntry + 1}})
	if err != nil {
		return v.s.mapError("read leaf map", err)
	}
	v.it = it
	return nil
}

func (v *view) close() {
	v.on, v.tree = false, nil
	if v.it != nil {
		_ = v.it.Close() // errors were seen where they mattered, by failed
		v.it = nil
	}
}

// failed returns the error of the iterator, if any.
func (v *view) failed() error {
	if err := v.it.Error(); err != nil {
		return v.s.mapError("read leaf map", err)
	}
	return nil
}

// rowLow returns Low of the row that the iterator is on, if it is of the table.
func (v *view) rowLow(ok bool, table base.TableID) ([]byte, bool) {
	if !ok {
		return nil, false
	}
	k := v.it.Key()
	if len(k) < entryKeyPrefix || base.TableID(binary.BigEndian.Uint32(k[1:])) != table {
		return nil, false
	}
	return k[entryKeyPrefix:], true
}

// viewPool keeps idle views: making an iterator costs as much as a search.
type viewPool struct {
	s    *Space
	mu   sync.Mutex // guards free
	free []*view
	shut bool
}

const maxIdleViews = 8

func (p *viewPool) get() *view {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		v := p.free[n-1]
		p.free = p.free[:n-1]
		return v
	}
	return &view{s: p.s}
}

func (p *viewPool) put(v *view) {
	v.tree, v.on = nil, false
	p.mu.Lock()
	// An iterator that failed goes on failing, though the disk reads again.
	if len(p.free) < maxIdleViews && !p.shut && v.it != nil && v.it.Error() == nil && v.pops == p.s.q.pops.Load() {
		p.free = append(p.free, v)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	v.close()
}

// drop closes idle iterators, which keep memtables and files that Pebble has
// replaced.
func (p *viewPool) drop() {
	p.mu.Lock()
	free := p.free
	p.free = nil
	p.mu.Unlock()
	for _, v := range free {
		v.close()
	}
}

func (p *viewPool) close() {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	p.drop()
}
