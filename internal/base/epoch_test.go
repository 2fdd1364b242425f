package base

import "testing"

func TestEpochRangeContains(t *testing.T) {
	r := EpochRange{From: 3, To: 5}
	for e, want := range map[Epoch]bool{2: false, 3: true, 4: true, 5: true, 6: false} {
		if got := r.Contains(e); got != want {
			t.Errorf("%v contains %d: got %v, want %v", r, e, got, want)
		}
	}
	if (EpochRange{From: 2, To: 1}).Contains(1) {
		t.Error("an empty range contains an epoch")
	}
}
