package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

func TestNames(t *testing.T) {
	for _, seq := range []uint64{1, 42, 999999999999, 1000000000000, 1 << 60} {
		if got, ok := ParseName(Name(seq)); !ok || got != seq {
			t.Errorf("ParseName(%q) = %d, %v", Name(seq), got, ok)
		}
	}
	for _, name := range []string{"", ".seg", "1.seg", "000000000000.seg", "0000000000001.seg", "000000000001.log", "00000000000x.seg", "000000000001.seg.tmp"} {
		if seq, ok := ParseName(name); ok {
			t.Errorf("ParseName(%q) = %d", name, seq)
		}
	}
}

func TestHeaderDetectsEveryFlippedBit(t *testing.T) {
	want := Header{Seq: 7, Incarnation: 3, Size: 1 << 20, PrevEnd: 99, Synced: 98}
	b := make([]byte, HeaderSize)
	PutHeader(b, &want)
	if got, ok := ParseHeader(b); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, ok := ParseHeader(bad); ok {
			t.Errorf("bit %d flipped: accepted", i)
		}
	}
	if _, ok := ParseHeader(b[:HeaderSize-1]); ok {
		t.Error("a cut header is accepted")
	}
}

func sealed(p Place, synced base.LSN, payload string) []byte {
	b := append(make([]byte, BlockHeaderSize), payload...)
	SealBlock(b, p, synced)
	return b
}

func intact(b []byte, p Place) bool {
	n, _, ok := checkHead(b, p)
	return ok && n == len(b)-BlockHeaderSize && checkPayload(b)
}

func TestBlockDetectsEveryFlippedBit(t *testing.T) {
	p := Place{Seq: 7, Incarnation: 3, Off: 4096}
	b := sealed(p, 1234, "payload")
	if !intact(b, p) {
		t.Fatal("a good block is refused")
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if intact(bad, p) {
			t.Errorf("bit %d flipped: accepted", i)
		}
	}
}

// L4: a block is good in its place and life only.
func TestBlockOfAnotherPlaceIsRefused(t *testing.T) {
	p := Place{Seq: 7, Incarnation: 3, Off: 4096}
	b := sealed(p, 1234, "payload")
	for name, q := range map[string]Place{
		"another segment":     {Seq: 8, Incarnation: 3, Off: 4096},
		"another incarnation": {Seq: 7, Incarnation: 4, Off: 4096},
		"another offset":      {Seq: 7, Incarnation: 3, Off: 4097},
	} {
		if intact(b, q) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkSealBlock(b *testing.B) {
	block := make([]byte, BlockHeaderSize+4096)
	b.ReportAllocs()
	b.SetBytes(4096)
	for b.Loop() {
		SealBlock(block, Place{Seq: 1, Incarnation: 1, Off: 64}, 64)
	}
}

// FuzzParseHeader: what is accepted is what PutHeader writes, to the byte. The
// checksum is filled in, so that the fuzzer gets past it.
func FuzzParseHeader(f *testing.F) {
	var b [HeaderSize]byte
	PutHeader(b[:], &Header{Seq: 7, Incarnation: 3, Size: 64 << 10, PrevEnd: 12345, Synced: 12000})
	f.Add(b[:])
	f.Add(b[:HeaderSize-1])
	b[60] ^= 1
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, src []byte) {
		_, _ = ParseHeader(src)
		if len(src) < HeaderSize {
			return
		}
		src = append([]byte(nil), src[:HeaderSize]...)
		binary.LittleEndian.PutUint32(src[60:], crc32.Checksum(src[:60], castagnoli))
		h, ok := ParseHeader(src)
		if !ok {
			return
		}
		var again [HeaderSize]byte
		PutHeader(again[:], &h)
		clear(src[48:60]) // not read: room for later
		binary.LittleEndian.PutUint32(src[60:], crc32.Checksum(src[:60], castagnoli))
		if string(again[:]) != string(src) {
			t.Errorf("encodes differently:\n%x\n%x", src, again)
		}
	})
}
