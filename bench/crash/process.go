package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a child. Its standard error goes to a file beside the store.
type process struct {
	job    string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	pipe   *os.File // its standard output
	out    *bufio.Reader
	stderr string // file

	exited chan struct{}
	status error // of exit; valid when exited is closed
}

// launcher starts children: this program again, under its child argument.
type launcher struct {
	program string
	dir     string // for files of standard error
}

// childArgument makes the program a child; what it is to do follows.
const childArgument = "child"

func (l *launcher) start(o order) (*process, error) {
	arg, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p := &process{job: o.Job, stderr: filepath.Join(l.dir, o.Job+".stderr"), exited: make(chan struct{})}
	p.cmd = exec.Command(l.program, childArgument, string(arg))
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// A pipe of our own: what the child said can be read after it was killed.
	out, child, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errFile, err := os.Create(p.stderr)
	if err != nil {
		return nil, errors.Join(err, out.Close(), child.Close())
	}
	p.cmd.Stdout, p.cmd.Stderr = child, errFile
	p.pipe, p.out = out, bufio.NewReaderSize(out, 1<<16)
	err = p.cmd.Start()
	if err := errors.Join(err, child.Close(), errFile.Close()); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		p.status = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// says reads a line and checks that it is the word. It is an error when the
// child does not come to it in time.
func (p *process) says(word string, limit time.Duration) error {
	stop := p.limit(limit)
	line, err := p.out.ReadString('\n')
	if hung := stop(); hung != nil {
		return hung
	}
	if err != nil {
		return p.ended(fmt.Errorf("before it said %q", word))
	}
	if line != word+"\n" {
		return fmt.Errorf("%s child: it said %.80q, not %q", p.job, line, word)
	}
	return nil
}

// limit ends the child with the stacks of its goroutines unless stop is called
// in time. Stop returns an error if it was not.
func (p *process) limit(d time.Duration) (stop func() error) {
	var mu sync.Mutex
	var hung error
	t := time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		hung = fmt.Errorf("%s child: it hangs: no answer for %v (stacks in %s)", p.job, d, p.stderr)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
		}
	})
	return func() error {
		t.Stop()
		mu.Lock()
		defer mu.Unlock()
		return hung
	}
}

// ended waits for the end of a child that is going to end, and says why it did.
// The result is nil if it was killed.
func (p *process) ended(when error) error {
	<-p.exited
	if exit, ok := errors.AsType[*exec.ExitError](p.status); ok {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
			return nil
		}
	}
	text, _ := os.ReadFile(p.stderr)
	return fmt.Errorf("%s child: it ended by itself %w: %w: %.2000s", p.job, when, p.status, text)
}

// kill kills the child and takes leave of it. A child that had ended by itself,
// and not by its own kill, is an error.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill()
	err := p.ended(errors.New("before it was killed"))
	return errors.Join(err, p.pipe.Close())
}

// killAndHear kills the child and reports whether it had said the word: the pipe
// outlives it.
func (p *process) killAndHear(word string) (said bool, err error) {
	_ = p.cmd.Process.Kill()
	err = p.ended(errors.New("before it was killed"))
	line, _ := p.out.ReadString('\n')
	return line == word+"\n", errors.Join(err, p.pipe.Close())
}

// close ends the child in peace.
func (p *process) close(limit time.Duration) error {
	stop := p.limit(limit)
	_ = p.stdin.Close()
	<-p.exited
	if hung := stop(); hung != nil {
		return hung
	}
	if p.status != nil {
		text, _ := os.ReadFile(p.stderr)
		return fmt.Errorf("%s child: close: %w: %.2000s", p.job, p.status, text)
	}
	return p.pipe.Close()
}

// sleep waits until the time is over or the child has ended.
func (p *process) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-p.exited:
	case <-time.After(d):
	}
}
