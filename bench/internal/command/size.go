package command

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ByteSize is a flag of bytes: a number, then maybe a unit. KB, MB and GB are
// powers of 1000; KiB, MiB, GiB, and the letters alone, powers of 1024.
type ByteSize int64

var byteUnits = []struct {
	suffix string // lower case
	factor float64
}{
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"k", 1 << 10},
	{"m", 1 << 20},
	{"g", 1 << 30},
	{"b", 1},
	{"", 1},
}

// String formats the size in MiB, as the flag's default.
func (b *ByteSize) String() string {
	if b == nil || *b == 0 {
		return ""
	}
	return MiB(int64(*b)) + "MiB"
}

// Set parses the size.
func (b *ByteSize) Set(s string) error {
	lower := strings.ToLower(strings.TrimSpace(s))
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(lower, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || n < 0 || n*u.factor >= math.MaxInt64 || math.IsNaN(n) {
			break
		}
		*b = ByteSize(n * u.factor)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 250MiB, 64MB or 1048576", s)
}

// MiB formats bytes in MiB, with as many decimals as tell something.
func MiB(bytes int64) string {
	v := float64(bytes) / (1 << 20)
	if v == math.Trunc(v) || v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}
