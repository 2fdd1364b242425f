package main

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/mattn/go-sqlite3"
)

// sqliteStore is one connection: SQLite admits one writer, and a mutex hands on
// sooner than its busy handler, which sleeps.
type sqliteStore struct {
	mu       sync.Mutex // guards all below
	conn     *sqlite3.SQLiteConn
	ins, sel driver.Stmt
	change   [3]driver.Stmt // begin, update, commit
	args     [2]driver.Value
	views    int // open; they share one transaction
}

func openSQLite(dir string, memory int64) (store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c, err := (&sqlite3.SQLiteDriver{}).Open(filepath.Join(dir, "sqlite.db"))
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connection is a %T", c), c.Close())
	}
	s := &sqliteStore{conn: conn}
	if err := s.prepare(memory); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *sqliteStore) prepare(memory int64) (err error) {
	for _, q := range []string{
		"PRAGMA journal_mode=WAL",
		"PRAGMA synchronous=FULL",
		fmt.Sprintf("PRAGMA cache_size=-%d", memory>>10),
		"CREATE TABLE IF NOT EXISTS rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID",
	} {
		if _, err := s.conn.Exec(q, nil); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	if s.ins, err = s.conn.Prepare("INSERT INTO rows VALUES (?, ?)"); err != nil {
		return err
	}
	if s.sel, err = s.conn.Prepare("SELECT v FROM rows WHERE k = ?"); err != nil {
		return err
	}
	for i, q := range []string{"BEGIN IMMEDIATE", "UPDATE rows SET v = ? WHERE k = ?", "COMMIT"} {
		if s.change[i], err = s.conn.Prepare(q); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqliteStore) put(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.insert(key, value)
}

func (s *sqliteStore) insert(key, value []byte) error {
	s.args = [2]driver.Value{key, value}
	_, err := s.ins.Exec(s.args[:]) //nolint:staticcheck // without a context there is no goroutine per call
	return err
}

func (s *sqliteStore) relax() error {
	_, err := s.conn.Exec("PRAGMA synchronous=OFF", nil)
	return err
}

func (s *sqliteStore) update(key, buf []byte, change func([]byte)) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := func(i int, args ...driver.Value) {
		if err == nil {
			_, err = s.change[i].Exec(args) //nolint:staticcheck // as in insert
		}
	}
	if run(0); err != nil {
		return err
	}
	value, err := s.get(buf[:0], key)
	if err == nil {
		change(value)
	}
	run(1, value, key)
	run(2)
	if err != nil {
		_, err2 := s.conn.Exec("ROLLBACK", nil)
		return errors.Join(err, err2)
	}
	return nil
}

func (s *sqliteStore) load(rows iter.Seq2[[]byte, []byte]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.Exec("BEGIN IMMEDIATE", nil); err != nil {
		return err
	}
	for k, v := range rows {
		if err := s.insert(k, v); err != nil {
			_, err2 := s.conn.Exec("ROLLBACK", nil)
			return errors.Join(err, err2)
		}
	}
	_, err := s.conn.Exec("COMMIT", nil)
	return err
}

// turnView opens the transaction of the views with the first of them and ends
// it with the last.
func (s *sqliteStore) turnView(by int) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.views == 0 {
		_, err = s.conn.Exec("BEGIN", nil)
	}
	if s.views += by; s.views == 0 {
		_, err = s.conn.Exec("COMMIT", nil)
	}
	return err
}

func (s *sqliteStore) view(fn func(getter) error) error {
	if err := s.turnView(1); err != nil {
		return err
	}
	err := fn(func(dst, key []byte) ([]byte, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.get(dst, key)
	})
	return errors.Join(err, s.turnView(-1))
}

// get appends the value of key to dst. REQUIRES: s.mu is held.
func (s *sqliteStore) get(dst, key []byte) ([]byte, error) {
	s.args[0] = key
	rows, err := s.sel.Query(s.args[:1]) //nolint:staticcheck // as in insert
	if err != nil {
		return dst, err
	}
	var out [1]driver.Value
	switch err = rows.Next(out[:]); {
	case errors.Is(err, io.EOF):
		err = errMissing
	case err == nil:
		v, ok := out[0].([]byte)
		if !ok {
			err = fmt.Errorf("value is a %T", out[0])
		}
		dst = append(dst, v...)
	}
	if cerr := rows.Close(); err == nil {
		err = cerr
	}
	return dst, err
}

func (s *sqliteStore) scan(fn func(k, v []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.conn.Query("SELECT k, v FROM rows ORDER BY k", nil)
	if err != nil {
		return err
	}
	var out [2]driver.Value
	for {
		err = rows.Next(out[:])
		if errors.Is(err, io.EOF) {
			return rows.Close()
		}
		if err == nil {
			k, ok1 := out[0].([]byte)
			v, ok2 := out[1].([]byte)
			if !ok1 || !ok2 {
				err = fmt.Errorf("row of %T and %T", out[0], out[1])
			} else {
				err = fn(k, v)
			}
		}
		if err != nil {
			return errors.Join(err, rows.Close())
		}
	}
}

func (s *sqliteStore) close() error {
	var errs []error
	for _, st := range append(s.change[:], s.ins, s.sel) {
		if st != nil {
			errs = append(errs, st.Close())
		}
	}
	return errors.Join(append(errs, s.conn.Close())...)
}
