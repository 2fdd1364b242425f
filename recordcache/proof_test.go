package recordcache

import (
	"testing"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/versionchain"
)

// A writer that sees everything, as that of an entry of an index does, read frames
// while their newest version was another's, undecided, and found an older one. Then
// the other one committed. The writer went on, and brought the older version back to
// memory, where it hid the newer one (P1): memory is newer than frames.
func TestProofOfOwnerWhoCommits(t *testing.T) {
	for name, aborts := range map[string]bool{"commits": false, "aborts": true} {
		t.Run(name, func(t *testing.T) {
			c, tb := newTestCache(t)
			key := []byte("k")
			old := Writer{Reader: versionchain.Reader{Reg: c.reg}}
			if err := tb.Replay(&old, key, []byte("old"), base.KindValue, base.Order{TS: 1}); err != nil {
				t.Fatal(err)
			}
			evictTest(t, c)
			begin := func(n base.TxnID, snapshot base.CommitTS) *Writer {
				o := versionchain.NewOutcome(1<<base.TxnSeqBits | n)
				c.reg.Add(o)
				return &Writer{Reader: versionchain.Reader{Snapshot: snapshot, Self: o, Reg: c.reg}}
			}
			other, w := begin(1, 100), begin(2, base.MaxTS-1)
			if _, err := tb.Write(other, ModePut, key, []byte("new")); err != nil {
				t.Fatal(err)
			}
			evictTest(t, c)

			l, err := tb.lockFor(w, key, 100)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, act := l.judge(w, ModeLock, key); act.todo != doAsk {
				l.mu.Unlock()
				t.Fatalf("%+v", act)
			}
			if err := l.ask(w, key, true); err != nil {
				t.Fatal(err)
			}
			want := "new"
			if aborts {
				other.Self.Prepare(true)
				want = "old"
			} else {
				other.Self.SetCommitted(101)
			}
			l.mu.Lock()
			i, exact, act := l.judge(w, ModeLock, key)
			if act.todo == doAsk {
				if err := l.ask(w, key, true); err != nil {
					t.Fatal(err)
				}
				l.mu.Lock()
				i, exact, act = l.judge(w, ModeLock, key)
			}
			ok := act.todo == doWrite && l.add(w, ModeLock, i, exact, key, nil)
			l.mu.Unlock()
			if !ok {
				t.Fatalf("%+v", act)
			}
			got, found, err := tb.Get(&w.Reader, &Scratch{}, nil, key)
			if err != nil || !found || string(got) != want {
				t.Fatalf("got %q, %v, %v, want %q", got, found, err, want)
			}
		})
	}
}
