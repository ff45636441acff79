//go:build !linux

package process

import "os/exec"

func endWithParent(*exec.Cmd) {}

// Pause is for Linux only.
func (p *Process) Pause() { p.t.Helper(); p.t.Skip("processes are paused on Linux only") }

// Resume is for Linux only.
func (p *Process) Resume() { p.t.Helper(); p.t.Skip("processes are paused on Linux only") }
