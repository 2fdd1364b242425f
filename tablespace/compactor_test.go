package tablespace

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"
)

// compacting stands for Pebble.
type compacting struct{ waiting, begun int }

func (d *compacting) GetAllowedWithoutPermission() int { return 1 }
func (d *compacting) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return d.waiting > 0, pebble.WaitingCompaction{}
}

func (d *compacting) Schedule(pebble.CompactionGrantHandle) bool {
	d.waiting--
	d.begun++
	return true
}

func TestCompactor(t *testing.T) {
	c, d := newCompactor(), &compacting{waiting: 2}
	want := func(step string, begun int) {
		t.Helper()
		if d.begun != begun {
			t.Fatalf("%s: %d compactions have begun, want %d", step, d.begun, begun)
		}
	}
	try := func(step string, want bool) {
		t.Helper()
		if ok, _ := c.TrySchedule(); ok != want {
			t.Fatalf("%s: granted %t, want %t", step, ok, want)
		}
	}
	c.Register(1, d)
	try("before it is open", false)
	c.grant()
	want("before it is open", 0)
	c.open()
	want("open", 1)
	try("while one runs", false)
	c.Done()
	want("done", 2)
	c.Done()
	try("none runs", true)
	c.Done()
	c.pause()
	d.waiting = 1
	try("paused", false)
	c.open()
	want("resumed", 3)
	// After one that failed the next is held up: it would most likely fail too.
	d.waiting = 1
	c.failed.Store(true)
	rests := 0
	c.rest = func() { rests++; want("resting", 3) }
	c.Done()
	want("rested", 4)
	c.Done()
	if rests != 1 {
		t.Errorf("rested %d times after one failure", rests)
	}
	try("after the rest", true)
	d.waiting = 1
	c.stop()
	c.Done()
	want("stopped", 4)
	try("stopped", false)
	c.Unregister()
}

// When Pebble failed to open late, its scheduler went on in the background, picked
// a compaction some time later, and panicked in what Open had closed: nobody can
// recover on that goroutine, and the user's process was gone.
func TestFailedOpenLeavesNoCompactions(t *testing.T) {
	var bad atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".dbtmp") {
			return errorfs.ErrInjected
		}
		return nil
	})
	mem := vfs.NewMem()
	s := mustOpen(t, smallOptions(mem, 1))
	endRecovery(t, s)
	mustClose(t, s)
	running, parked := goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("github.com/sakerdb/saker/tablespace.park")
	bad.Store(true)
	if _, err := Open(smallOptions(errorfs.Wrap(mem, inject), 2)); !errors.Is(err, errorfs.ErrInjected) {
		t.Fatalf("open: %v", err)
	}
	// The last try of a map that another test abandoned may begin only now.
	if err := goleak.Find(running, parked); err != nil {
		t.Error(err)
	}
}
