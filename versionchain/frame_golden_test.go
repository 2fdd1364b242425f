package versionchain

import (
	"bytes"
	"embed"
	"testing"

	"github.com/sakerdb/saker/internal/base"
)

// Frames as version 1 wrote them: they are read for ever, and as long as the
// format has that number they are written the same.
//
//go:embed testdata/frame
var goldenFrames embed.FS

const goldenRun, goldenOffset = base.RunID(3<<base.RunSeqBits | 14), uint64(1592)

func goldenFrame(name string) (*FrameMeta, []Row) {
	rows := []Row{
		{Key: []byte("user/1"), Value: []byte("ada"), Order: base.Order{TS: 20}},
		{Key: []byte("user/10"), Value: []byte("grace"), Order: base.Order{TS: 17}},
		{Key: []byte("user/10"), Kind: base.KindTombstone, Order: base.Order{TS: 9}},
		{Key: []byte("user/23456"), Kind: base.KindLock, Order: base.Order{TS: 11}},
	}
	m := &FrameMeta{Table: 6, Low: []byte("user/"), High: []byte("user0"), Newest: 20}
	switch name {
	case "v1-committed":
	case "v1-image":
		m.Image = true
		rows = rows[:2]
		rows[0].Value = []byte("hopper")
		rows[1].TS = 20
	case "v1-owned":
		m.Owner, m.Newest, m.High = 2<<base.TxnSeqBits|77, 0, nil
		for i := range rows {
			rows[i].Order = base.Order{Epoch: base.Epoch(9 - i), Leave: base.Leave(40 - i%2)}
		}
		m.Leave = 40
	}
	return m, rows
}

func TestFrameGolden(t *testing.T) {
	for _, name := range []string{"v1-committed", "v1-image", "v1-owned"} {
		t.Run(name, func(t *testing.T) {
			stored, err := goldenFrames.ReadFile("testdata/frame/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckFrame(stored, goldenRun, goldenOffset); err != nil {
				t.Fatal(err)
			}
			f := mustParse(t, stored)
			if err := f.Verify(); err != nil {
				t.Fatal(err)
			}
			m, rows := goldenFrame(name)
			checkFrame(t, &f, rows)
			written := AppendFrame(nil, m, rows)
			SealFrame(written, goldenRun, goldenOffset)
			if !bytes.Equal(written, stored) {
				t.Errorf("written now:\n%x\nstored:\n%x", written, stored)
			}
		})
	}
}
