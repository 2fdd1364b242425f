package main

import (
	"errors"
	"iter"
	"slices"
	"sync"
)

// store is one engine under test. Rows are 8-byte keys and values of any size.
// Slices passed in are the caller's and change after the call.
type store interface {
	// put is one durable transaction of one row. Safe for concurrent use.
	put(key, value []byte) error
	// load is one durable transaction of all the rows.
	load(rows iter.Seq2[[]byte, []byte]) error
	// update is one transaction that reads the row of key and writes what change
	// makes of its value, in place, for which buf has room. It need not be durable
	// when it returns, and is after close. Safe for concurrent use; change may be
	// called more than once.
	update(key, buf []byte, change func(value []byte)) error
	// view calls fn with a reader of one snapshot.
	view(fn func(get getter) error) error
	// scan calls fn for all rows in ascending order of keys.
	scan(fn func(key, value []byte) error) error
	close() error
}

// getter appends the value of key to dst; errMissing when there is none.
type getter func(dst, key []byte) ([]byte, error)

// A tuner is a store that wants to know how many goroutines put at a time.
type tuner interface{ tune(goroutines int) }

// A relaxer is a store that is told beforehand that no commit need be durable when
// it returns.
type relaxer interface{ relax() error }

// opener opens the store in dir, and makes it if there is none. memory is what
// its caches may take, in bytes.
type opener func(dir string, memory int64) (store, error)

// stripes are the locks of a store that has none for rows: whoever holds a row's may
// read it and write it as one transaction would.
type stripes [1024]sync.Mutex

func (s *stripes) of(key []byte) *sync.Mutex {
	h := uint64(len(key))
	for _, b := range key {
		h = (h ^ uint64(b)) * spread
	}
	return &s[h>>54]
}

var errMissing = errors.New("no such key")

// named is a store's name and how to open it.
type named struct {
	name string
	open opener
}

// openers are the stores in the order of the tables. Saker is the first: the
// others are its peers.
var openers = []named{
	{"saker", openSaker},
	{"pebble", openPebble},
	{"goleveldb", openLevelDB},
	{"bbolt", openBolt},
	{"sqlite", openSQLite},
}

func findStore(all []named, name string) (named, bool) {
	i := slices.IndexFunc(all, func(n named) bool { return n.name == name })
	if i < 0 {
		return named{}, false
	}
	return all[i], true
}
