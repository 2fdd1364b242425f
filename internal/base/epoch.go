package base

import "fmt"

// EpochRange is an interval of savepoint epochs of one transaction, both ends
// included. A transaction's dead intervals are such ranges (S6, L3).
type EpochRange struct {
	From, To Epoch
}

// Contains reports whether e lies in the range.
func (r EpochRange) Contains(e Epoch) bool { return r.From <= e && e <= r.To }

// String formats the range as [from,to].
func (r EpochRange) String() string { return fmt.Sprintf("[%d,%d]", r.From, r.To) }
