package history

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// parse reads a history, a transaction per line:
//
//	1: r5=1,2 a5.3 s1-9=5:1,2,3;7:4 m u0 !     with ! aborted, with ? unknown
//	2@10-20: r5=                               with times
//
// r reads a key, a appends to one, s scans, m marks, u undoes to an index.
func parse(t *testing.T, text string) *History {
	t.Helper()
	h := &History{}
	for line := range strings.Lines(text) {
		head, ops, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		var x Txn
		id, times, timed := strings.Cut(head, "@")
		x.ID = number(t, id)
		if timed {
			from, to, _ := strings.Cut(times, "-")
			x.Begin, x.End = int64(number(t, from)), int64(number(t, to))
		}
		for word := range strings.FieldsSeq(ops) {
			switch word {
			case "!":
				x.Status = Aborted
			case "?":
				x.Status = Unknown
			default:
				x.Ops = append(x.Ops, parseOp(t, word))
			}
		}
		h.Txns = append(h.Txns, x)
	}
	return h
}

func parseOp(t *testing.T, word string) Op {
	t.Helper()
	left, right, _ := strings.Cut(word[1:], "=")
	switch word[0] {
	case 'r':
		return Op{Kind: Read, Key: number(t, left), List: numbers(t, right)}
	case 'a':
		key, val, _ := strings.Cut(left, ".")
		return Op{Kind: Append, Key: number(t, key), Value: int32(number(t, val))}
	case 's':
		from, to, _ := strings.Cut(left, "-")
		op := Op{Kind: Scan, From: number(t, from), To: number(t, to)}
		for row := range strings.SplitSeq(right, ";") {
			if key, list, ok := strings.Cut(row, ":"); ok {
				op.Rows = append(op.Rows, Row{number(t, key), numbers(t, list)})
			}
		}
		return op
	case 'm':
		return Op{Kind: Mark}
	case 'u':
		return Op{Kind: Undo, To: number(t, left)}
	}
	t.Fatalf("no operation: %q", word)
	return Op{}
}

func numbers(t *testing.T, list string) (all []int32) {
	t.Helper()
	for s := range strings.SplitSeq(list, ",") {
		if s != "" {
			all = append(all, int32(number(t, s)))
		}
	}
	return all
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func kinds(r *Result) (list []string) {
	for k := range r.Counts {
		list = append(list, string(k))
	}
	slices.Sort(list)
	return list
}

// Each anomaly by name, and histories beside them that have none.
func TestCheckNamesAnomalies(t *testing.T) {
	for name, tc := range map[string]struct {
		history string
		want    string // kinds, in their order
	}{
		"nothing":            {"", ""},
		"serial":             {"1: r1= a1.1\n2: r1=1 a1.2 r1=1,2\n3: r1=1,2", ""},
		"reads of a moment":  {"1: a1.1 a2.1\n2: r1= r2=\n3: r1=1 r2=1", ""},
		"own appends":        {"1: a1.1 r1=1 a1.2 r1=1,2", ""},
		"rolled back unread": {"1: a1.1 !\n2: r1= a1.2\n3: r1=2", ""},
		"unknown and read":   {"1: a1.1 ?\n2: r1=1", ""},
		"undone":             {"1: a1.1 m a1.2 r1=1,2 u1 r1=1 a1.3\n2: r1=1,3", ""},
		"undone twice":       {"1: m a1.1 u0 a1.2 u0 r1= a1.3 r1=3\n2: r1=3", ""},
		"outer undone":       {"1: m a1.1 m a1.2 u0 r1= a1.3\n2: r1=3", ""},
		"scan":               {"1: a3.1\n2: s1-9= a4.1\n3: s1-9=3:1;4:1", ""},
		"scan of others":     {"1: a3.1 a5.1\n2: s4-9=5:1", ""},

		"G0":                        {"1: a1.1 a2.1\n2: a1.2 a2.2\n3: r1=1,2 r2=2,1", "G0"},
		"G1a":                       {"1: a1.1 !\n2: r1=1", "G1a"},
		"G1a by an aborted reader":  {"1: a1.1 !\n2: r1=1 !", "G1a"},
		"G1a undone":                {"1: m a1.1 u0\n2: r1=1", "G1a"},
		"G1a own undone":            {"1: m a1.1 u0 r1=1", "G1a"},
		"G1a scan":                  {"1: a3.1 !\n2: s1-9=3:1", "G1a"},
		"G1b":                       {"1: a1.1 a1.2\n2: r1=1\n3: r1=1,2", "G-single G1b"},
		"G1c":                       {"1: a1.1 r2=1\n2: a2.1 r1=1", "G1c"},
		"G1c of ww and wr":          {"1: a1.1 r2=1\n2: a1.2 a2.1\n3: r1=1,2", "G1c"},
		"G-single, read skew":       {"1: a1.1 a2.1\n2: r1= r2=1", "G-single"},
		"G-single, fuzzy":           {"1: a1.1\n2: r1= r1=1", "G-single"},
		"G-single, phantom":         {"1: a3.1\n2: s1-9= s1-9=3:1", "G-single"},
		"G-single, predicate skew":  {"1: a3.1 a20.1\n2: s1-9= r20=1", "G-single"},
		"lost update":               {"1: r1= a1.1\n2: r1= a1.2\n3: r1=1,2", "G-single lost update"},
		"lost update, unread":       {"1: r1= a1.1\n2: r1= a1.2", "G2-item lost update"},
		"lost append":               {"1@1-2: a1.1\n2@3-4: r1=", "lost update"},
		"G-nonadjacent":             {"1: r1= r4=1\n2: a1.1 a2.1\n3: r2=1 r3=\n4: a3.1 a4.1", "G-nonadjacent"},
		"G2-item":                   {"1: r1= r2= a1.1\n2: r1= r2= a2.1\n3: r1=1 r2=1", "G2-item"},
		"G2-item, nobody read":      {"1: r1= a2.1\n2: r2= a1.1", "G2-item"},
		"G2-item, scan of a row":    {"1: a3.1 a4.1\n2: s1-9=3:1;4:1 a4.2\n3: s1-9=3:1;4:1 a3.2\n4: s1-9=3:1,2;4:1,2", "G2-item"},
		"G2":                        {"1: s1-9= a3.1\n2: s1-9= a4.1\n3: s1-9=3:1;4:1", "G2"},
		"G2, read-only":             {"1: r1= r2= a1.1\n2: a2.1\n3: r2=1 r1=", "G2-item"},
		"stale":                     {"1@1-2: a1.1\n2@3-4: r1=\n3: r1=1", "G-single-realtime"},
		"G1c-realtime":              {"1@1-2: r1=1\n2@3-4: a1.1", "G1c-realtime"},
		"G-nonadjacent-realtime":    {"1@9-10: r1=\n2: a1.1 a2.1\n3: r2=1 r3=\n4@1-2: a3.1", "G-nonadjacent-realtime"},
		"G2-item-realtime":          {"1@1-9: r1= a2.1\n2@1-2: a1.1\n3@3-4: r2=", "G2-item-realtime"},
		"G2-realtime":               {"1@1-9: s1-2= a20.1\n2@1-2: a1.1\n3@3-4: r20=", "G2-realtime"},
		"not later":                 {"1@1-3: a1.1\n2@3-4: r1=\n3: r1=1", ""},
		"garbage":                   {"1: r1=7", "garbage read"},
		"garbage row":               {"1: s1-3=5:1\n2: a5.1", "garbage read"},
		"duplicate":                 {"1: a1.1\n2: a1.1", "duplicate append"},
		"duplicate in a list":       {"1: a1.1\n2: r1=1,1", "duplicate append"},
		"incompatible":              {"1: a1.1\n2: a1.2\n3: r1=1\n4: r1=2", "incompatible orders"},
		"internal":                  {"1: a1.1 r1=", "internal"},
		"internal, not last":        {"1: a1.1 r1=1,2\n2: a1.2", "internal"},
		"internal, changed below":   {"1: a1.2 r1=2 r1=1,2\n2: a1.1", "G-single internal"},
		"internal, before its time": {"1: r1=1 a1.1", "internal"},
		"internal, scan":            {"1: a3.1 s1-9=", "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			h := parse(t, tc.history)
			r := Check(h)
			if got := strings.Join(kinds(r), " "); got != tc.want {
				t.Errorf("found %q, want %q: %v", got, tc.want, r.Found)
			}
		})
	}
}

// An aborted transaction counts only where the level promises it one moment.
func TestAbortedReaders(t *testing.T) {
	h := parse(t, "1: a1.1 a2.1\n2: r1= r2=1 a3.1 !\n3: r1=1")
	if r := Check(h); len(r.Counts) != 0 {
		t.Errorf("found %v", r.Found)
	}
	h.Snapshots = true
	if r := Check(h); r.Counts[GSingle] != 1 {
		t.Errorf("found %v", r.Found)
	}
}

// A level that forbids something forbids everything that a weaker one forbids.
func TestLevels(t *testing.T) {
	n := [3]int{}
	for _, k := range []Kind{
		Garbage, Duplicate, Internal, Incompatible, G1a, G1b, LostUpdate, G0, G1c, G1cRealtime, GSingle, GNonadjacent,
		GSingleRealtime, GNonadjacentRealtime, G2Item, G2, G2ItemRealtime, G2Realtime,
	} {
		for l := ReadCommitted; l <= Serializable; l++ {
			if l.Forbids(k) {
				n[l]++
			} else if l > 0 && (l - 1).Forbids(k) {
				t.Errorf("%v is forbidden below level %d only", k, l)
			}
		}
	}
	if want := [3]int{9, 14, 18}; n != want {
		t.Errorf("%v are forbidden, want %v", n, want)
	}
	r := Check(parse(t, "1: r1= a2.1\n2: r2= a1.1\n3: a5.1 !\n4: r5=1"))
	if len(r.Found) != 2 || len(r.Forbidden(Snapshot)) != 1 || len(r.Forbidden(Serializable)) != 2 {
		t.Errorf("found %v", r.Found)
	}
}
