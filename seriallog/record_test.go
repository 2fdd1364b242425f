package seriallog

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sakerdb/saker/internal/base"
)

func testCommits() []*Commit {
	return []*Commit{
		{Txn: 1, TS: 1},
		{Txn: math.MaxInt64, TS: math.MaxInt64, NoSync: true, FirstGroup: math.MaxUint64},
		{
			Txn: 5, TS: 6, FirstGroup: 7,
			Runs:     []RunTail{{1, 2}, {math.MaxUint64, math.MaxUint64}},
			Segments: []uint64{1, 2, 300},
			Dead:     []base.EpochRange{{From: 0, To: math.MaxUint32}, {From: 5, To: 5}},
		},
	}
}

func TestCommitRoundTrip(t *testing.T) {
	for _, want := range testCommits() {
		meta := putCommit(nil, want)
		if len(meta) != commitSize(want) {
			t.Errorf("meta of %d bytes, commitSize says %d", len(meta), commitSize(want))
		}
		got, ok := getCommit(meta)
		if !ok {
			t.Errorf("%+v does not decode", want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for n := range meta {
			if _, ok := getCommit(meta[:n]); ok {
				t.Errorf("decodes when cut to %d of %d bytes", n, len(meta))
			}
		}
	}
}

func TestDDLRoundTrip(t *testing.T) {
	for _, want := range []*DDL{
		{TS: 1, Op: OpCreateTable, Table: 2, Name: "t"},
		{TS: math.MaxInt64, Op: OpDropTable, Table: math.MaxUint32},
		{Op: OpCeiling, Ceiling: math.MaxUint64},
	} {
		meta := putDDL(nil, want)
		if len(meta) != ddlSize(want) {
			t.Errorf("meta of %d bytes, ddlSize says %d", len(meta), ddlSize(want))
		}
		got, ok := getDDL(meta)
		if !ok {
			t.Errorf("%+v does not decode", want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for n := range meta {
			if _, ok := getDDL(meta[:n]); ok {
				t.Errorf("decodes when cut to %d of %d bytes", n, len(meta))
			}
		}
	}
}

func TestStrings(t *testing.T) {
	for want, got := range map[string]string{
		"group": TypeGroup.String(), "commit": TypeCommit.String(), "ddl": TypeDDL.String(), "end": typeEnd.String(),
		"type(9)": Type(9).String(), "create-table": OpCreateTable.String(), "drop-table": OpDropTable.String(),
		"ceiling": OpCeiling.String(), "op(0)": DDLOp(0).String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, c := range testCommits() {
		f.Add(append(putCommit(putRecordHeader(nil, TypeCommit, commitSize(c), 3), c), "abc"...))
	}
	d := &DDL{TS: 4, Op: OpCreateTable, Table: 1, Name: "name"}
	f.Add(putDDL(putRecordHeader(nil, TypeDDL, ddlSize(d), 0), d))
	f.Add(append(putRecordHeader(nil, TypeGroup, 8, 1), 1, 2, 3, 4, 5, 6, 7, 8, 9))
	f.Add(append(putRecordHeader(nil, typeEnd, 8, 0), 1, 2, 3, 4, 5, 6, 7, 8))
	f.Fuzz(func(t *testing.T, src []byte) {
		rec, n, _, ok := parseRecord(src)
		if !ok {
			return
		}
		if n < recordHeaderSize || n > len(src) || !bytes.HasSuffix(src[:n], rec.Body) {
			t.Fatalf("length %d of %d, body of %d", n, len(src), len(rec.Body))
		}
		switch rec.Type {
		case TypeCommit:
			again, ok := getCommit(putCommit(nil, rec.Commit))
			if !ok || cmp.Diff(again, rec.Commit) != "" {
				t.Fatalf("%+v does not round trip", rec.Commit)
			}
		case TypeDDL:
			again, ok := getDDL(putDDL(nil, rec.DDL))
			if !ok || *again != *rec.DDL {
				t.Fatalf("%+v does not round trip", rec.DDL)
			}
		default: // nothing decoded
		}
	})
}
