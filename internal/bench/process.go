package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// errProcFormat means that a file below /proc did not look as documented in proc(5).
var errProcFormat = errors.New("unexpected format")

// tick is the unit of CPU time in /proc/PID/stat: USER_HZ is 100 on every platform that Go
// supports.
const tick = 10 * time.Millisecond

// process reads what a server's processes use, from /proc. It works on linux only.
type process struct{ pids []int }

// usage is what processes have used: CPU time since their start, and resident memory now.
type usage struct {
	cpu time.Duration // user and system
	rss int64         // bytes
}

// usage sums over all processes.
func (p *process) usage() (sum usage, err error) {
	for _, pid := range p.pids {
		cpu, err := readCPU(pid)
		if err != nil {
			return usage{}, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
		rss, err := readRSS(pid)
		if err != nil {
			return usage{}, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		sum.cpu += cpu
		sum.rss += rss
	}
	return sum, nil
}

// readCPU returns utime + stime, fields 14 and 15 of /proc/PID/stat. Field 2 is the name
// in parentheses, which may itself hold spaces and parentheses.
func readCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := cutLast(text, ')')
	fields := strings.Fields(rest)
	if !found || len(fields) < 13 {
		return 0, errProcFormat
	}
	user, errUser := strconv.ParseInt(fields[11], 10, 64)
	system, errSystem := strconv.ParseInt(fields[12], 10, 64)
	if errUser != nil || errSystem != nil {
		return 0, errProcFormat
	}
	return time.Duration(user+system) * tick, nil
}

func cutLast(text []byte, sep byte) (before, after string, found bool) {
	i := bytes.LastIndexByte(text, sep)
	if i < 0 {
		return string(text), "", false
	}
	return string(text[:i]), string(text[i+1:]), true
}

// readRSS returns VmRSS of /proc/PID/status, in bytes.
func readRSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "VmRSS:" && fields[2] == "kB" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, errProcFormat
			}
			return kib << 10, nil
		}
	}
	return 0, errProcFormat
}

// ownCPU is the CPU time of this process, 0 where it cannot be read.
func ownCPU() time.Duration {
	cpu, err := readCPU(os.Getpid())
	if err != nil {
		return 0
	}
	return cpu
}
