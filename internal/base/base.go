package base

import (
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"
)

// Limits of a row (design §7).
const (
	// MaxKeySize is the greatest length of a key, in bytes.
	MaxKeySize = 8 << 10
	// MaxValueSize is the greatest length of a value, in bytes.
	MaxValueSize = 64 << 20
	// LargeValueSize is the length above which a value is stored in a frame of
	// its own from the moment it is written, and never in record memory.
	LargeValueSize = 8 << 10
)

type (
	// TableID names a table. Zero is no table.
	TableID uint32
	// TxnID names a transaction: incarnation<<TxnSeqBits | sequence. Zero is no
	// transaction. The uppermost bit is never set.
	TxnID uint64
	// CommitTS is a commit timestamp, the unit of the published clock. Zero is
	// before every commit. The uppermost bit is never set.
	CommitTS uint64
	// Epoch is a savepoint epoch within one transaction (S6).
	Epoch uint32
	// Leave is a leave number within one transaction (P1): it rises whenever
	// something of the transaction is logged or sealed into a frame.
	Leave uint32
	// LSN is a position in the serial log, in bytes since its creation,
	// segment headers included.
	LSN uint64
	// RunID names a run file: incarnation<<RunSeqBits | sequence.
	RunID uint64
	// EditSeq numbers the edits of the leaf map (L10).
	EditSeq uint64
)

const (
	// TxnSeqBits is the number of bits below the incarnation in a TxnID.
	TxnSeqBits = 40
	// RunSeqBits is the number of bits below the incarnation in a RunID.
	RunSeqBits = 32
	// MaxTS is a timestamp above every commit.
	MaxTS = CommitTS(math.MaxInt64)
)

// Incarnation returns the number of the opening of the store that created t.
func (t TxnID) Incarnation() uint32 { return uint32(t >> TxnSeqBits) }

// String formats the id as incarnation.sequence.
func (t TxnID) String() string {
	return fmt.Sprintf("t%d.%d", t.Incarnation(), uint64(t)&(1<<TxnSeqBits-1))
}

// Kind says what a version is.
type Kind uint8

const (
	// KindValue is a row with a value, possibly empty.
	KindValue Kind = iota
	// KindTombstone says that the record was deleted.
	KindTombstone
	// KindLock is a record lock: it conflicts like a write and changes nothing.
	KindLock
)

// String names the kind.
func (k Kind) String() string {
	return Name(k, "kind", "value", "tombstone", "lock")
}

// Name returns the name of an enumeration\'s value, or what it is called and its
// number if it has none.
func Name[E ~uint8](e E, what string, names ...string) string {
	if int(e) < len(names) && names[e] != "" {
		return names[e]
	}
	return fmt.Sprintf("%s(%d)", what, uint8(e))
}

// Order is what makes one version of a record newer than another (P1).
// An undecided version of the reader itself counts as TS = MaxTS.
type Order struct {
	TS    CommitTS
	Epoch Epoch
	Leave Leave
}

// Newer reports whether o is newer than p.
func (o Order) Newer(p Order) bool {
	if o.TS != p.TS {
		return o.TS > p.TS
	}
	if o.Epoch != p.Epoch {
		return o.Epoch > p.Epoch
	}
	return o.Leave > p.Leave
}

// Hash is the hash of a key used by frame filters and the cold-row cache. It is
// part of the on-disk format: xxHash64.
func Hash(key []byte) uint64 { return xxhash.Sum64(key) }
