package recordcache

import (
	"testing"
)

// Recovery asks the map for a hole. Before it makes a leaf of that, somebody makes
// the range an entry, and it goes back to the map: the leaf hid it (P4).
func TestHoleBecameEntry(t *testing.T) {
	c, tb := newTestCache(t)
	once := true
	c.AfterLookup = func() {
		if once {
			once = false
			replayRows(t, c, tb, 20, 1)
			evictTest(t, c)
		}
	}
	if err := tb.installWithin([]byte("k05"), []byte("k00"), nil); err != nil {
		t.Fatal(err)
	}
	if l := tb.find([]byte("k05")); l != nil && !l.mapped {
		t.Error("a leaf without frames hides those in the map")
	}
	if found := checkCache(t, c); len(found) > 0 {
		t.Error(found)
	}
}
