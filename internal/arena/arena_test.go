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
		if a.Overdrawn() != 0 {
			return
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

// TestReserve: M1 and M2. The reserve is there for AllocReserve however badly
// Alloc has fragmented the rest.
func TestReserve(t *testing.T) {
	a := mustNew(t, 1<<20)
	var got [][]byte
	for {
		b := a.Alloc(UnitSize)
		if b == nil {
			break
		}
		got = append(got, b)
	}
	if want := a.Cap() - a.ReserveBytes(); a.Reserved() != want {
		t.Fatalf("Alloc stopped at %d, want %d", a.Reserved(), want)
	}
	// Every other unit is free now: nothing of two units fits outside the reserve.
	for i := 0; i < len(got); i += 2 {
		a.Free(got[i])
	}
	if a.Alloc(2*UnitSize) != nil {
		t.Error("Alloc used the reserve")
	}
	b := a.AllocReserve(MaxBlock)
	if b == nil {
		t.Fatal("AllocReserve failed in a fragmented arena")
	}
	if a.AllocReserve(MaxBlock) != nil {
		t.Error("AllocReserve found a slab that is not there")
	}
	a.Free(b)
	for i := 1; i < len(got); i += 2 {
		a.Free(got[i])
	}
	if a.Reserved() != 0 {
		t.Errorf("%d bytes left", a.Reserved())
	}
	for range a.Cap()/MaxBlock - 1 {
		if a.Alloc(MaxBlock) == nil {
			t.Fatal("free memory did not become whole again")
		}
	}
	if a.Alloc(UnitSize) != nil || a.Charge(1) {
		t.Error("more than the limit")
	}
}

func TestCharge(t *testing.T) {
	a := mustNew(t, MinCap)
	limit := a.Cap() - a.ReserveBytes()
	if a.Charge(limit + 1) {
		t.Error("charged into the reserve")
	}
	if !a.Charge(limit - 4<<10) {
		t.Fatal("charge failed")
	}
	if a.Alloc(5<<10) != nil {
		t.Error("blocks and charges exceed the limit")
	}
	b := a.Alloc(4 << 10)
	if b == nil || a.Charge(1) {
		t.Error("blocks + charged < limit, or above it")
	}
	a.ChargeForce(a.ReserveBytes())
	if a.Reserved() != a.Cap() || a.Overdrawn() != 0 || a.AllocReserve(1) != nil {
		t.Errorf("reserved %d of %d", a.Reserved(), a.Cap())
	}
	a.Uncharge(a.Charged())
	if a.Reserved() != 4<<10 || a.Charged() != 0 {
		t.Errorf("reserved %d, charged %d", a.Reserved(), a.Charged())
	}
	a.ChargeForce(a.Cap())
	if a.Overdrawn() != 4<<10 || a.Charge(0) || a.AllocReserve(1) != nil {
		t.Errorf("overdrawn %d", a.Overdrawn())
	}
	a.Uncharge(a.Cap())
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
	if a.Alloc(1) != nil || a.AllocReserve(1) != nil {
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
		if used := float64(a.Reserved()) / float64(a.Cap()-a.ReserveBytes()); used < 0.79 {
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
	if used := float64(a.Reserved()) / float64(a.Cap()-a.ReserveBytes()); used < 0.85 {
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
	for range a.Cap()/MaxBlock - 1 {
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
