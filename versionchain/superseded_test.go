package versionchain

import (
	"slices"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// DropSuperseded goes down from the version that it is asked about, and stops at the
// first one of another transaction, of an earlier stretch, or that somebody holds.
func TestDropSuperseded(t *testing.T) {
	const me, other = base.TxnID(7), base.TxnID(8)
	type ver struct {
		id     base.TxnID // 0: committed
		epoch  base.Epoch
		pinned bool
	}
	for _, tc := range []struct {
		name  string
		chain []ver // newest first
		from  base.Epoch
		want  int // versions dropped
	}{
		{"alone", []ver{{id: me, epoch: 5}}, 0, 0},
		{"all of a stretch", []ver{{id: me, epoch: 5}, {id: me, epoch: 4}, {id: me, epoch: 2}}, 2, 2},
		{"not of an earlier stretch", []ver{{id: me, epoch: 5}, {id: me, epoch: 4}, {id: me, epoch: 2}}, 3, 1},
		{"not what is committed", []ver{{id: me, epoch: 5}, {id: me, epoch: 4}, {}}, 0, 1},
		{"not another's", []ver{{id: me, epoch: 5}, {id: other, epoch: 4}}, 0, 0},
		{"not what is held", []ver{{id: me, epoch: 5}, {id: me, epoch: 4, pinned: true}, {id: me, epoch: 3}}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := MakePage(make([]byte, 4<<10))
			for i, x := range slices.Backward(tc.chain) {
				v := Ver{Stamp: 30, Epoch: x.epoch}
				if x.id != 0 {
					v.Stamp, v.Flags = UndecidedStamp(x.id), FlagListed
				}
				if i == len(tc.chain)-1 {
					p.Insert(0, []byte("k"), []byte("value"), 0, &v)
				} else {
					p.Push(0, []byte("value"), &v)
				}
				if x.pinned {
					at := p.Newest(0)
					v := p.Version(at)
					v.Uses++
					p.putVersion(int(at), &v)
				}
			}
			used := p.Used()
			if n := p.DropSuperseded(p.Newest(0), me, tc.from); n != tc.want {
				t.Fatalf("dropped %d versions, want %d", n, tc.want)
			}
			if freed, want := used-p.Used(), tc.want*(versionHeader+len("value")); freed != want {
				t.Errorf("%d bytes were freed, want %d", freed, want)
			}
			left := 0
			for off := p.Newest(0); off != 0; off = p.Version(off).Prior {
				left++
			}
			if left != len(tc.chain)-tc.want {
				t.Errorf("%d versions are left of %d", left, len(tc.chain))
			}
		})
	}
}
