package base

import (
	"bytes"
	"testing"
)

func TestIndexKey(t *testing.T) {
	// In ascending order, and so are their escaped forms.
	keys := []string{
		"", "\x00", "\x00\x00", "\x00\x00\x01", "\x00\x01", "\x00\xff", "\x01", "\x01\x00", "a", "a\x00", "a\x00b",
		"a\x01", "aa", "a\xff", "b", "\xff", "\xff\x00", "\xff\xff",
	}
	last := []byte{}
	for _, k := range keys {
		e := AppendIndexKey(nil, []byte(k))
		if bytes.Compare(last, e) >= 0 {
			t.Errorf("%q: % x does not come after % x", k, e, last)
		}
		if bytes.HasPrefix(e, last) && len(last) > 0 {
			t.Errorf("%q: % x begins with % x", k, e, last)
		}
		last = e
	}
	if got := AppendIndexKey([]byte("p"), []byte("a\x00b")); string(got) != "pa\x00\xffb\x00\x01" {
		t.Errorf("got %q", got)
	}
}

func TestCutIndexKeyOfOtherBytes(t *testing.T) {
	for _, s := range []string{"", "a", "\x00", "a\x00", "a\x00\xff", "a\x00\x02", "\x00\xff\x00", "a\x00\x00\x00\x01"} {
		if key, rest, ok := CutIndexKey([]byte("as it was"), []byte(s)); ok || rest != nil || string(key) != "as it was" {
			t.Errorf("%q: %q %q %v", s, key, rest, ok)
		}
	}
}

// FuzzIndexKey: escaping keeps the bytewise order of any two keys, none is the
// beginning of the other's, and what goes in comes out, with what follows it.
func FuzzIndexKey(f *testing.F) {
	f.Add([]byte(""), []byte("\x00"), []byte("k"))
	f.Add([]byte("a"), []byte("a\x00"), []byte("\x00\x01"))
	f.Add([]byte("a\x00\xff"), []byte("a\x00\x01"), []byte("\xff"))
	f.Add([]byte("\x00\x00"), []byte("\x00\xff"), []byte(""))
	f.Fuzz(func(t *testing.T, a, b, pk []byte) {
		ea, eb := AppendIndexKey(nil, a), AppendIndexKey(nil, b)
		if bytes.Compare(a, b) != bytes.Compare(ea, eb) {
			t.Fatalf("order of % x and % x is not that of % x and % x", a, b, ea, eb)
		}
		// With whatever behind them: bounds are escaped keys alone.
		if c := bytes.Compare(append(bytes.Clone(ea), pk...), eb); (c >= 0) != (bytes.Compare(a, b) >= 0) {
			t.Fatalf("entry of % x against bound % x", a, b)
		}
		if !bytes.Equal(a, b) && bytes.HasPrefix(ea, eb) {
			t.Fatalf("% x begins with % x", ea, eb)
		}
		key, rest, ok := CutIndexKey(nil, append(ea, pk...))
		if !ok || !bytes.Equal(key, a) || !bytes.Equal(rest, pk) {
			t.Fatalf("% x and % x came out as % x and % x, %v", a, pk, key, rest, ok)
		}
		// What is read from disk may be anything.
		if key, rest, ok := CutIndexKey(nil, a); ok {
			if back := append(AppendIndexKey(nil, key), rest...); !bytes.Equal(back, a) {
				t.Fatalf("% x taken apart and put together is % x", a, back)
			}
		}
	})
}
