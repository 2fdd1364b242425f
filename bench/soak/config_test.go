package main

import (
	"io"
	"strings"
	"testing"
)

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{
		"250MiB": 250 << 20, "64MB": 64e6, "16m": 16 << 20, "1.5GiB": 3 << 29, "4096": 4096,
		"8k": 8 << 10, "10B": 10, "2 GB": 2e9, "0": 0,
	} {
		var b byteSize
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%q: %d, %v, want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "12 apples", "1e30GiB", "NaN", "1TiBB"} {
		var b byteSize
		if err := b.Set(text); err == nil {
			t.Errorf("%q: %d, want an error", text, b)
		}
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	_, err := parseConfig([]string{"-rows", "0", "-order", "up", "-value-size", "-1", "-writers", "0", "-record-memory", "0"}, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, option := range []string{"-rows", "-order", "-value-size", "-writers", "-record-memory"} {
		if !strings.Contains(err.Error(), option) {
			t.Errorf("%q does not name %s", err, option)
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %s, want %s", n, got, want)
		}
	}
}
