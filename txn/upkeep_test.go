package txn

import (
	"testing"
	"time"
)

// The waits of one statement on an indexed table have one limit together: it waited
// anew, with all of the limit, for each row and entry that somebody else had.
func TestUpkeepLimit(t *testing.T) {
	var none *upkeep
	u := newUpkeep()
	for _, u := range []*upkeep{none, u} { // no statement on an indexed table
		for _, patience := range []time.Duration{-1, 0, time.Hour, time.Hour} {
			if got := u.limit(patience); got != patience {
				t.Errorf("limit %v of %v", got, patience)
			}
		}
	}
	u.busy = true
	if u.limit(-1) != -1 || u.limit(0) != 0 {
		t.Error("a limit where there is none")
	}
	if got := u.limit(time.Hour); got != time.Hour {
		t.Errorf("first wait: %v", got)
	}
	u.waits = u.waits.Add(-30 * time.Minute)
	if got := u.limit(time.Hour); got > 30*time.Minute || got <= 0 {
		t.Errorf("second wait: %v", got)
	}
	u.waits = u.waits.Add(-time.Hour)
	if got := u.limit(time.Hour); got != 1 {
		t.Errorf("nothing left: %v", got)
	}
	u.forget()
	u.busy = true
	if got := u.limit(time.Hour); got != time.Hour {
		t.Errorf("next statement: %v", got)
	}
}
