package base

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// All findings are told, each once, up to a bound, and what is cut is counted.
func TestFindings(t *testing.T) {
	var f Findings
	f.Add(nil)
	if err := f.Err(); err != nil {
		t.Fatalf("nothing was found: %v", err)
	}
	for i := range maxFindings + 7 {
		for range 2 {
			f.Add(&CorruptionError{File: "f", Offset: int64(i % (maxFindings + 3)), Why: "x"})
		}
	}
	f.Add(ErrClosed)
	err := f.Err()
	lines := strings.Split(err.Error(), "\n")
	// The three offsets beyond the bound were cut twice over, some of them again.
	if len(lines) != maxFindings+1 || !strings.Contains(lines[maxFindings], "more findings") {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
	if ce := (*CorruptionError)(nil); !errors.As(err, &ce) || ce.File != "f" {
		t.Errorf("findings are not joined: %v", err)
	}
	if errors.Is(err, ErrClosed) {
		t.Error("a finding beyond the bound was kept")
	}
	for i := range maxFindings {
		if want := fmt.Sprintf("offset %d:", i); !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, want %q", i, lines[i], want)
		}
	}
}
