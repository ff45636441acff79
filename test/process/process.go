// Package process starts real programs for tests, parley itself and the servers it works with,
// and leaves none of them behind: each ends with its test, and what it wrote is shown when the
// test failed.
//
// It may import the standard library, and nothing else.
package process

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience bounds every wait for a process. It is long, for what only shows when something is
// broken should not break when the machine is busy.
const Patience = 90 * time.Second

// Command says what to start.
type Command struct {
	Args  []string  // the program first
	Dir   string    // empty is that of the test
	Env   []string  // added to Environment
	Input io.Reader // its standard input; nil for none
	// Log is a file that takes what it writes, behind what is there, for the caller to show when
	// the test failed; empty keeps that in memory, and shows it.
	Log string
}

// Process is a program that was started. All methods may be called at any time.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   string
	out   output
	ended chan struct{}
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Environment is that of this process without what configures parley or its tests.
func Environment() []string {
	var list []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PARLEY_") {
			list = append(list, variable)
		}
	}
	return list
}

// Start starts a program, which is killed at the end of the test if it is still there.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(c.Args[0], c.Args[1:]...), log: c.Log, ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = c.Dir, append(Environment(), c.Env...)
	p.cmd.Stdin = c.Input
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if c.Log != "" {
		file, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }() // the process has its own
		p.cmd.Stdout, p.cmd.Stderr = file, file
	}
	p.cmd.WaitDelay = time.Second // should it leave children behind
	endWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", c.Args[0], err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() && c.Log == "" {
			t.Logf("%s\n%s", strings.Join(c.Args, " "), p.Output())
		}
	})
	return p
}

// Output is what it has written so far.
func (p *Process) Output() string {
	if p.log == "" {
		return p.out.String()
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Running says whether the process is there.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Kill ends the process as a crash does, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.ended
}

// Signal sends it a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%v to %s: %v", s, p.cmd.Path, err)
	}
}

// Terminate ends the process as a process manager does, and returns its exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Await()
}

// Await waits until the process has ended by itself, and returns its exit code, -1 after a
// signal.
func (p *Process) Await() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(Patience):
		p.t.Fatalf("%s does not end", p.cmd.Path)
	}
	return p.cmd.ProcessState.ExitCode()
}

// poll is the pause between two looks at what cannot be awaited.
const poll = 10 * time.Millisecond

// Until looks until done or the limit is over, and tells which. It is for what no event tells.
func Until(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(poll) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// Eventually waits until something is true, and ends the test when Patience is over.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	if !Until(Patience, done) {
		t.Fatalf("it does not come about within %v: %s", Patience, what)
	}
}
