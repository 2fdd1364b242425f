package main

import (
	"errors"
	"iter"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

type levelStore struct {
	db   *leveldb.DB
	rows stripes
}

var levelSync = &opt.WriteOptions{Sync: true}

func openLevelDB(dir string, memory int64) (store, error) {
	db, err := leveldb.OpenFile(dir, &opt.Options{
		BlockCacheCapacity: int(memory), Compression: opt.NoCompression, WriteBuffer: 16 << 20,
	})
	if err != nil {
		return nil, err
	}
	return &levelStore{db: db}, nil
}

func (s *levelStore) put(key, value []byte) error { return s.db.Put(key, value, levelSync) }

func (s *levelStore) update(key, _ []byte, change func([]byte)) error {
	mu := s.rows.of(key)
	mu.Lock()
	defer mu.Unlock()
	value, err := s.db.Get(key, nil) // a copy
	if err != nil {
		return err
	}
	change(value)
	return s.db.Put(key, value, nil)
}

func (s *levelStore) load(rows iter.Seq2[[]byte, []byte]) error {
	tx, err := s.db.OpenTransaction()
	if err != nil {
		return err
	}
	for k, v := range rows {
		if err := tx.Put(k, v, levelSync); err != nil {
			tx.Discard()
			return err
		}
	}
	return tx.Commit()
}

func (s *levelStore) view(fn func(getter) error) error {
	snap, err := s.db.GetSnapshot()
	if err != nil {
		return err
	}
	defer snap.Release()
	return fn(func(dst, key []byte) ([]byte, error) {
		v, err := snap.Get(key, nil)
		if errors.Is(err, leveldb.ErrNotFound) {
			err = errMissing
		}
		return append(dst, v...), err
	})
}

func (s *levelStore) scan(fn func(k, v []byte) error) error {
	it := s.db.NewIterator(nil, nil)
	defer it.Release()
	for it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

func (s *levelStore) close() error { return s.db.Close() }
