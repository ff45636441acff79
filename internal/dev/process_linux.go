package dev

import (
	"os"
	"os/exec"
	"syscall"
)

// separate keeps Ctrl-C from reaching the process, which is stopped in order instead, and
// ends it when this program is killed.
func separate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
