package txn

import (
	"fmt"

	"github.com/sakerdb/saker/internal/base"
)

// Holders says what transactions keep others from moving, for ErrRecordMemory. Age
// is told in commits, since nobody looks at a watch when a transaction begins.
func (m *Manager) Holders() string {
	m.mu.Lock()
	n, oldest := m.opened, m.open
	if n == 0 {
		m.mu.Unlock()
		return "no transaction is open"
	}
	for oldest.next != nil { // the newest is first
		oldest = oldest.next
	}
	id, ts := base.TxnID(oldest.owner.Load()), oldest.begun
	m.mu.Unlock()
	who := "has written nothing"
	if id != 0 {
		who = fmt.Sprintf("is %v", id)
	}
	return fmt.Sprintf("%d transactions are open, with buffers of %d bytes; the oldest %s and began %d commits ago",
		n, m.buffered.Load(), who, m.Clock()-ts)
}
