//go:build !linux

package bench

import "time"

// shortSleep may return early or late by what the platform's timers allow.
func shortSleep(d time.Duration) { time.Sleep(d) }
