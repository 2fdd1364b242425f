package versionchain

import (
	"bytes"
	"sort"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// FuzzParseFrame gives arbitrary bytes to the decoder: whatever it accepts can
// be read to the end without a panic.
func FuzzParseFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendFrame(nil, &FrameMeta{}, nil))
	f.Add(AppendFrame(nil, &FrameMeta{Image: true, Low: []byte("a")}, seqRows(1, 3, 5)))
	f.Add(AppendFrame(nil, &FrameMeta{Owner: 5, High: []byte("z")}, []Row{
		{Key: []byte("abc"), Value: []byte("1"), Order: base.Order{Epoch: 2, Leave: 1}},
		{Key: []byte("abcdefgh"), Kind: base.KindTombstone},
		{Key: []byte("abcdefgi"), Kind: base.KindLock},
	}))
	f.Add(AppendFrame(nil, &FrameMeta{}, []Row{
		{Key: []byte("a"), Order: base.Order{TS: 1 << 60}}, {Key: []byte("a"), Order: base.Order{TS: 1}},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := FrameLen(b); err != nil {
			if _, err := ParseFrame(b); err == nil {
				t.Fatal("accepted a frame without a length")
			}
			return
		}
		_ = CheckFrame(b, 1, 2)
		fr, err := ParseFrame(b)
		if err != nil {
			return
		}
		m := fr.Meta()
		_ = fr.Verify()
		fr.Search(nil)
		fr.Search(m.Low)
		fr.Search(m.High)
		FilterMayContain(fr.Filter(), 1)
		total := 0
		for i := range fr.Len() {
			var r Row
			fr.Row(i, &r)
			if r.Order != fr.Order(i) || r.Kind != fr.Kind(i) ||
				!bytes.Equal(r.Key, fr.Key(i)) || !bytes.Equal(r.Value, fr.Value(i)) {
				t.Fatalf("row %d: accessors differ", i)
			}
			if j, _ := fr.Search(r.Key); j < 0 || j > fr.Len() {
				t.Fatalf("Search = %d of %d", j, fr.Len())
			}
			total += len(r.Key) + len(r.Value)
		}
		_ = total
	})
}

// FuzzFrameRoundTrip makes rows of arbitrary bytes and expects them back.
func FuzzFrameRoundTrip(f *testing.F) {
	f.Add([]byte("key one\x00key two\x01key two\x02"), uint8(3), uint8(0), true)
	f.Add([]byte("prefix/aaaaaaaaprefix/aaaabbbbprefix/aaaacccc"), uint8(15), uint8(4), false)
	f.Add(bytes.Repeat([]byte{0, 255}, 100), uint8(8), uint8(255), false)
	f.Fuzz(func(t *testing.T, data []byte, step, spread uint8, owned bool) {
		var rows []Row
		m := FrameMeta{Table: base.TableID(step)}
		if owned {
			m.Owner = 1<<41 | 7
		}
		for n := 0; len(data) > 0 && len(rows) < 300; n++ {
			cut := min(len(data), 1+(n*int(spread)+int(step))%40)
			r := Row{Key: data[:cut/2], Value: data[cut/2 : cut], Kind: base.Kind(data[0] % 3)}
			if r.Kind != base.KindValue {
				r.Value = nil
			}
			x := uint64(data[cut-1]) << (spread % 56)
			if owned {
				r.Epoch, r.Leave = base.Epoch(x), base.Leave(n)
			} else {
				r.TS = base.CommitTS(x)
			}
			rows = append(rows, r)
			data = data[cut:]
		}
		sort.SliceStable(rows, func(i, j int) bool {
			if c := bytes.Compare(rows[i].Key, rows[j].Key); c != 0 {
				return c < 0
			}
			return rows[i].Newer(rows[j].Order)
		})
		b := AppendFrame(nil, &m, rows)
		SealFrame(b, base.RunID(step), uint64(spread))
		if err := CheckFrame(b, base.RunID(step), uint64(spread)); err != nil {
			t.Fatal(err)
		}
		fr := mustParse(t, b)
		if err := fr.Verify(); err != nil {
			t.Fatal(err)
		}
		checkFrame(t, &fr, rows)
		for i := range rows {
			checkSearch(t, &fr, rows, rows[i].Key)
			checkSearch(t, &fr, rows, rows[i].Value)
		}
	})
}
