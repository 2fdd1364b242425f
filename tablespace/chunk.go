package tablespace

import (
	"sync"
	"sync/atomic"
)

// chunkSizes are the capacities of chunks. A run starts with the smallest, so
// that a thousand small transactions do not hold a thousand large buffers.
var chunkSizes = [...]int{16 << 10, 64 << 10, 256 << 10}

// chunk is a stretch of a run that is not written yet. Bytes are only appended,
// under the run's mu. When it is closed the flusher stores the checksums of its
// frames into it while readers copy frames out: without a lock, for readers
// leave the checksum of a frame alone.
type chunk struct {
	off     uint64 // of buf[0] in the run
	buf     []byte
	marks   []mark // the frames in buf
	charged int64  // buffer credits to give back when it is gone
	class   int8   // index into chunkSizes, or -1: made to measure
	closed  bool   // takes no more; guarded by the run's mu

	// readers counts those who are about to copy from buf. It rises only under
	// the run's mu while the chunk is in the run's list; a chunk out of the list
	// is reused only if it is zero.
	readers atomic.Int32
}

// mark is the place of a frame within a chunk.
type mark struct{ start, end int }

// end returns the offset in the run just behind the chunk.
func (c *chunk) end() uint64 { return c.off + uint64(len(c.buf)) }

// chunkPool keeps idle chunks of the standard sizes.
type chunkPool struct {
	mu   sync.Mutex // guards free
	free [len(chunkSizes)][]*chunk
	max  [len(chunkSizes)]int
}

func newChunkPool(bufferSize int64) *chunkPool {
	p := &chunkPool{}
	for i, size := range chunkSizes {
		p.max[i] = int(bufferSize/int64(size))/4 + 1
	}
	return p
}

// get returns an empty chunk of at least n bytes, of the given class if they fit.
func (p *chunkPool) get(n, class int) *chunk {
	for class < len(chunkSizes) && chunkSizes[class] < n {
		class++
	}
	if class == len(chunkSizes) {
		return &chunk{buf: make([]byte, 0, n), class: -1}
	}
	p.mu.Lock()
	if free := p.free[class]; len(free) > 0 {
		c := free[len(free)-1]
		p.free[class] = free[:len(free)-1]
		p.mu.Unlock()
		return c
	}
	p.mu.Unlock()
	return &chunk{buf: make([]byte, 0, chunkSizes[class]), class: int8(class)}
}

// put takes a chunk that is in no run's list. If a reader still holds it, the
// garbage collector gets it instead.
func (p *chunkPool) put(c *chunk) {
	if c.class < 0 || c.readers.Load() != 0 {
		return
	}
	c.buf, c.marks = c.buf[:0], c.marks[:0]
	c.charged, c.closed = 0, false
	p.mu.Lock()
	if len(p.free[c.class]) < p.max[c.class] {
		p.free[c.class] = append(p.free[c.class], c)
	}
	p.mu.Unlock()
}
