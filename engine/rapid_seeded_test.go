//go:build saker_seeded_bugs

package engine

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sakerdb/saker/internal/seeded"
)

// bugHunt stands for a test that is expected to fail.
type bugHunt struct {
	name   string
	failed bool
	first  string
}

func (f *bugHunt) Errorf(format string, args ...any) {
	f.failed = true
	if f.first == "" {
		f.first = fmt.Sprintf(format, args...)
	}
}
func (f *bugHunt) Fatalf(format string, args ...any) { f.Errorf(format, args...); f.FailNow() }
func (f *bugHunt) Error(args ...any)                 { f.Errorf("%s", fmt.Sprint(args...)) }
func (f *bugHunt) Fatal(args ...any)                 { f.Fatalf("%s", fmt.Sprint(args...)) }
func (f *bugHunt) FailNow()                          { f.failed = true; runtime.Goexit() }
func (f *bugHunt) Fail()                             { f.failed = true }
func (f *bugHunt) Failed() bool                      { return f.failed }
func (f *bugHunt) Name() string                      { return f.name }
func (f *bugHunt) Helper()                           {}
func (f *bugHunt) Logf(string, ...any)               {}
func (f *bugHunt) Log(...any)                        {}
func (f *bugHunt) Skipf(format string, args ...any)  { f.Fatalf(format, args...) }
func (f *bugHunt) Skip(args ...any)                  { f.Fatal(args...) }
func (f *bugHunt) SkipNow()                          { f.FailNow() }

// setFlags sets flags of rapid for a test.
func setFlags(t *testing.T, values map[string]string) {
	t.Helper()
	for name, v := range values {
		was := flag.Lookup(name).Value.String()
		if err := flag.Set(name, v); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = flag.Set(name, was) })
	}
}

// The machine finds each bug in the upkeep of indexes, with a seed that is fixed. It
// finds nothing without a bug: that is TestModel.
func TestSeededBugsInIndexesAreFound(t *testing.T) {
	setFlags(t, map[string]string{"rapid.checks": "400", "rapid.steps": "60", "rapid.shrinktime": "0s"})
	for name, tc := range map[string]struct {
		bug  seeded.Bug
		seed string // one that finds it soon
	}{
		"kept entry":     {seeded.KeptEntry, "1"},
		"kept statement": {seeded.KeptStatement, "1"},
		"kept rollback":  {seeded.KeptRollback, "1"},
		"shared key":     {seeded.SharedKey, "1"},
		"early index":    {seeded.EarlyIndex, "1"},
		"hasty builder":  {seeded.HastyBuilder, "1"},
		"passed over":    {seeded.PassedOver, "3"},
	} {
		t.Run(name, func(t *testing.T) {
			if flag.Lookup("rapid.seed").Value.String() == "0" {
				setFlags(t, map[string]string{"rapid.seed": tc.seed})
			}
			seeded.Set(tc.bug)
			defer seeded.Set(seeded.None)
			f, done := &bugHunt{name: t.Name()}, make(chan struct{})
			go func() {
				defer close(done)
				rapid.Check(f, func(rt *rapid.T) { runMachine(rt, map[string]int{}) })
			}()
			<-done
			what, _, _ := strings.Cut(f.first, "\n")
			if !f.failed {
				t.Fatal("not found")
			}
			t.Logf("%.300s", what)
		})
	}
}
