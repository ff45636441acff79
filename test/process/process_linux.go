package process

import (
	"os/exec"
	"syscall"
)

// endWithParent has nothing outlive the tests, even if those are killed.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// Pause stops the process where it stands, until Resume.
func (p *Process) Pause() { p.t.Helper(); p.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() { p.t.Helper(); p.Signal(syscall.SIGCONT) }
