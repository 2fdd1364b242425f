package base

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// maxFindings bounds what Findings keeps: who sees a hundred faults restores a
// backup.
const maxFindings = 100

// Findings collects what a check finds. The zero value is empty; it may be used
// from any goroutine.
type Findings struct {
	mu   sync.Mutex // guards what follows
	errs []error
	seen map[string]struct{}
	cut  int
}

// Add notes a finding. The same text is noted once: two checks may come across
// the same bytes. Nil is none.
func (f *Findings) Add(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text := err.Error()
	if _, ok := f.seen[text]; ok {
		return
	}
	if len(f.errs) >= maxFindings {
		f.cut++
		return
	}
	if f.seen == nil {
		f.seen = make(map[string]struct{})
	}
	f.seen[text] = struct{}{}
	f.errs = append(f.errs, err)
}

// Err returns all findings joined, nil if there are none. The last line says how
// many more there were than are told.
func (f *Findings) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := f.errs
	if f.cut > 0 {
		errs = append(slices.Clip(errs), fmt.Errorf("saker: and %d more findings", f.cut))
	}
	return errors.Join(errs...)
}
