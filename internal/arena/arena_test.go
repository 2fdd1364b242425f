package arena

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func mustNew(tb testing.TB, capBytes int64) *Arena {
	tb.Helper()
	a, err := New(capBytes)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := a.Check(); err != nil {
			tb.Error(err)
		}
		if a.Peak() > a.Cap() {
			tb.Errorf("M1: peak %d above cap %d", a.Peak(), a.Cap())
		}
	})
	return a
}

func TestNewRefuses(t *testing.T) {
	for _, n := range []int64{-1, 0, MinCap - 1, 1 << 62} {
		if _, err := New(n); err == nil {
			t.Errorf("New(%d) succeeded", n)
		}
	}
}

func TestAllocSizes(t *testing.T) {
	a := mustNew(t, 1<<20)
	for _, tc := range []struct{ n, granted int }{
		{1, 1 << 10},
		{1 << 10, 1 << 10},
		{1<<10 + 1, 2 << 10},
		{9 << 10, 9 << 10},
		{31<<10 + 1, 32 << 10},
		{32 << 10, 32 << 10},
		{0, 0},
		{-1, 0},
		{MaxBlock + 1, 0},
		{1 << 30, 0},
	} {
		b := a.Alloc(tc.n)
		if len(b) != tc.granted || cap(b) != tc.granted {
			t.Errorf("Alloc(%d): len %d cap %d, want %d", tc.n, len(b), cap(b), tc.granted)
		}
		if a.Reserved() != int64(tc.granted) || a.Blocks() != a.Reserved() {
			t.Errorf("Alloc(%d): reserved %d", tc.n, a.Reserved())
		}
		if b != nil {
			a.Free(b[:1])
		}
	}
	if a.Reserved() != 0 || a.Peak() != 32<<10 {
		t.Errorf("reserved %d, peak %d", a.Reserved(), a.Peak())
	}
}

// M1: everything up to the cap can be had, in the least blocks and, when they are
// gone, in the greatest, and nothing more.
func TestAllOfIt(t *testing.T) {
	a := mustNew(t, 1<<20)
	for _, size := range []int{UnitSize, MaxBlock} {
		var got [][]byte
		for b := a.Alloc(size); b != nil; b = a.Alloc(size) {
			got = append(got, b)
		}
		if a.Reserved() != a.Cap() || a.Charge(1) {
			t.Fatalf("blocks of %d: %d bytes of %d can be had", size, a.Reserved(), a.Cap())
		}
		for _, b := range got {
			a.Free(b)
		}
	}
}

func TestCharge(t *testing.T) {
	a := mustNew(t, MinCap)
	if a.Charge(a.Cap() + 1) {
		t.Error("charged more than there is")
	}
	if !a.Charge(a.Cap() - 4<<10) {
		t.Fatal("charge failed")
	}
	if a.Alloc(5<<10) != nil {
		t.Error("blocks and charges exceed the cap")
	}
	b := a.Alloc(4 << 10)
	if b == nil || a.Charge(1) || a.Reserved() != a.Cap() {
		t.Errorf("reserved %d of %d", a.Reserved(), a.Cap())
	}
	a.Uncharge(a.Charged())
	if a.Reserved() != 4<<10 || a.Charged() != 0 {
		t.Errorf("reserved %d, charged %d", a.Reserved(), a.Charged())
	}
	a.Free(b)
	mustPanic(t, "uncharge", func() { a.Uncharge(1) })
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustPanic(t *testing.T, what string, fn func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	fn()
}

// TestFreeMisuse: what would give memory to two owners is found.
func TestFreeMisuse(t *testing.T) {
	a := mustNew(t, MinCap)
	b := a.Alloc(4 << 10)
	c := a.Alloc(2 << 10)
	mustPanic(t, "nil", func() { a.Free(nil) })
	mustPanic(t, "foreign", func() { a.Free(make([]byte, UnitSize)) })
	mustPanic(t, "tail", func() { a.Free(b[UnitSize:]) })
	mustPanic(t, "not at a unit", func() { a.Free(b[1:]) })
	mustPanic(t, "part", func() { a.Free(b[: 2<<10 : 2<<10]) })
	a.Free(b)
	mustPanic(t, "twice", func() { a.Free(b) })
	a.Free(c)
	if a.Reserved() != 0 {
		t.Errorf("%d bytes left", a.Reserved())
	}
}

func TestClose(t *testing.T) {
	a := mustNew(t, MinCap)
	b := a.Alloc(1)
	if a.Close() == nil {
		t.Fatal("closed with a block in use")
	}
	b[0] = 1 // still mapped
	a.Free(b)
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if a.Alloc(1) != nil {
		t.Error("Alloc after Close")
	}
}

// Pages that were split are somewhat larger than half a page, since they have
// grown a little. Slabs of one greatest block held one such page each: a million
// rows of 140 bytes, updated at random, then did not fit into 250 MiB.
func TestHalvesArePacked(t *testing.T) {
	for _, size := range []int{17, 19, 21} {
		a := mustNew(t, 64<<20)
		for a.Alloc(size<<10) != nil {
		}
		if used := float64(a.Reserved()) / float64(a.Cap()); used < 0.79 {
			t.Errorf("blocks of %d KiB: only %.0f %% can be used", size, 100*used)
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	a := mustNew(t, 64<<20)
	var bs [][]byte
	for range 20_000 { // pages come and go, all of them between 16 and 25 KiB
		if b := a.Alloc((16 + rng.IntN(10)) << 10); b != nil {
			bs = append(bs, b)
			continue
		}
		i := rng.IntN(len(bs))
		a.Free(bs[i])
		bs[i] = bs[len(bs)-1]
		bs = bs[:len(bs)-1]
	}
	if used := float64(a.Reserved()) / float64(a.Cap()); used < 0.85 {
		t.Errorf("pages of all sizes: only %.0f %% can be used", 100*used)
	}
	if err := a.Check(); err != nil {
		t.Error(err)
	}
}

// TestReuseIsLIFO: what was freed last is used first, by slabs; of the two in a
// slab the lower one comes first.
func TestReuseIsLIFO(t *testing.T) {
	a := mustNew(t, 1<<20)
	var bs [][]byte
	for range 20 {
		bs = append(bs, a.Alloc(MaxBlock))
	}
	for _, b := range bs {
		a.Free(b)
	}
	for i := range slices.Backward(bs) {
		if b := a.Alloc(MaxBlock); &b[0] != &bs[i^1][0] {
			t.Fatalf("block %d was not reused in its turn", i)
		}
	}
}

func TestTrim(t *testing.T) {
	a := mustNew(t, 1<<20)
	var bs [][]byte
	for range 20 {
		bs = append(bs, a.Alloc(MaxBlock))
	}
	for _, b := range bs[1:] {
		a.Free(b)
	}
	if n := a.Trim(); n != 9*slabSize {
		t.Errorf("Trim = %d", n)
	}
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	a.Free(bs[0])
	for range a.Cap() / MaxBlock {
		if a.Alloc(MaxBlock) == nil {
			t.Fatal("trimmed memory is lost")
		}
	}
}

func TestConcurrent(t *testing.T) {
	a := mustNew(t, 1<<20)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			var mine [][]byte
			for range 5000 {
				switch k := rng.IntN(8); {
				case k < 3:
					if b := a.Alloc(1 + rng.IntN(MaxBlock)); b != nil {
						b[0], b[len(b)-1] = byte(g), byte(g)
						mine = append(mine, b)
					}
				case k < 7:
					if n := len(mine); n > 0 {
						b := mine[n-1]
						if b[0] != byte(g) || b[len(b)-1] != byte(g) {
							t.Error("two owners")
						}
						a.Free(b)
						mine = mine[:n-1]
					}
				case a.Charge(100):
					if a.Reserved() > a.Cap() {
						t.Error("M1")
					}
					a.Uncharge(100)
				default:
					a.Trim()
				}
			}
			for _, b := range mine {
				a.Free(b)
			}
		})
	}
	wg.Wait()
	if a.Reserved() != 0 {
		t.Errorf("%d bytes left", a.Reserved())
	}
}

// The sums were wrong for a moment while Trim had a slab in hand: Check said so of a
// store at rest whose scavenger was giving pages back.
func TestCheckWhileTrimming(t *testing.T) {
	a := mustNew(t, 4<<20)
	var wg sync.WaitGroup
	wg.Go(func() {
		var bs [][]byte
		for range 300 {
			for range 20 {
				bs = append(bs, a.Alloc(MaxBlock))
			}
			for _, b := range bs {
				a.Free(b)
			}
			bs = bs[:0]
			a.Trim()
		}
	})
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	for {
		if err := a.Check(); err != nil {
			t.Error(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
