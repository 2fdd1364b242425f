package command

import "testing"

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{
		"250MiB": 250 << 20, "64MB": 64e6, "16m": 16 << 20, "1.5GiB": 3 << 29, "4096": 4096,
		"8k": 8 << 10, "10B": 10, "2 GB": 2e9, "0": 0,
	} {
		var b ByteSize
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%q: %d, %v, want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "12 apples", "1e30GiB", "NaN", "1TiBB"} {
		var b ByteSize
		if err := b.Set(text); err == nil {
			t.Errorf("%q: %d, want an error", text, b)
		}
	}
}
