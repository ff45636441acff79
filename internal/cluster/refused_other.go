//go:build !windows

package cluster

import (
	"errors"
	"syscall"
)

// refused says whether nobody listened at an address.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
