//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package transport

import (
	"errors"
	"net"
)

// eventLoops does not exist where gnet has no poller: every connection keeps a goroutine.
type eventLoops struct{}

func startEventLoops(*Server, int) (*eventLoops, error) { return nil, errors.ErrUnsupported }

func (*eventLoops) stop() error { return nil }

func (*eventLoops) enroll(*Conn, net.Conn, []byte) error { return errors.ErrUnsupported }
