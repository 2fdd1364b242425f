package engine

import (
	"log/slog"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/seriallog"
)

// Recovery tells of its progress by work done: each time it has read so many bytes
// of log, or listed so many frames.
const (
	progressBytes  = 16 << 20
	progressFrames = 1024
)

// RecoveryPhase is what Open is doing. Phases without work are not told of.
type RecoveryPhase uint8

// The phases, in order.
const (
	RecoverySurvey    RecoveryPhase = iota + 1 // reads the log for what was committed
	RecoveryIntervals                          // reads it for savepoints that were rolled back
	RecoveryFrames                             // lists frames of large transactions again
	RecoveryRows                               // reads the log and applies its rows
)

// String implements fmt.Stringer.
func (p RecoveryPhase) String() string {
	return base.Name(p, "phase", "", "survey", "intervals", "frames", "rows")
}

// RecoveryProgress says how far Open has come. LogBytes and LogTotal are of the
// phase, all else is counted from the beginning of the recovery.
type RecoveryProgress struct {
	Phase RecoveryPhase
	// LogBytes is how many bytes of log records the phase has read; zero in
	// RecoveryFrames.
	LogBytes int64
	// LogTotal is the most that LogBytes may become. Zero is not known: in
	// RecoverySurvey, which finds it out, and in RecoveryFrames.
	LogTotal     int64
	Runs         int // run files whose frames are listed
	RunsTotal    int // those that will be; known behind RecoverySurvey
	Transactions int // committed transactions found
	Rows         int // rows replayed
	Frames       int // frames listed again
}

// phase begins one.
func (r *recovery) phase(p RecoveryPhase, logTotal int64) {
	r.at.Phase, r.at.LogBytes, r.at.LogTotal = p, 0, logTotal
	r.tellAt = progressBytes
}

// counted returns fn with the bytes of its records counted.
func (r *recovery) counted(fn func(seriallog.Record) error) func(seriallog.Record) error {
	return func(rec seriallog.Record) error {
		if err := fn(rec); err != nil {
			return err
		}
		r.at.LogBytes += int64(rec.End - rec.Start)
		if r.at.LogBytes >= r.tellAt {
			r.tellAt = r.at.LogBytes + progressBytes
			r.tell()
		}
		return nil
	}
}

// listed counts a frame that is listed again.
func (r *recovery) listed() {
	r.info.Frames++
	if r.info.Frames%progressFrames == 0 {
		r.tell()
	}
}

// tell calls the listener. REQUIRES: no lock is held.
func (r *recovery) tell() {
	p := r.at
	p.Transactions, p.Rows, p.Frames = r.info.Transactions, r.info.Rows, r.info.Frames
	if l := r.db.o.Logger; l != nil {
		l.Info("recovering", slog.String("phase", p.Phase.String()), slog.Int64("log_bytes", p.LogBytes),
			slog.Int64("log_total", p.LogTotal), slog.Int("runs", p.Runs), slog.Int("runs_total", p.RunsTotal),
			slog.Int("transactions", p.Transactions), slog.Int("rows", p.Rows), slog.Int("frames", p.Frames))
	}
	if e := r.db.o.Events; e != nil && e.Recovering != nil {
		e.Recovering(p)
	}
}
