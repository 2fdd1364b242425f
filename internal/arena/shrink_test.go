package arena

import "testing"

func TestShrinkGivesBackTheTail(t *testing.T) {
	a, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	b := a.Alloc(16 << 10)
	for i := range b {
		b[i] = byte(i)
	}
	before := a.Reserved()
	b = a.Shrink(b, 5000)
	if len(b) != 5<<10 || cap(b) != 5<<10 {
		t.Fatalf("len %d cap %d", len(b), cap(b))
	}
	if got := before - a.Reserved(); got != 11<<10 {
		t.Fatalf("gave back %d", got)
	}
	for i := range b[:5000] {
		if b[i] != byte(i) {
			t.Fatal("content lost")
		}
	}
	c := a.Alloc(11 << 10) // fits where the tail was
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	a.Free(b)
	a.Free(c)
	if a.Reserved() != 0 {
		t.Fatalf("%d bytes left", a.Reserved())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}
