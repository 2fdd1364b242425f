package history

import "fmt"

// OpKind is what an operation does.
type OpKind uint8

const (
	// Append adds Value to the end of the list at Key.
	Append OpKind = iota
	// Read returned List for Key; an absent row is an empty list.
	Read
	// Scan returned Rows for the keys in [From, To), all of them.
	Scan
	// Mark is a savepoint.
	Mark
	// Undo rolled back to the Mark at index To of the same transaction.
	Undo
)

// Op is one operation of a transaction, in the order of its program.
type Op struct {
	Kind     OpKind
	Key      int
	Value    int32 // Append: no element is appended to a key twice
	List     []int32
	From, To int
	Rows     []Row // ascending
}

// Row is one row of a Scan.
type Row struct {
	Key  int
	List []int32
}

// Status is what became of a transaction.
type Status uint8

const (
	// Committed was acknowledged.
	Committed Status = iota
	// Aborted never happened.
	Aborted
	// Unknown may have happened: it did if somebody read of it.
	Unknown
)

// Txn is one transaction.
type Txn struct {
	ID     int // for messages
	Status Status
	Ops    []Op
	// Begin is a moment before it began, End one after its end was known, both
	// above 0 and of one clock. Both 0: nobody looked at the clock.
	Begin, End int64
}

// History is transactions in any order.
type History struct {
	Txns []Txn
	// Snapshots says that aborted transactions, too, read as of one moment: what
	// they read then counts as if they had committed without writing.
	Snapshots bool
}

// Kind names an anomaly.
type Kind string

// The anomalies; the names of cycles are Adya's and Elle's.
const (
	Garbage      Kind = "garbage read"        // an element that nobody appended
	Duplicate    Kind = "duplicate append"    // one element twice
	Internal     Kind = "internal"            // own appends missing, or not last
	Incompatible Kind = "incompatible orders" // no list is the prefix of the other
	G1a          Kind = "G1a"                 // read of what was rolled back
	G1b          Kind = "G1b"                 // read of what was not final
	LostUpdate   Kind = "lost update"         // P4: two appended to the same version

	G0                   Kind = "G0"
	G1c                  Kind = "G1c"
	G1cRealtime          Kind = "G1c-realtime"
	GSingle              Kind = "G-single"
	GNonadjacent         Kind = "G-nonadjacent"
	GSingleRealtime      Kind = "G-single-realtime"
	GNonadjacentRealtime Kind = "G-nonadjacent-realtime"
	G2Item               Kind = "G2-item"
	G2                   Kind = "G2"
	G2ItemRealtime       Kind = "G2-item-realtime"
	G2Realtime           Kind = "G2-realtime"
)

// Level is an isolation level, as what it forbids.
type Level uint8

const (
	// ReadCommitted forbids G0 and G1.
	ReadCommitted Level = iota
	// Snapshot forbids every cycle without two rw in a row, real time included.
	Snapshot
	// Serializable forbids every cycle, real time included.
	Serializable
)

// Forbids reports whether a history of the level may not have the anomaly.
func (l Level) Forbids(k Kind) bool {
	switch k {
	case G2Item, G2, G2ItemRealtime, G2Realtime:
		return l >= Serializable
	case GSingle, GNonadjacent, GSingleRealtime, GNonadjacentRealtime, LostUpdate:
		return l >= Snapshot
	default:
		return true
	}
}

// Anomaly is one witness.
type Anomaly struct {
	Kind Kind
	Txns []int // IDs
	Text string
}

func (a Anomaly) String() string { return fmt.Sprintf("%s: %s", a.Kind, a.Text) }

// Result is what a check found.
type Result struct {
	Counts map[Kind]int
	Found  []Anomaly // maxWitnesses of a kind at most
	Edges  int       // of the graph, real time not counted
}

const maxWitnesses = 8

// Forbidden returns the witnesses of what the level forbids.
func (r *Result) Forbidden(l Level) (list []Anomaly) {
	for _, a := range r.Found {
		if l.Forbids(a.Kind) {
			list = append(list, a)
		}
	}
	return list
}

func (r *Result) add(k Kind, txns []int, format string, args ...any) {
	r.Counts[k]++
	if r.Counts[k] <= maxWitnesses {
		r.Found = append(r.Found, Anomaly{Kind: k, Txns: txns, Text: fmt.Sprintf(format, args...)})
	}
}

// Check looks for every anomaly that the package knows.
func Check(h *History) *Result {
	c := &checker{h: h, res: &Result{Counts: make(map[Kind]int)}}
	c.collectWrites()
	c.readAll()
	c.orderVersions()
	c.lostUpdates()
	c.link()
	c.cycles()
	return c.res
}
