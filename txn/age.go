package txn

import "time"

// LongTransaction describes an open transaction that has reached the age limit.
type LongTransaction struct {
	Age       time.Duration // to within a tick
	Isolation Isolation
	ReadOnly  bool
	Wrote     bool // it has written, or locked, something
	// Stack is that of the goroutine that called Begin, with DebugTransactions; else nil.
	Stack []byte
}

// Nobody looks at a watch when a transaction begins: it notes the coarse clock, which
// Tick advances.

// Tick advances the coarse clock to now, the time since some moment, and returns the
// open transactions that are as old as limit, each in one call only; none if limit is
// not above 0.
func (m *Manager) Tick(now, limit time.Duration) (long []LongTransaction) {
	m.coarse.Store(int64(now))
	if limit <= 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for st := m.open; st != nil; st = st.next {
		age := now - st.born
		if age < limit || st.told {
			continue
		}
		st.told = true
		long = append(long, LongTransaction{
			Age: age, Isolation: st.iso, ReadOnly: st.readOnly, Wrote: st.owner.Load() != 0, Stack: st.stack,
		})
	}
	return long
}

// OldestAge returns the age of the oldest open transaction, to within a tick.
func (m *Manager) OldestAge() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.open
	if st == nil {
		return 0
	}
	for st.next != nil { // the newest is first
		st = st.next
	}
	return time.Duration(m.coarse.Load()) - st.born
}
