package engine

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var (
	crashSeed   = flag.Uint64("saker.seed", 0, "the only seed of crash tests")
	scale       = flag.Int("saker.scale", 1, "how large scenarios are")
	everySync   = flag.Bool("saker.everysync", false, "crash after every sync, not after a sample, with 0, 50 and 100 % of unsynced data each")
	crashRounds = flag.Int("saker.crashes", 8, "crashes per seed")
)

func TestMain(m *testing.M) {
	flag.Parse()
	// rapid's default of 100 checks is for functions, not for whole stores.
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if !set {
		_ = flag.Set("rapid.checks", "25")
	}
	_ = flag.Set("rapid.nofailfile", "true")
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString("goroutines are left: " + err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}
