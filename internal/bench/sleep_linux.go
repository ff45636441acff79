package bench

import (
	"syscall"
	"time"
)

// shortSleep asks the kernel directly: the runtime's timers round up to a millisecond when
// the process is otherwise idle, which is more than the latencies that are measured.
// It may return early.
func shortSleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // an interrupted sleep is repeated by the caller
}
