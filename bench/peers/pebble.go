package main

import (
	"errors"
	"iter"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable/block"
)

type pebbleStore struct {
	db   *pebble.DB
	rows stripes
}

// quiet drops what Pebble has to tell; an error is returned as well.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, _ ...any) { panic("pebble: " + format) }

func openPebble(dir string, memory int64) (store, error) {
	cache := pebble.NewCache(memory)
	defer cache.Unref()
	o := &pebble.Options{Cache: cache, MemTableSize: 16 << 20, Logger: quiet{}}
	for i := range o.Levels {
		o.Levels[i].Compression = func() *block.CompressionProfile { return block.NoCompression }
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, err
	}
	return &pebbleStore{db: db}, nil
}

func (s *pebbleStore) put(key, value []byte) error { return s.db.Set(key, value, pebble.Sync) }

func (s *pebbleStore) update(key, buf []byte, change func([]byte)) error {
	mu := s.rows.of(key)
	mu.Lock()
	defer mu.Unlock()
	v, c, err := s.db.Get(key)
	if err != nil {
		return err
	}
	value := append(buf[:0], v...)
	if err := c.Close(); err != nil {
		return err
	}
	change(value)
	return s.db.Set(key, value, pebble.NoSync)
}

func (s *pebbleStore) load(rows iter.Seq2[[]byte, []byte]) error {
	b := s.db.NewBatch()
	for k, v := range rows {
		if err := b.Set(k, v, nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return errors.Join(b.Commit(pebble.Sync), b.Close())
}

func (s *pebbleStore) view(fn func(getter) error) error {
	snap := s.db.NewSnapshot()
	err := fn(func(dst, key []byte) ([]byte, error) {
		v, c, err := snap.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return dst, errMissing
		}
		if err != nil {
			return dst, err
		}
		dst = append(dst, v...)
		return dst, c.Close()
	})
	return errors.Join(err, snap.Close())
}

func (s *pebbleStore) scan(fn func(k, v []byte) error) error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func (s *pebbleStore) close() error { return s.db.Close() }
