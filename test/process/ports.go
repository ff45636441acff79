package process

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports that tests use: below those that the system gives to outgoing connections, and above
// those of common services. The end-to-end tests take theirs in the same way.
const (
	firstPort = 12000
	lastPort  = 31999
	// blockSize is how many of them a process of tests takes at once. It listens on the first of them as
	// long as it lives, so that other processes see that the block is taken: those of a server that is
	// dead or has not come up look free.
	blockSize = 200
)

// blocks are those of this process.
var blocks struct {
	sync.Mutex
	all []*block
}

// block is a row of ports that this process has.
type block struct {
	guard     net.Listener // on the first
	next, end int          // what was not given yet
}

// FreePorts returns the first of so many free ports in a row. No other test gets them, of this process
// or another one.
func FreePorts(t testing.TB, count int) int {
	t.Helper()
	blocks.Lock()
	defer blocks.Unlock()
	for _, b := range blocks.all {
		if first := b.take(count); first != 0 {
			return first
		}
	}
	for _, i := range rand.Perm((lastPort + 1 - firstPort) / blockSize) {
		start := firstPort + i*blockSize
		guard, err := net.Listen("tcp", Address(start))
		if err != nil {
			continue
		}
		b := &block{guard: guard, next: start + 1, end: start + blockSize}
		blocks.all = append(blocks.all, b)
		if first := b.take(count); first != 0 {
			return first
		}
	}
	t.Fatalf("there are no %d free ports in a row", count)
	return 0
}

// take returns the first of so many free ports in a row; 0 when there are none.
func (b *block) take(count int) int {
	for b.next+count <= b.end {
		first := b.next
		taken := firstTaken(first, count)
		if taken < 0 {
			b.next = first + count
			return first
		}
		b.next = taken + 1
	}
	return 0
}

// firstTaken returns the first of the ports that somebody has; -1 when nobody does.
func firstTaken(first, count int) int {
	for port := first; port < first+count; port++ {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return port
		}
		_ = listener.Close() // it was only to see
	}
	return -1
}

// Address is a port of this machine as host:port.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
