package process

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports that tests use: below those that the system gives to outgoing connections, and above
// those of common services.
const (
	firstPort = 12000
	lastPort  = 31999
)

// given are the ports that tests of this process have got: those of a process that is dead look
// free, and it may be started again.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePorts returns the first of so many free ports in a row. No other test of this process gets
// them.
func FreePorts(t testing.TB, count int) int {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	for range 1000 { // from a random place, as other processes look for ports too
		first := firstPort + rand.IntN(lastPort-firstPort-count)
		if !free(first, count) {
			continue
		}
		for port := first; port < first+count; port++ {
			given.ports[port] = true
		}
		return first
	}
	t.Fatalf("there are no %d free ports in a row", count)
	return 0
}

// free says whether nobody has the ports. The caller holds given.
func free(first, count int) bool {
	for port := first; port < first+count; port++ {
		if given.ports[port] {
			return false
		}
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return false
		}
		_ = listener.Close() // it was only to see
	}
	return true
}

// Address is a port of this machine as host:port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
