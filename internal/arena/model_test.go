package arena

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestModel compares the arena with a list of the blocks it gave out: none
// overlap, none lose their contents, sums are right, and all of it comes back.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, err := New(int64(rapid.IntRange(MinCap, 2*MinCap).Draw(t, "cap")))
		if err != nil {
			t.Fatal(err)
		}
		limit := a.Cap()
		type block struct {
			b   []byte
			tag byte
		}
		var live []block
		var blocks, charged int64
		tag := byte(0)
		add := func(b []byte, n int) {
			if len(b) != (n+UnitSize-1)/UnitSize*UnitSize {
				t.Fatalf("Alloc(%d) granted %d", n, len(b))
			}
			tag++
			for i := range b {
				b[i] = tag
			}
			live = append(live, block{b, tag})
			blocks += int64(len(b))
		}
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.IntRange(1, MaxBlock).Draw(t, "n")
				if b := a.Alloc(n); b != nil {
					add(b, n)
					if blocks+charged > limit {
						t.Fatalf("M1: %d bytes of %d", blocks+charged, limit)
					}
				}
			},
			"small": func(t *rapid.T) {
				// One unit fits wherever one is free; the last slab may be cut off.
				n := rapid.IntRange(1, UnitSize).Draw(t, "n")
				if b := a.Alloc(n); b != nil {
					add(b, n)
				} else if blocks+charged+UnitSize <= limit {
					t.Fatalf("Alloc(%d) failed at %d of %d", n, blocks+charged, limit)
				}
			},
			"free": func(t *rapid.T) {
				if len(live) == 0 {
					return
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "i")
				x := live[i]
				if !bytes.Equal(x.b, bytes.Repeat([]byte{x.tag}, len(x.b))) {
					t.Fatal("two blocks overlap")
				}
				a.Free(x.b)
				blocks -= int64(len(x.b))
				live[i] = live[len(live)-1]
				live = live[:len(live)-1]
			},
			"shrink": func(t *rapid.T) {
				if len(live) == 0 {
					return
				}
				x := &live[rapid.IntRange(0, len(live)-1).Draw(t, "i")]
				old := len(x.b)
				x.b = a.Shrink(x.b, rapid.IntRange(1, old).Draw(t, "n"))
				blocks -= int64(old - len(x.b))
			},
			"charge": func(t *rapid.T) {
				n := int64(rapid.IntRange(0, MinCap/4).Draw(t, "n"))
				ok := a.Charge(n)
				if ok != (blocks+charged+n <= limit) {
					t.Fatalf("Charge(%d) = %v at %d of %d", n, ok, blocks+charged, limit)
				}
				if ok {
					charged += n
				}
			},
			"both": func(t *rapid.T) {
				n, charge := rapid.IntRange(1, MaxBlock).Draw(t, "n"), int64(rapid.IntRange(0, MinCap/4).Draw(t, "charge"))
				if b := a.AllocCharge(n, charge); b != nil {
					add(b, n)
					if charged += charge; blocks+charged > limit {
						t.Fatalf("M1: %d bytes of %d", blocks+charged, limit)
					}
				}
			},
			"trade": func(t *rapid.T) {
				if len(live) == 0 {
					return
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "i")
				x := live[i]
				keep := rapid.IntRange(0, len(x.b)).Draw(t, "keep")
				n := int64(rapid.IntRange(0, MaxBlock).Draw(t, "n"))
				back := int64(len(x.b)) - int64((keep+UnitSize-1)/UnitSize*UnitSize)
				rest, ok := a.Trade(x.b, keep, n)
				if ok != (n <= back) {
					t.Fatalf("Trade of %d bytes, to keep %d, for %d: %v", len(x.b), keep, n, ok)
				}
				if !ok {
					return
				}
				blocks, charged = blocks-back, charged+n
				if live[i].b = rest; len(rest) == 0 {
					live[i] = live[len(live)-1]
					live = live[:len(live)-1]
				}
			},
			"uncharge": func(t *rapid.T) {
				n := int64(rapid.IntRange(0, int(charged)).Draw(t, "n"))
				a.Uncharge(n)
				charged -= n
			},
			"trim": func(*rapid.T) { a.Trim() },
			"": func(t *rapid.T) {
				if a.Blocks() != blocks || a.Charged() != charged || a.Reserved() != blocks+charged {
					t.Fatalf("blocks %d want %d, charged %d want %d", a.Blocks(), blocks, a.Charged(), charged)
				}
				if a.Peak() > a.Cap() {
					t.Fatalf("M1: peak %d above cap %d", a.Peak(), a.Cap())
				}
				if err := a.Check(); err != nil {
					t.Fatal(err)
				}
			},
		})
		for _, x := range live {
			a.Free(x.b)
		}
		a.Uncharge(charged)
		// Whole again: all of it can be had in the greatest blocks.
		for range a.Cap() / MaxBlock {
			b := a.Alloc(MaxBlock)
			if b == nil {
				t.Fatal("memory was lost")
			}
			live = append(live, block{b: b})
		}
		for _, x := range live[len(live)-int(a.Cap()/MaxBlock):] {
			a.Free(x.b)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
