package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

func TestStatusField(t *testing.T) {
	status := []byte("Name:\tsoak\nVmHWM:\t  123456 kB\nVmRSS:\t      12 kB\nVmBad:\tx kB\n")
	for field, want := range map[string]int64{"VmHWM": 123456 << 10, "VmRSS": 12 << 10, "VmBad": 0, "VmNone": 0, "Name": 0} {
		if got := statusField(status, field); got != want {
			t.Errorf("%s = %d, want %d", field, got, want)
		}
	}
}

func TestMonitorTakesPeaks(t *testing.T) {
	dir := t.TempDir()
	m := newMonitor(&bytes.Buffer{}, dir)
	file := filepath.Join(dir, "sub", "f")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 1000, 100} {
		if err := os.WriteFile(file, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		m.sample()
	}
	if _, disk := m.peaks(); disk != 1000 {
		t.Errorf("disk peak %d, want 1000", disk)
	}
}

// Elsewhere than on a terminal there is a plain line every so often, and one at
// the end of each phase.
func TestMonitorPlainLines(t *testing.T) {
	var out bytes.Buffer
	m := newMonitor(&out, t.TempDir())
	m.attach(&fakeStore{d: newFakeDisk(faultNone)})
	m.every = time.Nanosecond
	m.begin("insert", 2000)
	m.add(500)
	m.tell()
	m.add(1500)
	m.end()
	want := `^insert +[\d.]+s +25\.0 %  [\d,]+ rows/s  memory 0/0\.0 MiB  chilled 0  backlogged 0  restored 0  RSS [\d.]+ MiB
insert +[\d.]+s +100\.0 %  [^\n]*
$`
	if !regexp.MustCompile(want).Match(out.Bytes()) {
		t.Errorf("got\n%s", &out)
	}
}

func TestTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"000001.log", "1.run", "map/000002.sst"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := temporaryFiles(dir); len(got) != 1 || got[0] != "1.run" {
		t.Errorf("temporary files %v, want [1.run]", got)
	}
}
