package main

import (
	"io"
	"strings"
	"testing"
)

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
