package main

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The formula is checked against a run of the same steps over a map.
func TestPlanVersionFollowsTheSteps(t *testing.T) {
	for _, args := range [][]string{
		{"-rows", "2000"}, {"-rows", "2001", "-writers", "3"}, {"-rows", "70"}, {"-rows", "50000"}, {"-rows", "999", "-plain"},
	} {
		p := newPlan(soakConfig(t, args...))
		for w := range p.writers {
			checkWriterSteps(t, p, w)
		}
	}
}

func checkWriterSteps(t *testing.T, p *plan, w int64) {
	t.Helper()
	rows := map[int64]uint32{}
	n := p.rowsOf(w)
	for b := range p.batchesOf(w) {
		lo, hi := b*p.batch, min(n, (b+1)*p.batch)
		for i := lo; i < hi; i++ {
			rows[i] = versionFirst
			if p.plain || i < lo+p.tail {
				continue
			}
			switch p.fateOf(b) {
			case fateAbsent:
				delete(rows, i)
			case fateRewritten, fateNested:
				rows[i] = versionRewritten
			case fateReleased, fateKept:
			}
		}
		if !p.plain {
			bump(rows, lo+nearOffset, hi)
			far := b / 2 * p.batch
			bump(rows, far+farOffset(b), min(n, far+p.batch))
		}
		for i := range n {
			if got := p.version(i, b+1); got != rows[i] {
				t.Fatalf("writer %d, row %d after batch %d: version %d, want %d", w, i, b, got, rows[i])
			}
		}
		if got := p.count(w, b+1); got != int64(len(rows)) {
			t.Fatalf("writer %d after batch %d: %d rows, want %d", w, b, got, len(rows))
		}
	}
}

func bump(rows map[int64]uint32, from, to int64) {
	for i := from; i < to; i += updateEvery {
		if rows[i] != 0 {
			rows[i]++
		}
	}
}

func TestPlanRowsAreDividedAmongWriters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.Int64Range(1, 3000).Draw(t, "rows")
		p := newPlan(&config{rows: rows, writers: int(rapid.Int64Range(1, min(rows, 9)).Draw(t, "writers"))})
		seen := make([]bool, rows)
		for w := range p.writers {
			for i := range p.rowsOf(w) {
				r := p.row(w, i)
				if seen[r] {
					t.Fatalf("row %d twice", r)
				}
				seen[r] = true
				if ow, oi := p.owner(r); ow != w || oi != i {
					t.Fatalf("owner(%d) = %d, %d, want %d, %d", r, ow, oi, w, i)
				}
			}
		}
		for r, ok := range seen {
			if !ok {
				t.Fatalf("row %d has no writer", r)
			}
		}
	})
}

func TestKeysAreReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &plan{rows: rowsMax, random: rapid.Bool().Draw(t, "random"), seed: rapid.Uint64Range(0, seedMax).Draw(t, "seed")}
		r := rapid.Int64Range(0, rowsMax-1).Draw(t, "row")
		if got, ok := p.rowAt(p.key(r)); !ok || got != r {
			t.Fatalf("rowAt(key(%d)) = %d, %v", r, got, ok)
		}
		k := rapid.Uint64().Draw(t, "key")
		if r, ok := p.rowAt(k); ok && p.key(r) != k {
			t.Fatalf("key(rowAt(%x)) = %x", k, p.key(r))
		}
	})
}

func TestValuesDiffer(t *testing.T) {
	p := &plan{size: 100, seed: 7}
	seen := map[string]string{}
	for r := range int64(500) {
		for v := uint32(1); v < 6; v++ {
			value := p.fillValue(make([]byte, p.size), r, v)
			if !p.checkValue(value, r, v) {
				t.Fatalf("value of row %d version %d does not match itself", r, v)
			}
			name := fmt.Sprint(r, " ", v)
			if other, ok := seen[string(value)]; ok {
				t.Fatalf("%s and %s have the same value", name, other)
			}
			seen[string(value)] = name
			if got := p.identify(value, r); got != v {
				t.Fatalf("identify(%s) = %d", name, got)
			}
		}
	}
}

func TestMatchesSeesEveryBit(t *testing.T) {
	for size := range 35 {
		v := make([]byte, size)
		fill(v, 42)
		if !matches(v, 42) {
			t.Fatalf("size %d: no match", size)
		}
		for bit := range size * 8 {
			v[bit/8] ^= 1 << (bit % 8)
			if matches(v, 42) {
				t.Fatalf("size %d: bit %d not seen", size, bit)
			}
			v[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// BenchmarkRow is the harness's own part of a row's insert and of its check.
func BenchmarkRow(b *testing.B) {
	p := newPlan(&config{rows: 1 << 30, writers: 1, valueSize: 100, order: orderRandom})
	key, val := make([]byte, 8), make([]byte, 100)
	b.Run("generate", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(100)
		for r := int64(0); b.Loop(); r++ {
			p.putKey(key, r)
			p.fillValue(val, r, versionFirst)
		}
	})
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(100)
		w := p.final(everyone)
		v := p.fillValue(val, 12345, versionFirst)
		for b.Loop() {
			r, _ := p.rowAt(p.key(12345))
			if version := w.version(p, r); !p.checkValue(v, r, version) {
				b.Fatal("mismatch")
			}
		}
	})
}
