package recordcache

// Recycle forgets everything but buffers of at most limit bytes each, for the
// next transaction that uses the writer.
func (w *Writer) Recycle(limit int) {
	sc, value := w.Scratch, w.proof.value
	sc.Recycle(limit)
	if cap(value) > limit {
		value = nil
	}
	*w = Writer{Scratch: sc, proof: proof{value: value[:0]}}
}

// Recycle forgets everything but buffers of at most limit bytes each.
func (sc *Scratch) Recycle(limit int) {
	if cap(sc.frame) > limit {
		sc.frame = nil
	}
	if cap(sc.log) > limit {
		sc.log = nil
	}
	*sc = Scratch{frame: sc.frame[:0], log: sc.log[:0]}
}
