package engine

import (
	"flag"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

var (
	crashSeed   = flag.Uint64("saker.seed", 0, "the only seed of crash tests")
	scale       = flag.Int("saker.scale", 1, "how large scenarios are")
	everySync   = flag.Bool("saker.everysync", false, "crash after every sync, not after a sample, with 0, 50 and 100 % of unsynced data each")
	crashRounds = flag.Int("saker.crashes", 8, "crashes per seed")
	long        = flag.Bool("saker.long", false, "fail every operation and flip every byte, not a sample")
)

func TestMain(m *testing.M) {
	flag.Parse()
	// rapid's default of 100 checks of 30 steps is for functions, not for whole stores.
	for name, def := range map[string]string{"rapid.checks": "25", "rapid.steps": "100"} {
		set := false
		flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
		if !set {
			_ = flag.Set(name, def)
		}
	}
	_ = flag.Set("rapid.nofailfile", "true")
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(ofAbandonedMaps()...); err != nil {
			_, _ = os.Stderr.WriteString("goroutines are left: " + err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// wrecks counts faults that hit the leaf map's own files.
var wrecks atomic.Int64

// ofAbandonedMaps are goroutines that may be left. A leaf map that could not write
// its manifest is abandoned, not closed, and its goroutines with it: see mapFS in
// tablespace. Nothing of the store's own is among them.
func ofAbandonedMaps() (opts []goleak.Option) {
	if wrecks.Load() == 0 {
		return nil
	}
	const pebble = "github.com/cockroachdb/pebble/v2"
	for _, fn := range []string{
		"github.com/sakerdb/saker/tablespace.park",
		"github.com/sakerdb/saker/tablespace.(*Space).closeMap.func1",
		"github.com/sakerdb/saker/tablespace.(*Space).mapMetrics.func1",
		"github.com/sakerdb/saker/tablespace.(*Space).openPebble.func1",
		pebble + ".(*versionSet).logLock",
		pebble + ".(*DB).flush",
		pebble + ".(*DB).compact",
		pebble + ".(*cleanupManager).mainLoop",
		pebble + ".openCleanupManager.func1",
		pebble + "/record.NewLogWriter.func2",
		pebble + "/internal/genericcache.(*shard[...]).releaseLoop",
	} {
		opts = append(opts, goleak.IgnoreAnyFunction(fn))
	}
	return opts
}
