package main

import (
	"context"
	"errors"
	"iter"

	"github.com/sakerdb/saker/engine"
)

type sakerStore struct {
	db *engine.DB
	t  *engine.Table
}

func openSaker(dir string, memory int64) (store, error) {
	db, err := engine.Open(dir, &engine.Options{Memory: memory})
	if err != nil {
		return nil, err
	}
	t, err := db.Table("rows")
	if errors.Is(err, engine.ErrTableNotFound) {
		t, err = db.CreateTable(context.Background(), "rows")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sakerStore{db, t}, nil
}

func (s *sakerStore) put(key, value []byte) error {
	tx, err := s.db.Begin(context.Background(), engine.TxOptions{})
	if err != nil {
		return err
	}
	if err := tx.Put(s.t, key, value); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (s *sakerStore) update(key, buf []byte, change func([]byte)) error {
	for {
		err := s.tryUpdate(key, buf, change)
		if !engine.IsRetryable(err) {
			return err
		}
	}
}

func (s *sakerStore) tryUpdate(key, buf []byte, change func([]byte)) error {
	tx, err := s.db.Begin(context.Background(), engine.TxOptions{NoSync: true})
	if err != nil {
		return err
	}
	value, err := tx.AppendGet(buf[:0], s.t, key)
	if err == nil {
		change(value)
		err = tx.Put(s.t, key, value)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		_ = tx.Rollback() // it may have ended
	}
	return err
}

func (s *sakerStore) load(rows iter.Seq2[[]byte, []byte]) error {
	tx, err := s.db.Begin(context.Background(), engine.TxOptions{})
	if err != nil {
		return err
	}
	for k, v := range rows {
		if err := tx.Put(s.t, k, v); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

func (s *sakerStore) view(fn func(getter) error) error {
	return s.db.View(context.Background(), func(tx *engine.Tx) error {
		return fn(func(dst, key []byte) ([]byte, error) {
			v, err := tx.AppendGet(dst, s.t, key)
			if errors.Is(err, engine.ErrNotFound) {
				err = errMissing
			}
			return v, err
		})
	})
}

func (s *sakerStore) scan(fn func(k, v []byte) error) error {
	return s.db.View(context.Background(), func(tx *engine.Tx) error {
		for row, err := range tx.Scan(s.t, engine.Range{}) {
			if err == nil {
				err = fn(row.Key, row.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sakerStore) close() error { return s.db.Close() }
