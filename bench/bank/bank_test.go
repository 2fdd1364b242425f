package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sakerdb/saker/bench/internal/command"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short run of the command at each level, in less memory than the rows need.
func TestBank(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, level := range []string{"readcommitted", "snapshot", "serializable"} {
		t.Run(level, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "result")
			var stdout, stderr bytes.Buffer
			args := []string{
				"-level", level, "-accounts", "4000", "-padding", "400", "-record-memory", "1MiB", "-goroutines", "16",
				"-transfers", "2000", "-duration", "1h", "-seed", "5", "-json", file,
			}
			if got := run(args, &stdout, &stderr); got != command.ExitOK {
				t.Fatalf("exit status %d\n%s%s", got, &stdout, &stderr)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var res result
			if err := json.Unmarshal(text, &res); err != nil {
				t.Fatal(err)
			}
			if res.Transfers < 2000 || res.Audits == 0 || res.BackloggedChains == 0 || res.ColdReads == 0 || res.Savepoints == 0 {
				t.Errorf("not enough was done: %s", text)
			}
		})
	}
}

func TestBankUsage(t *testing.T) {
	var out bytes.Buffer
	for _, args := range [][]string{{"-accounts", "1"}, {"-padding", "-1"}, {"-level", "none"}, {"-record-memory", "lots"}} {
		if got := run(args, &out, &out); got != command.ExitUsage {
			t.Errorf("%v: exit status %d", args, got)
		}
	}
	res := &result{Error: "a wrong sum"}
	if res.writeTable(&out); res.ok() || !strings.HasSuffix(out.String(), "a wrong sum\n\nFAILED\n") {
		t.Errorf("%s", &out)
	}
}
