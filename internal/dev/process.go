package dev

import (
	"fmt"
	"io"
	"os/exec"
)

// process is a node. It belongs to the goroutine of Run.
type process struct {
	number  int
	program string
	args    []string
	out     io.Writer // takes its log

	cmd      *exec.Cmd // nil when it does not run
	state    string    // why it does not run, or what it is on the way to; empty while it simply runs
	wasReady bool      // since it was started
	draining bool      // it was told to, since it was started
	again    bool      // to be started when it has ended
}

func (p *process) running() bool { return p.cmd != nil }

// start starts the process; exited gets it when it has ended.
func (p *process) start(exited chan<- *process) error {
	cmd := exec.Command(p.program, p.args...)
	cmd.Stderr = p.out // its standard output is a greeting for people who run one node
	separate(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node%d: %w", p.number, err)
	}
	p.cmd, p.state, p.wasReady, p.draining = cmd, "", false, false
	go func() {
		_ = cmd.Wait() // ProcessState tells
		exited <- p
	}()
	return nil
}

// finish takes note of the end of the process.
func (p *process) finish() {
	if p.state == "" {
		p.state = "ended by itself (" + p.cmd.ProcessState.String() + ")"
	} else if p.state == "stopping" {
		p.state = "stopped"
	}
	p.cmd = nil
}

// stop asks the process to end.
func (p *process) stop() {
	p.state = "stopping"
	_ = terminate(p.cmd.Process) // it may have ended already, which is told by then
}

// kill ends the process as a crash does.
func (p *process) kill() {
	p.state = "killed"
	_ = p.cmd.Process.Kill() // it may have ended already, which is told by then
}
