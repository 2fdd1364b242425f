package main

import (
	"errors"
	"iter"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

type boltStore struct {
	db    *bbolt.DB
	batch bool // several goroutines put at a time
}

var boltBucket = []byte("rows")

func openBolt(dir string, _ int64) (store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	o := *bbolt.DefaultOptions
	o.FreelistType = bbolt.FreelistMapType
	db, err := bbolt.Open(filepath.Join(dir, "bolt.db"), 0o600, &o)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(boltBucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &boltStore{db: db}, nil
}

func (s *boltStore) tune(goroutines int) {
	s.batch = goroutines > 1
	s.db.MaxBatchSize = max(1, goroutines/2)
}

func (s *boltStore) put(key, value []byte) error {
	fn := func(tx *bbolt.Tx) error { return tx.Bucket(boltBucket).Put(key, value) }
	if s.batch {
		return s.db.Batch(fn)
	}
	return s.db.Update(fn)
}

func (s *boltStore) relax() error {
	s.db.NoSync = true
	return nil
}

func (s *boltStore) update(key, buf []byte, change func([]byte)) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(boltBucket)
		v := b.Get(key)
		if v == nil {
			return errMissing
		}
		value := append(buf[:0], v...)
		change(value)
		return b.Put(key, value)
	})
}

func (s *boltStore) load(rows iter.Seq2[[]byte, []byte]) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(boltBucket)
		for k, v := range rows {
			// A bucket keeps the slice of the value until commit.
			if err := b.Put(k, append([]byte(nil), v...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *boltStore) view(fn func(getter) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(boltBucket)
		return fn(func(dst, key []byte) ([]byte, error) {
			v := b.Get(key)
			if v == nil {
				return dst, errMissing
			}
			return append(dst, v...), nil
		})
	})
}

func (s *boltStore) scan(fn func(k, v []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error { return tx.Bucket(boltBucket).ForEach(fn) })
}

func (s *boltStore) close() error { return errors.Join(s.db.Sync(), s.db.Close()) }
