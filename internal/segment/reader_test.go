package segment

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

const testSize = 1 << 20

// image makes a segment with the given payloads, and returns the offsets of
// their blocks. Block i knows position i as synced.
func image(h *Header, payloads ...string) (b []byte, offs []int64) {
	b = make([]byte, HeaderSize, testSize)
	PutHeader(b, h)
	for i, p := range payloads {
		offs = append(offs, int64(len(b)))
		b = append(b, sealed(Place{Seq: h.Seq, Incarnation: h.Incarnation, Off: int64(len(b))}, base.LSN(i), p)...)
	}
	return b[:testSize], append(offs, int64(len(b)))
}

func walk(tb testing.TB, src io.ReaderAt, h *Header) (got []string, end int64) {
	tb.Helper()
	r := NewReader(src, h, nil)
	for {
		b, ok, err := r.Next()
		if err != nil {
			tb.Fatal(err)
		}
		if !ok {
			return got, r.Off()
		}
		if int(b.Synced) != len(got) {
			tb.Errorf("block %d knows %d as synced", len(got), b.Synced)
		}
		got = append(got, string(b.Payload))
	}
}

func testPayloads() []string {
	return []string{"a", strings.Repeat("b", 100), strings.Repeat("c", 300<<10), "d", strings.Repeat("e", 200<<10), strings.Repeat("f", 100<<10), "g"}
}

func TestReaderWalksToTheDamage(t *testing.T) {
	h := &Header{Seq: 5, Incarnation: 2, Size: testSize}
	want := testPayloads()
	b, offs := image(h, want...)
	got, end := walk(t, bytes.NewReader(b), h)
	if len(got) != len(want) || end != offs[len(want)] {
		t.Fatalf("%d blocks to %d, want %d to %d", len(got), end, len(want), offs[len(want)])
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("block %d differs", i)
		}
	}
	for i := range want {
		bad := bytes.Clone(b)
		bad[offs[i+1]-1] ^= 1
		got, end := walk(t, bytes.NewReader(bad), h)
		if len(got) != i || end != offs[i] {
			t.Errorf("block %d damaged: %d blocks to %d", i, len(got), end)
		}
		// Behind the damage there is more, up to the last block.
		synced, err := NewReader(bytes.NewReader(bad), h, nil).Hunt(end, []uint32{9, h.Incarnation})
		wantSynced := base.LSN(len(want) - 1)
		if i == len(want)-1 {
			wantSynced = 0
		}
		if err != nil || synced != wantSynced {
			t.Errorf("block %d damaged: hunt finds %d, %v; want %d", i, synced, err, wantSynced)
		}
		// Cut off there: the same.
		got, end = walk(t, bytes.NewReader(b[:offs[i+1]-1]), h)
		if len(got) != i || end != offs[i] {
			t.Errorf("cut in block %d: %d blocks to %d", i, len(got), end)
		}
	}
}

// Invariant 1: what is left of an older life is not there.
func TestReaderIgnoresAnOlderLife(t *testing.T) {
	old, _ := image(&Header{Seq: 5, Incarnation: 2, Size: testSize}, testPayloads()...)
	for name, h := range map[string]*Header{
		"recycled":        {Seq: 6, Incarnation: 2, Size: testSize},
		"new incarnation": {Seq: 5, Incarnation: 3, Size: testSize},
	} {
		fresh, _ := image(h, "x")
		b := bytes.Clone(old)
		copy(b, fresh[:HeaderSize+BlockHeaderSize+1])
		if got, _ := walk(t, bytes.NewReader(b), h); len(got) != 1 {
			t.Errorf("%s: %d blocks", name, len(got))
		}
		synced, err := NewReader(bytes.NewReader(b), h, nil).Hunt(HeaderSize, []uint32{h.Incarnation})
		if err != nil || synced != 0 {
			t.Errorf("%s: hunt finds %d, %v", name, synced, err)
		}
	}
}

type failingReader struct{}

var errRead = errors.New("bad sector")

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, errRead }

func TestReaderPassesOnErrors(t *testing.T) {
	r := NewReader(failingReader{}, &Header{Size: testSize}, nil)
	if _, _, err := r.Next(); !errors.Is(err, errRead) {
		t.Errorf("Next: %v", err)
	}
	if _, err := r.Hunt(0, []uint32{1}); !errors.Is(err, errRead) {
		t.Errorf("Hunt: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	h := &Header{Seq: 5, Incarnation: 2, Size: 4096}
	b, offs := image(h, "a", "bcd", "e")
	f.Add(b[HeaderSize:offs[3]])
	f.Add(b[HeaderSize : offs[3]-1])
	f.Add(b[HeaderSize+1 : offs[3]])
	f.Add(append(b[HeaderSize:offs[1]:offs[1]], 0x9d, 0x5a, 0x42, 0x6b, 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, body []byte) {
		src := append(make([]byte, HeaderSize), body...)
		r := NewReader(bytes.NewReader(src), h, nil)
		end := int64(HeaderSize)
		for {
			b, ok, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if b.Off != end+BlockHeaderSize || len(b.Payload) == 0 {
				t.Fatalf("block at %d of %d bytes, expected behind %d", b.Off, len(b.Payload), end)
			}
			end = b.Off + int64(len(b.Payload))
			if !bytes.Equal(b.Payload, src[b.Off:end]) {
				t.Fatal("payload is not what is in the file")
			}
		}
		if r.Off() != end {
			t.Fatalf("end %d, want %d", r.Off(), end)
		}
		if _, err := r.Hunt(end, []uint32{2, 3}); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkReaderNext(b *testing.B) {
	h := &Header{Seq: 5, Incarnation: 2, Size: testSize}
	var payloads []string
	for range 5000 {
		payloads = append(payloads, strings.Repeat("x", 150))
	}
	img, offs := image(h, payloads...)
	src := bytes.NewReader(img)
	b.ReportAllocs()
	b.SetBytes(offs[len(payloads)])
	var buf []byte
	for b.Loop() {
		r := NewReader(src, h, buf)
		for ok := true; ok; {
			_, ok, _ = r.Next()
		}
		buf = r.Buffer()
	}
}

func BenchmarkHuntInAnOlderLife(b *testing.B) {
	var payloads []string
	for range 5000 {
		payloads = append(payloads, strings.Repeat("x", 150))
	}
	img, _ := image(&Header{Seq: 5, Incarnation: 2, Size: testSize}, payloads...)
	r := NewReader(bytes.NewReader(img), &Header{Seq: 6, Incarnation: 2, Size: testSize}, nil)
	b.ReportAllocs()
	b.SetBytes(testSize)
	for b.Loop() {
		if n, err := r.Hunt(HeaderSize, []uint32{2, 3}); n != 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
