package arena

import (
	"sync"
	"testing"
)

// Check ran beside Trim, and missed the slab whose pages were being given back.
func TestCheckBesideTrim(t *testing.T) {
	a, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for range 300 {
			var held [][]byte
			for b := a.Alloc(MaxBlock); b != nil; b = a.Alloc(MaxBlock) {
				held = append(held, b)
			}
			for _, b := range held {
				a.Free(b)
			}
			a.Trim()
		}
	})
	for checking := true; checking; {
		select {
		case <-done:
			checking = false
		default:
		}
		if err := a.Check(); err != nil {
			t.Error(err)
			break
		}
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
