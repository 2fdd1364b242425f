package recordcache

import (
	"testing"

	"github.com/sakerdb/saker/tablespace"
)

// However many frames a survey meets, a sample has a bounded number, as far from each
// other as any.
func TestSampleIsEven(t *testing.T) {
	for _, n := range []int{1, maxSample, maxSample + 1, 5*maxSample + 3, 100 * maxSample} {
		s := sample{every: 1}
		for i := range n {
			s.add(tablespace.Addr{Off: uint64(i)})
		}
		if len(s.at) > maxSample || len(s.at) < min(n, maxSample/2) {
			t.Errorf("%d frames of %d", len(s.at), n)
		}
		for i, a := range s.at {
			if a.Off != uint64(i*s.every) {
				t.Errorf("frame %d of the sample is %d of %d, every %d", i, a.Off, n, s.every)
			}
		}
	}
}
