//go:build unix && !linux

package dev

import (
	"os"
	"os/exec"
	"syscall"
)

// separate keeps Ctrl-C from reaching the process, which is stopped in order instead.
func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
