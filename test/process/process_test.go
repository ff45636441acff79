package process_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

func TestProcess(t *testing.T) {
	p := process.Start(t, process.Command{Args: []string{"sh", "-c", "cat; echo $GREETING; exit 3"},
		Input: strings.NewReader("in "), Env: []string{"GREETING=hello"}})
	if code := p.Await(); code != 3 || p.Output() != "in hello\n" || p.Running() {
		t.Errorf("it ended with %d and wrote %q", code, p.Output())
	}
}

func TestPausedAndTerminated(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p := process.Start(t, process.Command{Log: log,
		Args: []string{"sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.01; done"}})
	process.Eventually(t, "it is up", func() bool { return strings.Contains(p.Output(), "up") })
	p.Pause()
	p.Resume()
	if code := p.Terminate(); code != 0 || p.Output() != "up\nbye\n" {
		t.Errorf("it ended with %d and wrote %q", code, p.Output())
	}
	killed := process.Start(t, process.Command{Args: []string{"sleep", "60"}})
	if !killed.Running() || killed.PID() == p.PID() {
		t.Error("it does not run")
	}
	killed.Kill()
	if killed.Running() {
		t.Error("it runs on")
	}
}

func TestFreePorts(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		first := process.FreePorts(t, 4)
		for port := first; port < first+4; port++ {
			if seen[port] {
				t.Fatalf("port %d was given twice", port)
			}
			seen[port] = true
		}
	}
}
