package segment

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/sakerdb/saker/internal/base"
)

// minWindow is the least number of bytes a Reader reads at a time.
const minWindow = 256 << 10

// Reader walks the blocks of one segment.
type Reader struct {
	src   io.ReaderAt // io.EOF at the end or a short count
	size  int64
	place Place // of the next block

	buf   []byte // window of the file
	start int64  // offset of buf[0]
}

// Block is one intact block. Payload is valid until the next call of a method.
type Block struct {
	Off     int64 // of Payload within the segment
	Payload []byte
	Synced  base.LSN
}

// NewReader returns a reader of the blocks behind the header of a segment. buf
// is scratch, may be nil, and is handed on by Buffer.
func NewReader(src io.ReaderAt, h *Header, buf []byte) *Reader {
	return &Reader{
		src:   src,
		size:  h.Size,
		place: Place{Seq: h.Seq, Incarnation: h.Incarnation, Off: HeaderSize},
		buf:   buf[:0],
	}
}

// Buffer returns the scratch space for use by another reader.
func (r *Reader) Buffer() []byte { return r.buf }

// Off returns the offset at which the next block must begin: the end of the
// last intact one.
func (r *Reader) Off() int64 { return r.place.Off }

// Next returns the block at Off. ok is false when there is none: the end of
// what was written, or damage. An error is one of reading the file.
func (r *Reader) Next() (b Block, ok bool, err error) {
	b, n, err := r.blockAt(r.place)
	if err != nil || n == 0 {
		return Block{}, false, err
	}
	r.place.Off += n
	return b, true, nil
}

// Skip moves on to the first intact block of the reader's incarnation behind Off
// that ends at or before end, and reports whether there is one. It is for a check
// that goes on behind damage.
func (r *Reader) Skip(end int64) (bool, error) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], blockMagic)
	for p := r.place.Off + 1; p+BlockHeaderSize <= end; {
		win, err := r.window(p, BlockHeaderSize)
		if err != nil {
			return false, err
		}
		i := bytes.Index(win, magic[:])
		if i < 0 {
			if len(win) < BlockHeaderSize {
				break
			}
			p += int64(len(win) - len(magic) + 1)
			continue
		}
		p += int64(i)
		at := r.place
		at.Off = p
		_, n, err := r.blockAt(at)
		if err != nil {
			return false, err
		}
		if n > 0 && p+n <= end {
			r.place.Off = p
			return true, nil
		}
		p++
	}
	return false, nil
}

// Hunt looks for intact blocks anywhere from off on and returns the greatest
// synced position in them, zero if there is none. Blocks are not aligned, so
// every place with a block's magic is tried, with every given incarnation.
func (r *Reader) Hunt(off int64, incarnations []uint32) (synced base.LSN, err error) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], blockMagic)
	for off < r.size {
		win, err := r.window(off, BlockHeaderSize)
		if err != nil {
			return 0, err
		}
		i := bytes.Index(win, magic[:])
		if i < 0 {
			if len(win) < BlockHeaderSize {
				break
			}
			off += int64(len(win) - len(magic) + 1)
			continue
		}
		off += int64(i)
		step := int64(1)
		for _, inc := range incarnations {
			b, n, err := r.blockAt(Place{Seq: r.place.Seq, Incarnation: inc, Off: off})
			if err != nil {
				return 0, err
			}
			if n > 0 {
				synced = max(synced, b.Synced)
				step = n
				break
			}
		}
		off += step
	}
	return synced, nil
}

// blockAt verifies the block at p; n is its whole length, zero if there is none.
func (r *Reader) blockAt(p Place) (b Block, n int64, err error) {
	win, err := r.window(p.Off, BlockHeaderSize)
	if err != nil {
		return Block{}, 0, err
	}
	length, synced, ok := checkHead(win, p)
	n = int64(length) + BlockHeaderSize
	if !ok || p.Off+n > r.size {
		return Block{}, 0, nil
	}
	if win, err = r.window(p.Off, int(n)); err != nil {
		return Block{}, 0, err
	}
	if int64(len(win)) < n || !checkPayload(win[:n]) {
		return Block{}, 0, nil
	}
	return Block{Off: p.Off + BlockHeaderSize, Payload: win[BlockHeaderSize:n], Synced: synced}, n, nil
}

// window returns the buffered bytes from off on, at least n unless the file
// ends before.
func (r *Reader) window(off int64, n int) ([]byte, error) {
	if off >= r.start && off+int64(n) <= r.start+int64(len(r.buf)) {
		return r.buf[off-r.start:], nil
	}
	want := int(min(r.size-off, int64(max(n, minWindow))))
	if want <= 0 {
		return nil, nil
	}
	if cap(r.buf) < want {
		r.buf = make([]byte, want)
	}
	got, err := r.src.ReadAt(r.buf[:want], off)
	if err == io.EOF {
		err = nil
	}
	if err != nil {
		r.buf = r.buf[:0]
		return nil, err
	}
	r.buf, r.start = r.buf[:got], off
	return r.buf, nil
}
