package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/sakerdb/saker/bench/internal/command"
)

// monitor samples what has a peak (memory of the process, size of the directory)
// and tells how far the run is: with a progress bar on a terminal, and a plain
// line every few seconds elsewhere.
type monitor struct {
	out   io.Writer
	bar   bool          // out is a terminal
	width int           // of the terminal, columns
	every time.Duration // between plain lines

	rows atomic.Int64 // of the phase, done

	mu       sync.Mutex // guards what follows
	dir      string
	store    store // nil while none is open
	phase    string
	total    int64 // rows of the phase, 0 if it does not count any
	started  time.Time
	told     time.Time // of the last plain line
	toldRows int64
	shown    *progressbar.ProgressBar
	rssPeak  int64
	diskPeak int64

	stop, stopped chan struct{}
}

const (
	sampleEvery = 250 * time.Millisecond
	lineEvery   = 5 * time.Second
)

func newMonitor(out io.Writer, dir string) *monitor {
	m := &monitor{out: out, dir: dir, every: lineEvery, stop: make(chan struct{}), stopped: make(chan struct{})}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.bar = true
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			m.width = w
		}
	}
	return m
}

// run samples and tells until close.
func (m *monitor) run() {
	defer close(m.stopped)
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
			m.sample()
			m.tell()
		}
	}
}

func (m *monitor) close() {
	close(m.stop)
	<-m.stopped
}

// attach sets the store whose metrics are told, nil for none.
func (m *monitor) attach(s store) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = s
}

func (m *monitor) add(rows int64) { m.rows.Add(rows) }

// begin starts a phase of so many rows; 0 if it counts none.
func (m *monitor) begin(phase string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows.Store(0)
	m.phase, m.total, m.toldRows = phase, total, 0
	m.started = time.Now()
	m.told = m.started
	if m.bar && total > 0 {
		m.shown = m.newBar()
	}
}

// end ends the phase with its last sample, and a line about it.
func (m *monitor) end() {
	m.sample()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown != nil {
		fmt.Fprint(m.out, "\r\x1b[J") // the line takes the place of the bar and its details
		m.shown = nil
	}
	m.line(time.Now(), m.started, 0)
	m.phase = ""
}

// tell moves the bar, or prints a line if it is time.
func (m *monitor) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase == "" {
		return
	}
	now := time.Now()
	if m.shown != nil {
		_ = m.shown.Set64(min(m.rows.Load(), m.total-1)) // at its total it would end; errors of drawing are no fault of the run
		_ = m.shown.AddDetail(m.fit(m.details(now, m.started, 0)))
		return
	}
	if now.Sub(m.told) >= m.every {
		m.line(now, m.told, m.toldRows)
		m.told, m.toldRows = now, m.rows.Load()
	}
}

func (m *monitor) newBar() *progressbar.ProgressBar {
	return progressbar.NewOptions64(m.total,
		progressbar.OptionSetWriter(m.out),
		progressbar.OptionSetDescription(m.phaseColumn()),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionSetMaxDetailRow(1),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(sampleEvery/2),
	)
}

func (m *monitor) phaseColumn() string { return fmt.Sprintf("%-14s", m.phase) }

// fit cuts a line to the terminal's width: a wrapped one would not be redrawn in
// place.
func (m *monitor) fit(s string) string {
	if r := []rune(s); m.width > 1 && len(r) >= m.width {
		return string(r[:m.width-1])
	}
	return s
}

func (m *monitor) line(now, since time.Time, sinceRows int64) {
	share := ""
	if m.total > 0 {
		share = fmt.Sprintf("%5.1f %%  ", 100*float64(m.rows.Load())/float64(m.total))
	}
	fmt.Fprintf(m.out, "%s %6.1fs  %s%s\n", m.phaseColumn(), now.Sub(m.started).Seconds(), share, m.details(now, since, sinceRows))
}

// details tells the rate since a moment, and the engine's gauges.
func (m *monitor) details(now, since time.Time, sinceRows int64) string {
	var b bytes.Buffer
	if rows := m.rows.Load(); m.total > 0 {
		fmt.Fprintf(&b, "%s rows/s  ", grouped(perSecond(rows-sinceRows, now.Sub(since))))
	}
	if m.store != nil {
		g := m.store.gauges()
		fmt.Fprintf(&b, "memory %s/%s MiB  chilled %s  backlogged %s  restored %s  ",
			command.MiB(g.recordMemoryUsed), command.MiB(g.recordMemoryCap),
			grouped(g.chilledRecords), grouped(g.backloggedChains), grouped(g.restoredChains))
	}
	fmt.Fprintf(&b, "RSS %s MiB", command.MiB(statusBytes("VmRSS")))
	return b.String()
}

func perSecond(rows int64, d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64(float64(rows) / d.Seconds())
}

// sample takes the peaks.
func (m *monitor) sample() {
	disk := dirBytes(m.dir)
	rss := max(statusBytes("VmRSS"), statusBytes("VmHWM"))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.diskPeak = max(m.diskPeak, disk)
	m.rssPeak = max(m.rssPeak, rss)
}

func (m *monitor) peaks() (rss, disk int64) {
	m.sample()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rssPeak, m.diskPeak
}

// statusBytes reads a size from /proc/self/status; 0 where there is none.
func statusBytes(field string) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	return statusField(status, field)
}

// statusField finds a line such as "VmHWM:	  123456 kB", in bytes.
func statusField(status []byte, field string) int64 {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(field+":"))
		if !ok {
			continue
		}
		number, ok := bytes.CutSuffix(bytes.TrimSpace(rest), []byte(" kB"))
		if !ok {
			return 0
		}
		kib, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}

// dirBytes is the size of all files below a directory. Files come and go
// meanwhile; one that is gone counts nothing.
func dirBytes(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}
