package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// actAsParley makes the test binary the program itself, so that tests have real processes
// without building anything.
const actAsParley = "TEST_BINARY_ACTS_AS_PARLEY"

func TestMain(m *testing.M) {
	if os.Getenv(actAsParley) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience bounds every wait for a process.
const patience = time.Minute

// output is what a process has written so far.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced with each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) read() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.changed
}

func (o *output) String() string { text, _ := o.read(); return text }

// process is a running parley.
type process struct {
	*testing.T
	cmd         *exec.Cmd
	out, errout *output
	ended       chan struct{} // closed when it has ended
}

// environment returns the environment of this process as that of a parley.
func environment() []string {
	list := []string{actAsParley + "=1", "GORACE=atexit_sleep_ms=0"} // which is a second otherwise
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PARLEY_") {
			list = append(list, variable)
		}
	}
	return list
}

// launch starts a parley, which is killed at the end of the test if it still runs.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{T: t, cmd: exec.Command(os.Args[0], args...), out: newOutput(), errout: newOutput(), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = environment(), t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.errout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // mostly gone already
		<-p.ended
		if t.Failed() {
			t.Logf("parley %s\n%s%s", strings.Join(args, " "), p.out, p.errout)
		}
	})
	return p
}

// waitFor returns when the process has written a text to o.
func (p *process) waitFor(o *output, part string) {
	p.Helper()
	timeout := time.After(patience)
	for {
		text, changed := o.read()
		if strings.Contains(text, part) {
			return
		}
		select {
		case <-changed:
		case <-p.ended:
			if !strings.Contains(o.String(), part) {
				p.Fatalf("it ended without writing %q", part)
			}
			return
		case <-timeout:
			p.Fatalf("%q was not written within %v", part, patience)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

// exit waits for the end of the process and returns its code.
func (p *process) exit() int {
	p.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.Fatalf("it did not end within %v", patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// run runs a parley to its end.
func run(t *testing.T, args ...string) (code int, out, errout string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env, cmd.Dir = environment(), t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// serving starts a node on free ports with its data in dir and waits until it is ready.
func serving(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("there are no signals")
	}
	p := launch(t, append([]string{
		"serve", "--channels.host=127.0.0.1", "--channels.port=0",
		"--metrics.host=127.0.0.1", "--metrics.port=0", "--node.data_dir=" + dir,
	}, args...)...)
	p.waitFor(p.out, "Then run")
	return p
}

// terminate ends a node as a process manager does.
func (p *process) terminate() {
	p.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		p.Errorf("it ends with %d", code)
	}
}
