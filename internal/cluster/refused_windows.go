package cluster

import (
	"errors"
	"syscall"
)

// wsaConnRefused is WSAECONNREFUSED; syscall.ECONNREFUSED is another number on Windows.
const wsaConnRefused = syscall.Errno(10061)

// refused says whether nobody listened at an address.
func refused(err error) bool { return errors.Is(err, wsaConnRefused) }
