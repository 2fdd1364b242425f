package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// The kinds of records in a journal.
const (
	kindCommit  = "commit" // intents: what is going to be called
	kindCreate  = "create"
	kindDrop    = "drop"
	kindSync    = "sync" // DB.Sync or DB.Checkpoint
	kindAck     = "ack"  // the call returned nil
	kindVoid    = "void" // the commit failed with a retryable error: it did not happen
	kindFault   = "fault"
	kindMetrics = "metrics"
)

// record is a line of the journal. Writer and Txn tie an answer to its intent.
type record struct {
	Kind    string   `json:"kind"`
	Writer  int      `json:"w"`
	Txn     int      `json:"x,omitempty"`
	At      int64    `json:"at"` // microseconds since 1970
	NoSync  bool     `json:"nosync,omitempty"`
	Table   string   `json:"table,omitempty"`
	Effects []effect `json:"effects,omitempty"`
	Text    string   `json:"text,omitempty"`
	Seen    *seen    `json:"seen,omitempty"`
}

// journal is the file in which a child tells what it does. A line is one write
// to a file opened for appending: what is written when the process is killed
// stays written. Its methods may be called from any goroutine.
type journal struct {
	mu sync.Mutex // one write at a time: a torn line is the last one
	f  *os.File
}

func openJournal(name string) (*journal, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{f: f}, nil
}

func (j *journal) write(r record) error {
	r.At = time.Now().UnixMicro()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.f.Write(append(line, '\n'))
	return err
}

// op is an intent of a journal and what became of it. Positions are numbers of
// lines: what was acknowledged on an earlier line than another one's intent had
// returned before the other was called.
type op struct {
	record

	intent int
	ack    int // 0: none
	ackAt  int64
	void   bool
	alive  bool // survived the kill; the oracle's finding
}

func (o *op) String() string {
	state := "not acknowledged"
	if o.ack > 0 {
		state = fmt.Sprintf("acknowledged on line %d", o.ack)
	}
	what := o.Kind
	if o.NoSync {
		what = "NoSync commit"
	}
	if o.Table != "" {
		what += " " + o.Table
	}
	return fmt.Sprintf("%s of writer %d, txn %d (line %d, %s)", what, o.Writer, o.Txn, o.intent, state)
}

// history is what a journal tells.
type history struct {
	ops    []*op    // in the order of their intents
	faults []string // what the child itself found wrong
	seen   seen     // the last figures
}

// readJournal reads a journal; the last line may be torn.
func readJournal(in io.Reader) (*history, error) {
	h := &history{}
	open := map[[2]int]*op{}
	r := bufio.NewReaderSize(in, 1<<20)
	for line := 1; ; line++ {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return h, nil // without a newline: torn
		}
		if err != nil {
			return nil, err
		}
		var rec record
		if err := json.Unmarshal(bytes.TrimSpace(text), &rec); err != nil {
			return nil, fmt.Errorf("journal, line %d: %w", line, err)
		}
		id := [2]int{rec.Writer, rec.Txn}
		switch rec.Kind {
		case kindCommit, kindCreate, kindDrop, kindSync:
			o := &op{record: rec, intent: line}
			h.ops, open[id] = append(h.ops, o), o
		case kindAck, kindVoid:
			o := open[id]
			if o == nil {
				return nil, fmt.Errorf("journal, line %d: an answer without intent", line)
			}
			delete(open, id)
			o.ack, o.ackAt, o.void = line, rec.At, rec.Kind == kindVoid
		case kindFault:
			h.faults = append(h.faults, fmt.Sprintf("writer %d: %s", rec.Writer, rec.Text))
		case kindMetrics:
			h.seen = *rec.Seen
		default:
			return nil, fmt.Errorf("journal, line %d: kind %q", line, rec.Kind)
		}
	}
}

func readJournalFile(name string) (*history, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &history{}, nil // killed before the first line
	}
	if err != nil {
		return nil, err
	}
	h, err := readJournal(f)
	return h, errors.Join(err, f.Close())
}
