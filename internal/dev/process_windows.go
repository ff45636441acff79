package dev

import (
	"os"
	"os/exec"
	"syscall"
)

// separate keeps Ctrl-C from reaching the process, which is stopped in order instead.
func separate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends the process at once: there is no signal that asks it to.
func terminate(p *os.Process) error { return p.Kill() }
