package tablespace

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/internal/base"
)

func sampleRows() map[string][]byte {
	o := Outcome{Txn: 7, TS: 9, Dead: []base.EpochRange{{From: 1, To: 2}, {From: 5, To: 1<<32 - 1}}, Runs: []base.RunID{3, 1 << 40}}
	rows := map[string][]byte{}
	add := func(key, val []byte) { rows[string(key)] = val }
	k := key8(keyOutcome, 7)
	add(k, appendOutcome(nil, k, &o))
	k = tableKey(3)
	add(k, appendTable(nil, k, &TableRow{ID: 3, Name: "tab", Meta: []byte("meta")}))
	k = key8(keyRun, 1<<32+5)
	add(k, appendUints(nil, k, 12, 4096, 7))
	k = []byte{keyCheckpoint}
	add(k, appendUints(nil, k, 100, 200))
	k = []byte{keyPrefix}
	add(k, appendUints(nil, k, 300))
	k = append([]byte{keyMeta}, "name"...)
	add(k, appendMeta(nil, k, []byte("value")))
	return rows
}

func emptySpace() *Space {
	s := &Space{runs: map[base.RunID]*Run{}}
	s.loaded.Meta = map[string][]byte{}
	return s
}

func TestRowsRoundTrip(t *testing.T) {
	s := emptySpace()
	for k, v := range sampleRows() {
		if err := s.loadRow([]byte(k), v); err != nil {
			t.Errorf("%q: %v", k, err)
		}
		for i := range v {
			v[i] ^= 0x10
			var ce *base.CorruptionError
			if err := emptySpace().loadRow([]byte(k), v); !errors.As(err, &ce) {
				t.Errorf("%q damaged at %d: %v", k, i, err)
			}
			v[i] ^= 0x10
		}
	}
	want := Loaded{
		Outcomes:   []Outcome{{Txn: 7, TS: 9, Dead: []base.EpochRange{{From: 1, To: 2}, {From: 5, To: 1<<32 - 1}}, Runs: []base.RunID{3, 1 << 40}}},
		Tables:     []TableRow{{ID: 3, Name: "tab", Meta: []byte("meta")}},
		Checkpoint: 100, CheckpointTS: 200, LastSeq: 300,
		Meta: map[string][]byte{"name": []byte("value")},
	}
	if d := cmp.Diff(want, s.loaded); d != "" {
		t.Error(d)
	}
	if r := s.runs[1<<32+5]; r == nil || r.Listed() != 12 || r.Owner() != 7 {
		t.Errorf("run %+v", r)
	}
}

func FuzzLoadRow(f *testing.F) {
	for k, v := range sampleRows() {
		f.Add([]byte(k), v)
	}
	f.Fuzz(func(t *testing.T, key, val []byte) {
		if len(key) == 0 {
			return
		}
		for _, v := range [][]byte{val, withCRC(key, val)} {
			var ce *base.CorruptionError
			if err := emptySpace().loadRow(key, v); err != nil && !errors.As(err, &ce) {
				t.Errorf("%v is no corruption", err)
			}
		}
	})
}
